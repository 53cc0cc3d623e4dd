"""What tumours are measured by, real ones and synthetic ones alike, and how far apart they are.

Brightness, contrast and grain of each class and of the tissue around, and the steepness of the
tumour's boundaries, in every modality, in tissue-relative units (`contrast`). The refiner's
training is stopped by them, and the gate judges samples by them, the tissue around left out; both
compare with real *training* cases only.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tumorfab import fields
from tumorfab.contrast import FINE_MM
from tumorfab.roi import CLASSES, FEW, signed_distance
from tumorfab.volume import Image, Labels, box

# Boundaries whose steepness is measured: the labels inside.
BOUNDARIES = {"WT": (1, 2, 3), "TC": (1, 3)}
# The tissue around a tumour, as measures call it, and how near (mm) to it that is.
AROUND, AROUND_MM = "around", 8.0
# Voxels beyond it that networks are shown.
CONTEXT = 8
# A boundary is where the signed distance is below this (voxels).
NEAR = 1.0
# Measures of real cases differ at least by this much, however alike the few of them are.
LEAST_SPREAD = 0.1
# A measure further away than this many spreads is as bad as it can be.
FARTHEST = 10.0


def measures(
    images: Sequence[Image], names: Sequence[str], labels: Labels, spacing: NDArray[np.float64]
) -> dict[str, float]:
    """All measures of one tumour by name, such as `T1w ED grain`.

    `images` are tissue-relative, one for each of `names`, (I, J, K) with the tumour well inside.
    Per class of at least 20 voxels, and for the brain around the tumour (`AROUND_MM`): mean, and
    logarithms of standard deviation and of grain (the standard deviation of what is finer than
    6 mm). Per boundary of whole tumour and core: logarithm of the mean gradient across it (per mm).
    """
    found: dict[str, float] = {}
    depths = {n: signed_distance(np.isin(labels, c), spacing) for n, c in BOUNDARIES.items()}
    edges = {name: np.abs(depth) < NEAR * spacing.mean() for name, depth in depths.items()}
    brain = np.any([image != 0 for image in images], axis=0)
    places = {label: labels == value for value, label in CLASSES.items()}
    places[AROUND] = brain & (labels == 0) & (depths["WT"] < AROUND_MM)
    for name, image in zip(names, images, strict=True):
        for label, mask in places.items():
            if np.count_nonzero(mask) < FEW:
                continue
            fine = image[mask] - fields.coarse(image, mask, spacing, FINE_MM)[mask]
            found[f"{name} {label} mean"] = float(image[mask].mean())
            found[f"{name} {label} spread"] = _log(image[mask].std())
            found[f"{name} {label} grain"] = _log(fine.std())
        steps = [
            ndimage.correlate1d(image, (-0.5, 0, 0.5), axis) / spacing[axis] for axis in range(3)
        ]
        gradient = np.sqrt(np.sum(np.square(steps), axis=0))
        for label, edge in edges.items():
            if np.count_nonzero(edge) >= FEW:
                found[f"{name} {label} edge"] = _log(gradient[edge].mean())
    return found


def reach(spacing: NDArray[np.float64]) -> int:
    """Voxels of this spacing (mm) that the tissue around a tumour goes: 8 mm, at least one."""
    return max(1, round(AROUND_MM / float(spacing.mean())))


def window(labels: Labels, spacing: NDArray[np.float64]) -> tuple[slice, slice, slice]:
    """The box of what is measured, and shown to networks, of the tumours in `labels`."""
    return box(labels > 0, reach(spacing) + CONTEXT)


def gaps(found: dict[str, float], real: Sequence[dict[str, float]]) -> dict[str, float]:
    """How far one tumour's measures are from those of `real` ones: for each that both have, the
    difference from the mean in standard deviations between real tumours, at most 10."""
    out = {}
    for name, value in found.items():
        theirs = np.array([r[name] for r in real if name in r])
        if len(theirs):
            spread = max(float(theirs.std()), LEAST_SPREAD)
            out[name] = min(abs(value - float(theirs.mean())) / spread, FARTHEST)
    return out


def distance(found: Sequence[dict[str, float]], real: Sequence[dict[str, float]]) -> float:
    """How far a cohort is from `real` tumours: the mean over measures of `gaps` of its mean."""
    names = {name for one in found for name in one}
    mean = {n: float(np.mean([one[n] for one in found if n in one])) for n in names}
    return float(np.mean(list(gaps(mean, real).values())))


def _log(value: float) -> float:
    return float(np.log(max(float(value), 1e-3)))
