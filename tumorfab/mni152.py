"""The template: ICBM 2009a symmetric (MNI152NLin2009aSym), as the nilearn package ships it.

Fonov et al., NeuroImage 2011. Its brain mask holds everything inside the skull: brain, ventricles
and the CSF of the sulci.
"""

import importlib.util
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from scipy import ndimage

from tumorfab import register, volume
from tumorfab.register import Mask
from tumorfab.stage import InputError
from tumorfab.volume import Grid, Image, Volume

# BIDS label of the template.
SPACE = "MNI152NLin2009aSym"
# Brightness of CSF, GM and WM in contrasts that are not the template's own.
CONTRAST = {"T2w": (3.0, 1.5, 1.0), "FLAIR": (0.3, 1.25, 1.0)}
# CSF this near (mm) to the edge of the mask is outer CSF.
OUTER_MM = 8.0
# Cisterns and fissures reach the brain's edge; what CSF lies deeper than this (mm) does not.
DEEP_MM = 20.0
# A point in both lateral ventricles of MNI152, posterior-anterior and up, 10 mm off the middle.
VENTRICLE_MM = (0.0, 20.0)


@dataclass(frozen=True, eq=False)
class Template:
    """MNI152: T1-weighted brain, tissue probabilities in 0..1 (0 outside the mask), mask. All
    arrays are on the grid of `t1`."""

    t1: Volume
    csf: Image
    gm: Image
    wm: Image
    mask: Mask

    @cached_property
    def distance(self) -> Image:
        """Distance in mm to the edge of the mask, negative inside."""
        return signed_distance(self.mask, self.t1.grid)

    def contrast(self, modality: str, stripped: bool) -> Volume:
        """The template as `modality` would show it: itself for T1w and T1c, else from its tissues.

        Stripping may have cut the outer CSF away, so that a `stripped` template has none.
        """
        if modality not in CONTRAST:
            return self.t1
        csf, gm, wm = CONTRAST[modality]
        kept = self.csf * (self.distance < -OUTER_MM) if stripped else self.csf
        return Volume(csf * kept + gm * self.gm + wm * self.wm, self.t1.affine)

    @cached_property
    def ventricles(self) -> Mask:
        """The lateral ventricles: of the CSF deep in the brain the piece around their middle."""
        pieces, _ = ndimage.label((self.csf > 0.5) & (self.distance < -DEEP_MM))
        inside = [
            tuple(np.rint(np.linalg.inv(self.t1.affine) @ [x, *VENTRICLE_MM, 1])[:3].astype(int))
            for x in (-10, 10)
        ]
        return np.isin(pieces, [pieces[at] for at in inside])


def maps() -> list[Volume]:
    """T1 and the probabilities of GM and WM, all 0..255 at 1 mm, as the files hold them.

    They are read from the installed nilearn package without importing that, which would take
    seconds. Raises `InputError` where nilearn is not installed.
    """
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise InputError(
            "nilearn: not installed, and it holds the MNI template; pip install nilearn"
        )
    name = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
    folder = Path(spec.origin).parent / "datasets" / "data"
    return [volume.load(folder / name.format(kind)) for kind in ("t1", "gm", "wm")]


@cache
def template(mm: float = 1.0) -> Template:
    """The template at 1 mm, or averaged over blocks of `mm`. Raises `InputError` as `maps` does."""
    full = maps()
    inside = Volume(full[0].data > 0, full[0].affine)
    t1, grey, white, share = (register.shrunk(part, mm) for part in (*full, inside))
    mask = share.data >= 0.5
    gm, wm = (np.where(mask, tissue.data / 255, 0).astype(np.float32) for tissue in (grey, white))
    csf = np.where(mask, np.clip(1 - gm - wm, 0, 1), 0).astype(np.float32)
    return Template(t1, csf, gm, wm, mask)


def signed_distance(mask: Mask, grid: Grid) -> Image:
    """Signed distance in mm to the edge of `mask`, negative inside."""
    outside = ndimage.distance_transform_edt(~mask, sampling=grid.spacing)
    return (outside - ndimage.distance_transform_edt(mask, sampling=grid.spacing)).astype(
        np.float32
    )
