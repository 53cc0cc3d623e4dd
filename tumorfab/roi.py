"""A real tumour taken apart: shape, look and texture, so that it can be put together anew.

The shape is held as signed distances, which can be moved, mixed and grown; the look as mean and
covariance of each class over the modalities, relative to the patient's own tissue; the texture is
what remains of the image when these are taken out.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tumorfab.contrast import Reference, grain
from tumorfab.volume import Box, Grid, Image, Labels

Look = dict[str, dict[str, NDArray[np.float64]]]

CLASSES = {1: "NCR", 2: "ED", 3: "ET"}
MARGIN_MM = 8.0
SMALLEST_MM3 = 300.0
# Width (mm) over which one class gives way to another at their boundary: partial volume.
PARTIAL_MM = 2.0
# Signed distances are kept within this (mm).
FAR_MM = 60.0
# A class of fewer voxels has no look of its own.
FEW = 20
# Texture beyond this many standard deviations is another structure.
MOST_SD = 4.0


@dataclass(frozen=True, eq=False)
class Roi:
    """One tumour; all arrays (I, J, K) on one grid of `spacing` mm.

    `labels` uint8; `core` (NCR with ET), `necrosis` and `whole` are signed distances to their
    boundaries in mm, negative inside. `look` holds per class the `mean` (M) and `covariance` (M, M)
    over the modalities in tissue-relative units, and of ED the `grain` (M), that of the patient's
    white matter being 1; `texture` per modality what is left of the core's
    intensities, in standard deviations, mirrored outwards at the core's boundary.
    """

    donor: str
    index: int
    labels: Labels
    core: Image
    necrosis: Image
    whole: Image
    texture: dict[str, Image]
    look: Look
    spacing: NDArray[np.float64]

    @property
    def name(self) -> str:
        """Unique name of the ROI in its bank."""
        return f"{self.donor}-{self.index}"


def extract(
    donor: str,
    images: dict[str, Image],
    labels: Labels,
    references: dict[str, Reference],
    grains: dict[str, float],
    grid: Grid,
) -> list[tuple[Roi, Box]]:
    """The connected tumours of one case that have a core, largest first, each with its box in the
    case.

    Components are 26-connected over the whole tumour; those below 300 mm^3 are specks of the
    annotation and are left out, unless nothing else is there. Each box has a margin of 8 mm; voxels
    of other components inside it become background, so that each ROI is one tumour.
    """
    components, count = ndimage.label(labels > 0, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:] * grid.voxel_volume
    order = [int(i) for i in np.argsort(-sizes, kind="stable")]
    kept = [i for i in order if sizes[i] >= SMALLEST_MM3] or order[:1]
    boxes = ndimage.find_objects(components)
    margin = np.ceil(MARGIN_MM / grid.spacing).astype(int)
    rois: list[tuple[Roi, Box]] = []
    for component in kept:
        box = tuple(
            slice(max(0, s.start - int(m)), min(n, s.stop + int(m)))
            for s, m, n in zip(boxes[component], margin, labels.shape, strict=True)
        )
        own = np.where(components[box] == component + 1, labels[box], 0).astype(np.uint8)
        if not np.isin(own, (1, 3)).any():
            continue  # oedema alone has no shape to grow from
        relative = {m: references[m].relative(image[box]) for m, image in images.items()}
        rois.append((analysed(donor, len(rois), own, relative, grains, grid.spacing), box))
    return rois


def analysed(
    donor: str,
    index: int,
    labels: Labels,
    images: dict[str, Image],
    grains: dict[str, float],
    spacing: NDArray[np.float64],
) -> Roi:
    """Shape, look and texture of one tumour from its labels and tissue-relative images; `grains`
    of the patient's white matter (see `contrast.grain`)."""
    core = np.isin(labels, (1, 3))
    signed = {
        "core": signed_distance(core, spacing),
        "necrosis": signed_distance(labels == 1, spacing),
        "whole": signed_distance(labels > 0, spacing),
    }
    stacked = np.stack(list(images.values())).astype(np.float64)
    look = {}
    # A class that is hardly there borrows the look of the core.
    common = stacked[:, core]
    for value, name in CLASSES.items():
        values = stacked[:, labels == value]
        values = values if values.shape[1] >= FEW else common
        covariance = np.atleast_2d(np.cov(values)) if values.shape[1] > 1 else np.eye(len(values))
        look[name] = {"mean": values.mean(1), "covariance": covariance}
    oedema = labels == 2
    look["ED"]["grain"] = np.array(
        [
            grain(image, oedema, spacing) / max(grains[m], 1e-6) if oedema.sum() >= FEW else 1.0
            for m, image in images.items()
        ]
    )
    share = shares(signed["core"], signed["necrosis"], PARTIAL_MM)
    mean, sd = mixed(look, share)
    texture = np.clip((stacked - mean) / sd, -MOST_SD, MOST_SD)
    mirrored = _mirrored(signed["core"] < 0, spacing)
    texture = {
        m: part[mirrored].astype(np.float32) for m, part in zip(images, texture, strict=True)
    }
    return Roi(donor, index, labels, **signed, texture=texture, look=look, spacing=spacing)


def signed_distance(mask: NDArray[np.bool_], spacing: NDArray[np.float64]) -> Image:
    """Distance (mm) to the boundary of `mask`, which runs between voxels; negative inside."""
    if mask.all() or not mask.any():
        return np.full(mask.shape, -FAR_MM if mask.all() else FAR_MM, np.float32)
    half = float(spacing.mean()) / 2
    outward = ndimage.distance_transform_edt(~mask, sampling=spacing)
    inward = ndimage.distance_transform_edt(mask, sampling=spacing)
    signed = np.where(mask, half - inward, outward - half)
    return np.clip(signed, -FAR_MM, FAR_MM).astype(np.float32)


def shares(core: Image, necrosis: Image, width_mm: float) -> dict[str, Image]:
    """How much of a voxel is NCR, ED (all that is not core) and ET, from signed distances (mm);
    each boundary is `width_mm` wide, and each class has half of the voxels on it."""
    inside, dead = soft(core, width_mm), soft(necrosis, width_mm)
    return {"NCR": inside * dead, "ED": 1 - inside, "ET": inside * (1 - dead)}


def soft(distance: Image, width_mm: float) -> Image:
    """1 inside, 0 outside, linear over `width_mm` across the boundary, 0.5 on it."""
    if width_mm == 0:
        return (distance < 0).astype(np.float32)
    return np.clip(0.5 - distance / np.float32(width_mm), 0, 1)


def mixed(look: Look, share: dict[str, Image]) -> tuple[NDArray, NDArray]:
    """Mean and standard deviation (M, ...) of voxels that hold `share` of each class."""
    parts = np.stack([np.asarray(part, np.float32) for part in share.values()])
    means = np.stack([look[name]["mean"] for name in share], 1).astype(np.float32)
    sds = np.stack([np.sqrt(np.diag(look[name]["covariance"])) for name in share], 1)
    sd = np.tensordot(sds.astype(np.float32), parts, 1)
    return np.tensordot(means, parts, 1), np.maximum(sd, np.float32(1e-3))


def _mirrored(core: NDArray[np.bool_], spacing: NDArray[np.float64]) -> tuple[NDArray, ...]:
    """For every voxel the index of the one whose texture it shows: itself in the core; outside, the
    mirror image about the nearest voxel of the core, or that voxel where the core is too thin."""
    nearest = ndimage.distance_transform_edt(
        ~core, sampling=spacing, return_distances=False, return_indices=True
    )
    size = np.array(core.shape)[:, None, None, None]
    mirrored = 2 * nearest - np.indices(core.shape)
    valid = ((mirrored >= 0) & (mirrored < size)).all(0)
    mirrored = np.where(valid, mirrored, nearest)
    thin = ~core[tuple(mirrored)]
    return tuple(np.where(thin, nearest, mirrored))


def core_mm3(about: dict[str, Any]) -> float:
    """Volume of the tumour core (NCR and ET) of a described ROI."""
    return float(about["classes"]["NCR"]["volume_mm3"] + about["classes"]["ET"]["volume_mm3"])
