"""Intensities relative to a brain's own white matter and ventricles.

Donor and host were scanned on different machines. Expressed relative to its own tissue, a tumour
voxel means the same in both brains: 0 is white matter, and the fluid in the ventricles lies at
distance 1 from it. Outer CSF would not do: stripping cuts it away or leaves dark rims in it.

Grey and white matter would be the nearer anchors, but their distance is what differs most between
scanners: in T1w it is a fifth of the distance to CSF in some brains and less than half that in
others, so that tumours measured by it became brighter or darker than they are anywhere.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tumorfab import fields
from tumorfab.stage import InputError
from tumorfab.volume import Grid, Image, Labels, box

# A voxel that is white matter with more than this probability stands for it.
SURE = 0.7
# Grain is what is finer than about this (mm): noise, and structure that oedema lets show.
FINE_MM = 6.0
# Tissue this near (mm) to a tumour is infiltrated or displaced: it must not set the reference.
NEAR_MM = 5.0


@dataclass(frozen=True)
class Reference:
    """Map from image units to tissue-relative ones: `relative = (x - centre) / scale`."""

    centre: float
    scale: float

    def relative(self, image: NDArray) -> NDArray:
        """Image units to tissue-relative units."""
        return (image - self.centre) / self.scale

    def absolute(self, image: NDArray) -> NDArray:
        """Tissue-relative units to image units."""
        return image * self.scale + self.centre


def reference(
    image: Image,
    wm: Image,
    ventricles: NDArray[np.bool_],
    exclude: NDArray[np.bool_] | None = None,
) -> Reference:
    """Reference of one modality of one brain.

    `image`, `wm` (posterior in 0..1), `ventricles` and `exclude` (tumour, left out) are (I, J, K)
    on one grid. The centre is the median of white matter; the scale its distance from that of the
    ventricles, or the spread within white matter where that is larger. The sign of the contrast is
    kept by the image, not by the scale, which is positive. Raises `InputError` when either is
    missing.
    """
    keep = np.ones(image.shape, bool) if exclude is None else ~exclude
    white, fluid = image[(wm > SURE) & keep], image[ventricles & keep]
    if min(white.size, fluid.size) < 20:
        missing = "white matter" if white.size < 20 else "ventricles"
        raise InputError(f"tissue maps hold no {missing}; check the registration")
    centre = float(np.median(white))
    spread = float(np.percentile(white, 75) - np.percentile(white, 25)) / 1.349
    return Reference(centre, max(abs(centre - float(np.median(fluid))), spread, 1e-6))


def grain(image: Image, mask: NDArray[np.bool_], spacing: NDArray[np.float64]) -> float:
    """Standard deviation in `mask` of what is finer than `FINE_MM` there; 0 for an empty mask."""
    if not mask.any():
        return 0.0
    where = box(mask, 1)
    fine = image[where] - fields.coarse(image[where], mask[where], spacing, FINE_MM)
    return float(fine[mask[where]].std())


def near_tumour(labels: Labels, grid: Grid) -> NDArray[np.bool_]:
    """The tumour and the tissue within `NEAR_MM` of it."""
    if not labels.any():
        return np.zeros(labels.shape, bool)
    return np.asarray(ndimage.distance_transform_edt(labels == 0, sampling=grid.spacing) < NEAR_MM)
