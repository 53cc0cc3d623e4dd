"""The regions of a tumour, Dice, and what every metric says of an empty region.

Regions follow BraTS: WT (1, 2, 3), TC (1, 3), ET (3). Libraries differ on empty regions; ours, as
BraTS 2023 has them:

    region is in             neither (nothing to find)   one only (missed or invented)
    Dice, NSD, lesion Dice   1                           0
    HD95                     0 mm                        374 mm, the diagonal of BraTS' grid
    sensitivity              undefined                   0 if missed, undefined if invented

This module holds what trainings need too; `surface.py` and `lesions.py` hold the other metrics, so
that an edit there trains nothing again.
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


def region_dice(predicted: Labels, reference: Labels) -> dict[str, float]:
    """Dice of two label maps by region."""
    ours, truth = region_masks(predicted), region_masks(reference)
    return {name: dice(ours[name], truth[name]) for name in REGIONS}
