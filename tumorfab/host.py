"""A brain that receives tumours: its images and all that placement must know of it."""

import sys
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumorfab import bank, mass_effect, patient
from tumorfab.anatomy import Plane
from tumorfab.contrast import Reference, measured, near_tumour
from tumorfab.stage import InputError, read_json
from tumorfab.volume import Grid, Image, Labels, lattice, load_grid, load_on

Mask = NDArray[np.bool_]

# Arrays that a tumour changes, beside the images.
OWN = ("csf", "wm", "ventricles", "labels", "changed")
# A second tumour begins at least this far (mm) from the first.
APART_MM = 15.0


@dataclass(frozen=True, eq=False)
class Host:
    """A brain on the analysis grid; all arrays (I, J, K).

    `grains` are those of its white matter in tissue-relative units (see `contrast.grain`),
    `csf` and `wm` are tissue shares in 0..1, `to_mni` (4, 4) takes RAS+ mm to MNI152, `labels` are
    the tumours that it has already (0, 1 NCR, 2 ED, 3 ET), `room` is where others may begin,
    `changed` the voxels that are no longer the healthy scan's, `jacobian` the smallest one of any
    displacement so far and `moved_mm` the largest displacement. `falx` is on blocks (see
    `mass_effect.falx`); `sites` keeps what `draw.host_sites` has found.
    """

    subject: str
    images: dict[str, Image]
    references: dict[str, Reference]
    grains: dict[str, float]
    brain: Mask
    csf: Image
    wm: Image
    ventricles: Mask
    labels: Labels
    room: Mask
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
        return self.room & (self.csf < 0.5) & ~self.ventricles & (self.labels == 0)

    @cached_property
    def lattices(self) -> dict[str, float]:
        """Step between the values that a file of each image holds (`volume.lattice`)."""
        return {m: lattice(image) for m, image in self.images.items()}

    def copy(self, used: "Host | None" = None) -> "Host":
        """A host whose arrays can be changed without changing this one's: those of a `used` copy
        that nobody needs any more (fresh memory costs three times the copying), or new ones."""
        if used is None:
            images = {m: np.empty_like(image) for m, image in self.images.items()}
            used = replace(
                self, images=images, **{name: np.empty_like(getattr(self, name)) for name in OWN}
            )
        for modality, image in self.images.items():
            np.copyto(used.images[modality], image)
        for name in OWN:
            np.copyto(getattr(used, name), getattr(self, name))
        return replace(used, jacobian=self.jacobian, moved_mm=self.moved_mm)


def load_host(subject: str, anat: Path, label: str, modalities: list[str]) -> Host:
    """Read a standardised healthy subject. Raises `InputError` for a missing or unfit file."""
    files = bank.case_files(anat, subject, label)
    grid = load_grid(files["brain"])
    return _load(subject, files, modalities, np.zeros(grid.shape, np.uint8), grid)


def load_patient(subject: str, anat: Path, label: str, modalities: list[str], way: str) -> Host:
    """Read a standardised training case as a host. `way` healed: the healthy side, mirrored, takes
    the tumour's place; kept: the tumour stays, and others begin in the other hemisphere. A patient
    who cannot be healed is kept, and the reason printed. Raises `InputError` as `load_host` does.
    """
    files = bank.case_files(anat, subject, label)
    grid = load_grid(files["brain"])
    labels = _read(files["dseg"], grid, labels=True)
    host = _load(subject, files, modalities, labels, grid)
    if way == "healed":
        tissues = {"CSF": host.csf, "GM": _read(files["GM"], grid), "WM": host.wm}
        try:
            found = patient.healed(
                host.images, tissues, host.ventricles, host.brain, labels, host.plane, grid
            )
            return replace(
                host,
                images=found.images,
                csf=found.tissues["CSF"],
                wm=found.tissues["WM"],
                ventricles=found.ventricles,
            )
        except ValueError as reason:
            print(f"sub-{subject}: kept as it is: {reason}", file=sys.stderr, flush=True)
    room = patient.room(labels, host.brain, host.plane, grid, APART_MM)
    return replace(host, labels=labels, room=room)


def _load(
    subject: str, files: dict[str, Path], modalities: list[str], tumour: Labels, grid: Grid
) -> Host:
    """The host as if it had no tumour; tissue near its `tumour`, infiltrated or displaced, sets no
    reference."""
    csf, wm = (_read(files[t], grid) for t in ("CSF", "WM"))
    brain, ventricles = (_read(files[n], grid, labels=True) > 0 for n in ("brain", "ventricles"))
    images = {m: _read(str(files["image"]).format(m), grid) for m in modalities}
    try:
        references, grains = measured(images, wm, brain, near_tumour(tumour, grid), grid.spacing)
    except InputError as error:
        raise InputError(f"sub-{subject}: {error}") from None
    about = read_json(files["about"])
    found = about["midsagittal_plane"]
    plane = Plane(tuple(found["point_mm"]), tuple(found["normal"]))
    return Host(
        subject,
        images,
        references,
        grains,
        brain,
        csf,
        wm,
        ventricles,
        np.zeros(grid.shape, np.uint8),
        brain,
        plane,
        mass_effect.falx(brain, grid, plane),
        np.array(about["mni_from_space"]),
        grid,
        np.zeros(grid.shape, bool),
    )


def _read(path: Path | str, grid: Grid, labels: bool = False) -> NDArray:
    # Files hold I fastest; everything here works fastest with K so.
    return np.ascontiguousarray(load_on(path, grid, labels))
