"""lesions: BraTS 2023's lesion-wise Dice of cases made by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from tumorfab.lesions import Lesions, lesion_scores
from tumorfab.metrics import dice

ONE = np.ones(3)
SHAPE = (40, 24, 20)
MASKS = hnp.arrays(bool, (6, 5, 4))


def cubes(*boxes: tuple[int, int], start: int = 6) -> np.ndarray:
    """Cuboids of 5 x 5 x `length` mm: each is (first voxel along the first axis, length)."""
    mask = np.zeros(SHAPE, bool)
    for first, length in boxes:
        mask[first : first + length, start : start + 5, start : start + 5] = True
    return mask


NOTHING = np.zeros(SHAPE, bool)
TWO = cubes((2, 6), (25, 6))  # 17 mm apart
SMALL = cubes((30, 2))  # 50 mm3: not judged
CASES = {
    "perfect": (TWO, TWO, Lesions(1.0, 2, 2, 0)),
    "one of two is missed": (cubes((2, 6)), TWO, Lesions(0.5, 2, 1, 0)),
    "one is half found": (cubes((2, 3), (25, 6)), TWO, Lesions((2 / 3 + 1) / 2, 2, 2, 0)),
    "a false one counts as a lesion with 0": (TWO, cubes((2, 6)), Lesions(0.5, 1, 1, 1)),
    "all missed": (NOTHING, TWO, Lesions(0.0, 2, 0, 0)),
    "all invented": (TWO, NOTHING, Lesions(0.0, 0, 0, 2)),
    "nothing to find, nothing claimed": (NOTHING, NOTHING, Lesions(1.0, 0, 0, 0)),
    "a small one that is missed costs nothing": (TWO, TWO | cubes((15, 2)), Lesions(1.0, 2, 2, 0)),
    "a prediction on a small one is not false": (SMALL, SMALL, Lesions(1.0, 0, 0, 0)),
    "a small prediction elsewhere is": (cubes((2, 6), (30, 1)), cubes((2, 6)),
                                        Lesions(0.5, 1, 1, 1)),
    # Six voxels apart, each grown by three: they touch, and are one lesion of two parts, one found.
    "near parts are one": (cubes((2, 6)), cubes((2, 6), (14, 6)), Lesions(2 / 3, 1, 1, 0)),
    "one voxel farther they are two": (cubes((2, 6)), cubes((2, 6), (15, 6)),
                                       Lesions(0.5, 2, 1, 0)),
    # A part that only the grown lesion touches belongs to it, and lowers its Dice.
    "a neighbour is no false lesion": (cubes((2, 6), (10, 3)), cubes((2, 6)),
                                       Lesions(12 / 15, 1, 1, 0)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_cases_made_by_hand(name: str) -> None:
    predicted, reference, expected = CASES[name]
    found = lesion_scores(predicted, reference, ONE)
    assert found.dice == pytest.approx(expected.dice)
    assert found == Lesions(found.dice, expected.judged, expected.found, expected.false)


def test_one_prediction_over_two_lesions_is_compared_with_each() -> None:
    bridge = cubes((2, 29))  # 29 x 25 mm3 over lesions of 6 x 25: 2 * 6 / (29 + 6) for each
    assert lesion_scores(bridge, TWO, ONE) == Lesions(12 / 35, 2, 2, 0)


def test_distances_are_in_mm_whatever_the_voxels() -> None:
    """Two parts 10 mm apart are two lesions on grids of 1 and of 2 mm; 4 mm apart they are one."""
    for gap, lesions in ((10, 2), (4, 1)):
        fine = cubes((4, 6), (10 + gap, 6))
        coarse = fine[::2, ::2, ::2]
        assert lesion_scores(fine, fine, ONE).judged == lesions
        assert lesion_scores(coarse, coarse, 2 * ONE).judged == lesions


@settings(max_examples=60, deadline=None)
@given(MASKS, MASKS)
def test_within_0_and_1_and_equal_to_dice_for_one_large_lesion(
    a: np.ndarray, b: np.ndarray
) -> None:
    found = lesion_scores(a, b, 4 * ONE)  # every voxel is larger than the smallest lesion
    assert 0 <= found.dice <= 1
    assert found.found <= found.judged
    if found.judged == 1 and not found.false:
        assert found.dice == pytest.approx(dice(a, b))
    same = lesion_scores(b, b, 4 * ONE)
    assert same == Lesions(1.0, same.judged, same.judged, 0)


def test_the_place_in_the_volume_does_not_matter() -> None:
    predicted, reference, _ = CASES["one is half found"]
    moved = [np.roll(mask, (7, 10, 6), (0, 1, 2)) for mask in (predicted, reference)]
    assert lesion_scores(*moved, ONE) == lesion_scores(predicted, reference, ONE)
