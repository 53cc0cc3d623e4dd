"""Dice per region. The conventions live here.

Regions follow BraTS: WT (1, 2, 3), TC (1, 3), ET (3). Libraries differ on empty regions; ours:
both empty is 1 (nothing to find, nothing claimed), only one empty is 0 (missed or invented).
"""

import numpy as np
from numpy.typing import NDArray

from tumorfab.volume import Labels

REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}


def region_masks(labels: Labels) -> dict[str, NDArray[np.bool_]]:
    """Nested binary masks of a label map (0, 1 NCR, 2 ED, 3 ET), by region name."""
    return {name: np.isin(labels, values) for name, values in REGIONS.items()}


def dice(predicted: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    """Dice coefficient of two masks; 1 when both are empty, 0 when one is."""
    total = int(predicted.sum()) + int(reference.sum())
    return 2 * int((predicted & reference).sum()) / total if total else 1.0


def case_scores(
    predicted: Labels, reference: Labels, voxel_mm3: float
) -> list[dict[str, float | str]]:
    """One row per region: Dice and the volumes (ml) of annotation and prediction."""
    ours, truth = region_masks(predicted), region_masks(reference)
    return [
        {
            "region": name,
            "dice": dice(ours[name], truth[name]),
            "volume_ml": float(truth[name].sum() * voxel_mm3 / 1000),
            "predicted_ml": float(ours[name].sum() * voxel_mm3 / 1000),
        }
        for name in REGIONS
    ]
