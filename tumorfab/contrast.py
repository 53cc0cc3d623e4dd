"""Intensities relative to a brain's own white matter, in units of its own spread.

Donor and host were scanned on different machines. Expressed relative to its own tissue, a tumour
voxel means the same in both brains: 0 is white matter, and 1 the robust standard deviation of the
brain, which is also what a network sees once its input is normalised.

Distances between tissues would be the more physical units and were tried. That of grey and white
matter differs most between scanners, and tumours came out brighter or darker than they are
anywhere; measured by that of white matter and ventricles they had less contrast than real ones have
after normalisation, and a network trained on them found patients' tumours worse.
"""

from collections.abc import Sequence
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
# Width (mm, standard deviation) of the edge across which a tumour's contrast changes.
SOFT_MM = 2.0


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
    brain: NDArray[np.bool_],
    exclude: NDArray[np.bool_] | None = None,
) -> Reference:
    """Reference of one modality of one brain.

    `image`, `wm` (posterior in 0..1), `brain` and `exclude` (tumour, left out) are (I, J, K) on one
    grid. The centre is the median of white matter; the scale the interquartile range of the brain
    as a normal distribution's standard deviation. The sign of the contrast is kept by the image,
    not by the scale, which is positive. Raises `InputError` when there is no white matter.
    """
    keep = np.ones(image.shape, bool) if exclude is None else ~exclude
    white = image[(wm > SURE) & keep]
    if white.size < 20:
        raise InputError("tissue maps hold no white matter; check the registration")
    low, high = np.percentile(image[brain & keep], (25, 75))
    return Reference(float(np.median(white)), max(float(high - low) / 1.349, 1e-6))


def tissue_relative(images: list[Image], references: list[list[float]]) -> list[Image]:
    """Image units to tissue-relative units, per modality, by its [centre, scale]; the background
    (exactly 0 in every modality) stays 0."""
    brain = np.any([image != 0 for image in images], axis=0)
    return [
        np.where(brain, Reference(*pair).relative(image), 0).astype(np.float32)
        for image, pair in zip(images, references, strict=True)
    ]


def as_donated(
    labels: Labels, factors: Sequence[float], spacing: NDArray[np.float64]
) -> NDArray[np.float32]:
    """What tissue-relative images of a synthetic sample are to be multiplied by so that its tumours
    have the contrast of their donors, as real ones do, and the brain keeps its own: (M, I, J, K).

    Neither refiner nor gate may take for a fault what `place.contrast` varied by `factors`
    (`samples.contrasts`). Smooth across the edge of the `labels` (I, J, K); `spacing` in mm.
    """
    inside = ndimage.gaussian_filter((labels > 0).astype(np.float32), SOFT_MM / spacing)
    by = 1 / np.array(factors, np.float32)[:, None, None, None]
    return np.asarray(1 + inside * (by - 1), np.float32)


def grain(image: Image, mask: NDArray[np.bool_], spacing: NDArray[np.float64]) -> float:
    """Standard deviation in `mask` of what is finer than `FINE_MM` there; 0 for an empty mask."""
    if not mask.any():
        return 0.0
    where = box(mask, 1)
    fine = image[where] - fields.coarse(image[where], mask[where], spacing, FINE_MM)
    return float(fine[mask[where]].std())


def measured(
    images: dict[str, Image],
    wm: Image,
    brain: NDArray[np.bool_],
    exclude: NDArray[np.bool_],
    spacing: NDArray[np.float64],
) -> tuple[dict[str, Reference], dict[str, float]]:
    """Reference of every modality of one brain, and the grain of its white matter in those units.
    Arguments and errors as of `reference`."""
    references = {m: reference(image, wm, brain, exclude) for m, image in images.items()}
    white = (wm > SURE) & ~exclude
    grains = {m: grain(references[m].relative(x), white, spacing) for m, x in images.items()}
    return references, grains


def near_tumour(labels: Labels, grid: Grid) -> NDArray[np.bool_]:
    """The tumour and the tissue within `NEAR_MM` of it."""
    if not labels.any():
        return np.zeros(labels.shape, bool)
    return np.asarray(ndimage.distance_transform_edt(labels == 0, sampling=grid.spacing) < NEAR_MM)
