"""surface: HD95 and NSD of hand-made masks, against MONAI, and what they say of empty regions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from tumorfab import surface
from tumorfab.surface import surface_scores

ONE = np.ones(3)
SHAPE = (24, 22, 20)
MASKS = hnp.arrays(bool, (5, 4, 6))


def cuboid(low: tuple[int, int, int], high: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


CUBE = cuboid((4, 4, 4), (12, 12, 12))
EMPTY = np.zeros(SHAPE, bool)


@pytest.mark.parametrize(
    ("predicted", "spacing", "hd95", "nsd"),
    [
        (CUBE, ONE, 0.0, 1.0),
        (np.roll(CUBE, 2, axis=0), ONE, 2.0, 1.0),  # all of it within the tolerance
        (np.roll(CUBE, 2, axis=0), ONE * 2, 4.0, None),
        (np.roll(CUBE, 3, axis=2), np.array([1, 1, 0.5]), 1.5, 1.0),
        (ndimage.binary_dilation(CUBE, np.ones((3, 3, 3)), 3), ONE, None, 0.0),
        (EMPTY, ONE, 374.0, 0.0),  # missed
    ],
)
def test_masks_whose_distance_is_known(
    predicted: np.ndarray, spacing: np.ndarray, hd95: float | None, nsd: float | None
) -> None:
    found = surface_scores(predicted, CUBE, spacing)
    assert found[0] == pytest.approx(hd95 if hd95 is not None else found[0], abs=1e-6)
    assert found[1] == pytest.approx(nsd if nsd is not None else found[1], abs=1e-6)
    assert surface_scores(CUBE, predicted, spacing) == pytest.approx(found)


def test_nsd_is_the_share_of_the_surface_within_the_tolerance() -> None:
    """A plate of 16 x 16 x 4 mm against one of 16 x 16 x 7 mm on the same lower face.

    Within 2 mm of the other: of the plate (768 mm2) its lower face, its sides and a rim of 2 mm of
    the upper face (256 + 256 + 112), of the thicker one (960 mm2) the lower face and 6 mm of its
    sides (256 + 384).
    """
    plate, thicker = cuboid((4, 2, 4), (20, 18, 8)), cuboid((4, 2, 4), (20, 18, 11))
    _, nsd = surface_scores(thicker, plate, ONE)
    assert nsd == pytest.approx((624 + 640) / (768 + 960), abs=0.04)


def test_both_empty_is_perfect_and_an_invented_region_is_not() -> None:
    assert surface_scores(EMPTY, EMPTY, ONE) == (0.0, 1.0)
    assert surface_scores(CUBE, EMPTY, ONE) == (surface.WORST_MM, 0.0)


def test_one_far_speck_moves_the_maximum_but_not_the_95th_percentile() -> None:
    speckled = CUBE.copy()
    speckled[22, 20, 18] = True
    assert surface_scores(speckled, CUBE, ONE)[0] == 0.0


@settings(max_examples=50, deadline=None)
@given(MASKS, MASKS, st.floats(0.5, 3))
def test_symmetric_and_the_distance_scales_with_the_voxels(
    a: np.ndarray, b: np.ndarray, edge: float
) -> None:
    hd95, nsd = surface_scores(a, b, ONE)
    assert surface_scores(b, a, ONE) == pytest.approx((hd95, nsd))
    assert 0 <= nsd <= 1
    if a.any() and b.any():
        assert surface_scores(a, b, ONE * edge)[0] == pytest.approx(hd95 * edge, rel=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_monai_to_half_a_voxel(seed: int) -> None:
    """MONAI measures between the centres of border voxels, without areas."""
    rng = np.random.default_rng(seed)
    truth, predicted = (
        ndimage.gaussian_filter(rng.normal(size=SHAPE) + 2.0 * CUBE, 2) > 0.6 for _ in range(2)
    )
    spacing = np.array([1.0, 1.0, 1.5])
    hd95, nsd = surface_scores(predicted, truth, spacing)
    p, t = (torch.from_numpy(m)[None, None].float() for m in (predicted, truth))
    theirs = compute_hausdorff_distance(
        p, t, include_background=True, percentile=95, spacing=spacing.tolist()
    )
    surface_dice = compute_surface_dice(
        p, t, [surface.TOLERANCE_MM], include_background=True, spacing=spacing.tolist(),
        use_subvoxels=True,
    )  # fmt: skip
    assert hd95 == pytest.approx(float(theirs), abs=0.75)
    assert nsd == pytest.approx(float(surface_dice), abs=0.02)
