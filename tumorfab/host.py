"""A brain that receives tumours: its images and all that placement must know of it."""

from dataclasses import dataclass, field
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
    largest displacement. `sites` keeps what `draw.host_sites` has found.
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
    to_mni: NDArray[np.float64]
    grid: Grid
    changed: Mask = field(repr=False)
    jacobian: float = 1.0
    moved_mm: float = 0.0
    sites: dict[Any, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def falx(self) -> Mask:
        """See `mass_effect.falx`."""
        return mass_effect.falx(self.brain, self.grid, self.plane)

    @cached_property
    def tissue(self) -> Mask:
        """Where a tumour may begin."""
        return self.brain & (self.csf < 0.5) & ~self.ventricles & (self.labels == 0)


def load_host(subject: str, anat: Path, label: str, modalities: list[str]) -> Host:
    """Read a standardised healthy subject. Raises `InputError` for a missing or unfit file."""
    files = bank.case_files(anat, subject, label)
    grid = load_grid(files["brain"])
    wm, gm, csf = (load_on(files[t], grid) for t in ("WM", "GM", "CSF"))
    images = {m: load_on(str(files["image"]).format(m), grid) for m in modalities}
    try:
        references = {m: reference(image, wm, gm) for m, image in images.items()}
    except InputError as error:
        raise InputError(f"sub-{subject}: {error}") from None
    about = read_json(files["about"])
    plane = about["midsagittal_plane"]
    brain = load_on(files["brain"], grid, labels=True) > 0
    return Host(
        subject,
        images,
        references,
        brain,
        csf,
        wm,
        load_on(files["ventricles"], grid, labels=True) > 0,
        np.zeros(grid.shape, np.uint8),
        Plane(tuple(plane["point_mm"]), tuple(plane["normal"])),
        np.array(about["mni_from_space"]),
        grid,
        np.zeros(grid.shape, bool),
    )
