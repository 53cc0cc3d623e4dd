"""What one tumour looks like, in numbers: intensities, texture, boundary, shape and place.

Pure functions on arrays (I, J, K). Images are relative to the brain's own tissue
(`contrast.Reference.relative`), labels are 0, 1 NCR, 2 ED, 3 ET, spacing is in mm. What cannot be
measured, such as a class that the tumour does not have, is NaN.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats
from scipy.spatial import KDTree
from skimage import feature, measure

from tumorfab.metrics import region_masks
from tumorfab.roi import CLASSES, signed_distance
from tumorfab.volume import Image, Labels, box

Mask = NDArray[np.bool_]
Spacing = NDArray[np.float64]

FAR_MM = 16.0
FEWEST = 20  # voxels; statistics of fewer say nothing
BIN = 0.15  # of the brain's spread: bins of the histogram for the entropy
LEVELS = 16  # grey levels of the co-occurrence matrix, which fewer voxels do not fill
FEWEST_TEXTURE = 200
FIRST_ORDER = ("mean", "sd", "skewness", "kurtosis", "entropy")
SECOND_ORDER = ("contrast", "homogeneity", "energy", "correlation")


@dataclass(frozen=True, eq=False)
class Tumour:
    """One tumour in a brain; all arrays (I, J, K).

    A real one has its patient as donor and as host. `brain` leaves out other tumours, if there are
    any, so that they are not taken for the tissue around this one.
    """

    donor: str
    host: str
    images: dict[str, Image]
    labels: Labels
    brain: Mask
    ventricles: Mask
    spacing: Spacing


def features(tumour: Tumour) -> dict[str, float]:
    """All measures of one tumour by name, e.g. `T1w ED skewness` or `TC sphericity`.

    `far` in the place of a class is the brain away from the tumour: what differs there is not the
    tumour's doing.
    """
    core = region_masks(tumour.labels)["TC"]
    clear = tumour.ventricles & (tumour.labels == 0)  # a dark core can be taken for a ventricle
    far = distant(tumour)
    around = box(tumour.labels > 0, margin=3)
    labels, brain = tumour.labels[around], tumour.brain[around]
    regions = region_masks(labels)
    found = {
        "volume, ml": float((labels > 0).sum() * tumour.spacing.prod() / 1000),
        "core to ventricle, mm": distance_to(core, clear, tumour.spacing),
    }
    for value, name in CLASSES.items():
        found[f"{name} share"] = float((labels == value).sum() / (labels > 0).sum())
    for region in ("WT", "TC"):
        found[f"{region} sphericity"] = sphericity(regions[region], tumour.spacing)
    for modality, whole in tumour.images.items():
        image = whole[around]
        for value, name in CLASSES.items():
            inside = labels == value
            found |= _named(f"{modality} {name}", image, inside)
        for region in ("WT", "TC"):
            sharp = sharpness(image, regions[region], brain, tumour.spacing)
            found[f"{modality} {region} sharpness"] = sharp
        found |= _named(f"{modality} far", whole, far)
    return found


def _named(name: str, image: Image, mask: Mask) -> dict[str, float]:
    measures = first_order(image[mask]) | cooccurrence(image, mask)
    return {f"{name} {key}": value for key, value in measures.items()}


def distant(tumour: Tumour) -> Mask:
    """The brain at least 16 mm away from the tumour, without the two voxels at its edge, which
    measures of a neighbourhood reach across."""
    depth = signed_distance(tumour.labels > 0, tumour.spacing)
    return ndimage.binary_erosion(tumour.brain, iterations=2) & (depth > FAR_MM)


def intensities(tumour: Tumour) -> dict[str, NDArray[np.float64]]:
    """101 quantiles of the intensities by modality and class (`T1w ED`), for the classes it has.

    Quantiles make a large tumour count as much as a small one when several are pooled.
    """
    levels = np.linspace(0, 1, 101)
    return {
        f"{modality} {name}": np.quantile(image[tumour.labels == value], levels)
        for modality, image in tumour.images.items()
        for value, name in CLASSES.items()
        if (tumour.labels == value).sum() >= FEWEST
    }


def first_order(values: NDArray) -> dict[str, float]:
    """Mean, sd, skewness, excess kurtosis and entropy (bits) of (n,) intensities."""
    if values.size < FEWEST or np.ptp(values) == 0:
        return dict.fromkeys(FIRST_ORDER, np.nan)
    x = values.astype(np.float64)
    _, counts = np.unique(np.floor(x / BIN), return_counts=True)
    numbers = x.mean(), x.std(), stats.skew(x), stats.kurtosis(x), stats.entropy(counts, base=2)
    return dict(zip(FIRST_ORDER, map(float, numbers), strict=True))


def cooccurrence(image: Image, mask: Mask) -> dict[str, float]:
    """Haralick's measures of neighbouring voxels in the planes I, J, both inside `mask`.

    Grey levels divide the range from the mask's 1st to its 99th percentile, so that brightness
    and contrast, which `first_order` has, do not count again.
    """
    nothing = dict.fromkeys(SECOND_ORDER, np.nan)
    if mask.sum() < FEWEST_TEXTURE:
        return nothing
    low, high = np.percentile(image[mask], (1, 99))
    if low == high:
        return nothing
    level = np.floor((image - low) / (high - low) * LEVELS)
    grey = np.where(mask, 1 + np.clip(level, 0, LEVELS - 1), 0).astype(np.uint8)
    angles = np.arange(4) * np.pi / 4
    counts = np.zeros((LEVELS, LEVELS, 1, 1))
    for plane in np.moveaxis(grey, -1, 0):
        if plane.any():
            pairs = feature.graycomatrix(plane, [1], angles, LEVELS + 1, symmetric=True)
            counts += pairs[1:, 1:].sum(axis=3, keepdims=True)  # level 0 is outside the mask
    if not counts.any():
        return nothing
    return {name: float(feature.graycoprops(counts, name)[0, 0]) for name in SECOND_ORDER}


def gradient(image: Image, spacing: Spacing) -> Image:
    """Magnitude of the gradient, per mm."""
    return np.sqrt(sum(slope**2 for slope in np.gradient(image, *spacing))).astype(np.float32)


def sharpness(image: Image, mask: Mask, brain: Mask, spacing: Spacing) -> float:
    """Mean gradient within a voxel of the boundary of `mask`, relative to that deeper inside.

    1 where the boundary cannot be told from the inside. The edge of the brain is no boundary of
    the tumour and is left out.
    """
    depth = signed_distance(mask, spacing)
    slope = gradient(image, spacing)
    safe = ndimage.binary_erosion(brain)
    reach = float(spacing.mean())
    across, inside = slope[safe & (np.abs(depth) <= reach)], slope[safe & (depth < -reach)]
    if min(across.size, inside.size) < FEWEST or not inside.any():
        return np.nan
    return float(across.mean() / inside.mean())


def sphericity(mask: Mask, spacing: Spacing) -> float:
    """Surface of the ball of equal volume over the surface of `mask`: 1 for a ball, else less.

    The mask is smoothed by a voxel, since the steps between voxels are no surface of a tumour.
    """
    if mask.sum() < FEWEST:
        return np.nan
    smooth = ndimage.gaussian_filter(np.pad(mask, 4).astype(np.float32), 1.0)
    if smooth.max() <= 0.5:
        return np.nan
    vertices, faces, _, _ = measure.marching_cubes(smooth, 0.5, spacing=tuple(spacing))
    a, b, c = np.moveaxis(vertices[faces].astype(np.float64), 1, 0)
    volume = abs(float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum())) / 6
    return float(
        np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / measure.mesh_surface_area(vertices, faces)
    )


def distance_to(mask: Mask, target: Mask, spacing: Spacing) -> float:
    """Smallest distance in mm between voxel centres of two masks; NaN if one is empty."""
    if not mask.any() or not target.any():
        return np.nan
    apart, _ = KDTree(np.argwhere(target) * spacing).query(np.argwhere(mask) * spacing)
    return float(apart.min())
