"""A brain that receives tumours: its images and all that placement must know of it."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumorfab import bank, mass_effect
from tumorfab.anatomy import Plane
from tumorfab.contrast import Reference, reference
from tumorfab.stage import InputError, read_json
from tumorfab.volume import Grid, Image, Labels, load_grid, load_on

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Host:
    """A brain on the analysis grid; all arrays (I, J, K).

    `csf` and `wm` are tissue shares in 0..1, `to_mni` (4, 4) takes RAS+ mm to MNI152, `labels` are
    the tumours that it has already (0, 1 NCR, 2 ED, 3 ET), `changed` the voxels that are no longer
    the healthy scan's, `jacobian` the smallest one of any displacement so far and `moved_mm` the
    largest displacement. `falx` is on blocks (see `mass_effect.falx`); `sites` keeps what
    `draw.host_sites` has found.
    """

    subject: str
    images: dict[str, Image]
    references: dict[str, Reference]
    brain: Mask
    csf: Image
    wm: Image
    ventricles: Mask
    labels: Labels
    plane: Plane
    falx: Mask
    to_mni: NDArray[np.float64]
    grid: Grid
    changed: Mask = field(repr=False)
    jacobian: float = 1.0
    moved_mm: float = 0.0
    sites: dict[Any, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def tissue(self) -> Mask:
        """Where a tumour may begin."""
        return self.brain & (self.csf < 0.5) & ~self.ventricles & (self.labels == 0)

    def copy(self) -> "Host":
        """A host whose arrays can be changed without changing this one's."""
        return replace(
            self,
            images={m: image.copy() for m, image in self.images.items()},
            **{name: getattr(self, name).copy() for name in ("csf", "wm", "ventricles")},
            **{name: getattr(self, name).copy() for name in ("labels", "changed")},
        )


def load_host(subject: str, anat: Path, label: str, modalities: list[str]) -> Host:
    """Read a standardised healthy subject. Raises `InputError` for a missing or unfit file."""
    files = bank.case_files(anat, subject, label)
    grid = load_grid(files["brain"])

    def read(path: Path | str, labels: bool = False) -> NDArray:
        # Files hold I fastest; everything here works fastest with K so.
        return np.ascontiguousarray(load_on(path, grid, labels))

    wm, csf = (read(files[t]) for t in ("WM", "CSF"))
    ventricles = read(files["ventricles"], labels=True) > 0
    images = {m: read(str(files["image"]).format(m)) for m in modalities}
    try:
        references = {m: reference(image, wm, ventricles) for m, image in images.items()}
    except InputError as error:
        raise InputError(f"sub-{subject}: {error}") from None
    about = read_json(files["about"])
    found = about["midsagittal_plane"]
    plane = Plane(tuple(found["point_mm"]), tuple(found["normal"]))
    brain = read(files["brain"], labels=True) > 0
    return Host(
        subject,
        images,
        references,
        brain,
        csf,
        wm,
        ventricles,
        np.zeros(grid.shape, np.uint8),
        plane,
        mass_effect.falx(brain, grid, plane),
        np.array(about["mni_from_space"]),
        grid,
        np.zeros(grid.shape, bool),
    )
