"""Lesion-wise Dice as BraTS 2023 defines it for gliomas.

Parts of the annotation that touch when each is grown by 3 voxels of 1 mm are one lesion. It is
compared with all connected parts of the prediction that its grown mask touches; parts of the
prediction that touch no lesion are false and count 0. Lesions of 50 mm3 or less are not judged, and
a prediction that touches one is not false.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tumorfab.metrics import dice
from tumorfab.volume import box

MERGE_MM = 3.0
SMALLEST_MM3 = 50.0
# A voxel grows to its 18 neighbours; parts are connected by any of 26.
_GROWTH = ndimage.generate_binary_structure(3, 2)
_TOUCHING = ndimage.generate_binary_structure(3, 3)


@dataclass(frozen=True)
class Lesions:
    """Mean Dice over judged and false lesions (1 when there is neither), and their numbers."""

    dice: float
    judged: int
    found: int
    false: int


def lesion_scores(
    predicted: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: NDArray[np.float64]
) -> Lesions:
    """Compare two (I, J, K) masks lesion by lesion; `spacing` in mm.

    On grids other than BraTS' 1 mm the growth is the number of voxels that comes closest to 3 mm,
    at least one.
    """
    either = predicted | reference
    if not either.any():
        return Lesions(1.0, 0, 0, 0)
    voxel = float(np.prod(spacing))
    steps = max(1, round(MERGE_MM / voxel ** (1 / 3)))
    region = box(either, margin=steps)
    predicted, reference = predicted[region], reference[region]
    grown, count = ndimage.label(
        ndimage.binary_dilation(reference, _GROWTH, iterations=steps), _TOUCHING
    )
    parts, part_count = ndimage.label(predicted, _TOUCHING)
    scores, found, touched = [], 0, set()
    for number in range(1, count + 1):
        near = np.unique(parts[(grown == number) & predicted])
        touched |= set(near.tolist())
        lesion = reference & (grown == number)
        if lesion.sum() * voxel <= SMALLEST_MM3:
            continue
        scores.append(dice(np.isin(parts, near), lesion))
        found += len(near) > 0
    false = part_count - len(touched)
    judged = len(scores)
    mean = sum(scores) / (judged + false) if judged + false else 1.0
    return Lesions(mean, judged, found, false)
