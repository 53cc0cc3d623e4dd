"""Distances between the surfaces of two masks: HD95 and NSD.

By the `surface-distance` package of Nikolov et al. (2021), with which BraTS computes its HD95: a
surface is made of small elements with an area, so that neither the voxel size nor the sampling of
an oblique boundary weighs in. It needs NumPy and SciPy alone.
"""

import numpy as np
import surface_distance
from numpy.typing import NDArray

TOLERANCE_MM = 2.0
# BraTS' distance for a region that only one of two segmentations has.
WORST_MM = 374.0


def surface_scores(
    predicted: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: NDArray[np.float64]
) -> tuple[float, float]:
    """HD95 in mm and NSD at `TOLERANCE_MM` of two (I, J, K) masks; `spacing` in mm.

    HD95 is the larger of the two directed 95th percentiles of the distance from one surface to the
    other, NSD the share of both surfaces within the tolerance of the other one. Empty masks:
    `metrics.py`.
    """
    if not predicted.any() or not reference.any():
        return (WORST_MM, 0.0) if predicted.any() or reference.any() else (0.0, 1.0)
    distances = surface_distance.compute_surface_distances(reference, predicted, tuple(spacing))
    hd95 = surface_distance.compute_robust_hausdorff(distances, 95)
    nsd = surface_distance.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM)
    return float(hd95), float(nsd)
