import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tumorfab import fields

SPACING = np.array([1.0, 2.0, 3.0])
SHAPE = (20, 16, 12)


def linear(matrix):
    """The displacement u(x) = matrix x, in mm."""
    points = np.indices(SHAPE) * SPACING[:, None, None, None]
    return np.tensordot(matrix, points, 1).astype(np.float32)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-0.4, 0.4), min_size=9, max_size=9))
def test_the_jacobian_of_a_linear_map_is_its_determinant(values):
    matrix = np.array(values).reshape(3, 3)
    found = fields.jacobian(linear(matrix), SPACING)
    np.testing.assert_allclose(found, np.linalg.det(np.eye(3) - matrix), atol=1e-3)


def test_a_folding_field_is_made_weaker_and_a_tame_one_left_alone():
    tame = linear(0.2 * np.eye(3))
    kept, smallest = fields.unfolded(tame, SPACING)
    np.testing.assert_array_equal(kept, tame)
    assert smallest == pytest.approx(0.8**3, abs=1e-4)
    weaker, smallest = fields.unfolded(linear(1.5 * np.eye(3)), SPACING)
    assert smallest >= fields.LEAST_JACOBIAN
    assert smallest == pytest.approx(float(fields.jacobian(weaker, SPACING).min()))
    # No weaker than needed: the step before was too strong.
    assert fields.jacobian(weaker / np.float32(0.9), SPACING).min() < fields.LEAST_JACOBIAN


@pytest.mark.parametrize("sd", [1.5, 8.0])
def test_a_random_warp_never_folds(sd):
    warp = fields.warp(np.random.default_rng(1), SHAPE, SPACING, 8.0, sd)
    assert fields.jacobian(warp, SPACING).min() >= fields.LEAST_JACOBIAN
    assert warp.std() > 0.1
    assert not fields.warp(np.random.default_rng(1), SHAPE, SPACING, 8.0, 0).any()


def test_noise_has_mean_0_and_standard_deviation_1_and_is_smooth():
    spacing = np.ones(3)
    found = fields.noise(np.random.default_rng(0), (60, 61, 62), spacing, 5.0)
    assert found.shape == (60, 61, 62)
    assert abs(found.mean()) < 0.1
    assert found.std() == pytest.approx(1, abs=0.1)
    # No sheet of it is flat: the outermost ones are as varied as the middle.
    for axis in range(3):
        sheets = np.moveaxis(found, axis, 0)
        assert min(sheets[0].std(), sheets[-1].std()) > 0.6
        assert np.abs(np.diff(sheets, axis=0)).mean() < 0.5
    one, two = (fields.noise(np.random.default_rng(s), SHAPE, SPACING, 5.0) for s in (3, 3))
    np.testing.assert_array_equal(one, two)


def test_upsampling_keeps_a_ramp_and_is_constant_beyond_the_outermost_centres():
    step, shape = np.array([4, 3, 1]), (22, 15, 6)  # the last block along I is cut
    ramp = np.indices(shape).astype(np.float32)
    centres = [np.arange(-(-n // s)) * s + (s - 1) / 2 for n, s in zip(shape, step, strict=True)]
    for axis in range(3):
        coarse = np.stack(np.meshgrid(*centres, indexing="ij"))[axis]
        fine = fields.upsampled(coarse, step, shape)
        wanted = np.clip(ramp[axis], centres[axis][0], centres[axis][-1])
        np.testing.assert_allclose(fine, wanted, atol=1e-4)


def test_upsampling_by_one_changes_nothing():
    values = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    np.testing.assert_allclose(fields.upsampled(values, np.ones(3, int), SHAPE), values, atol=1e-5)


@pytest.mark.parametrize("order", [1, 3])
def test_interpolation_meets_the_voxels_and_does_not_ring(order):
    values = (np.random.default_rng(0).random(SHAPE) > 0.5).astype(np.float32)
    voxels = np.argwhere(np.ones(SHAPE)).T.astype(np.float32)
    np.testing.assert_allclose(
        fields.interpolated(values, voxels, order), values.ravel(), atol=2e-4
    )
    between = fields.interpolated(values, voxels + np.float32(0.37), order)
    assert between.min() >= 0
    assert between.max() <= 1
    assert fields.interpolated(values, np.zeros((3, 0), np.float32), order).shape == (0,)


def test_interpolation_of_a_part_equals_that_of_the_whole():
    """Only the surroundings of the positions are read."""
    values = np.random.default_rng(0).normal(size=(40, 40, 40)).astype(np.float32)
    far = np.random.default_rng(1).uniform(5, 34, (3, 50)).astype(np.float32)
    whole = fields.interpolated(values, far, 3)
    single = [float(fields.interpolated(values, far[:, n : n + 1], 3)[0]) for n in range(50)]
    np.testing.assert_allclose(single, whole, atol=5e-3)


def test_a_flow_comes_as_far_as_its_equation_says():
    """Tissue that leaves the middle at a rate of 0.8 times its distance: what is at x came from
    x exp(-0.8). One step of that length would come from 0.2 x; one of 1.2 would fold."""
    spacing = np.array([2.0, 3.0, 1.0])
    shape = np.array([21, 15, 31])
    middle = (shape - 1) / 2
    at = (np.indices(shape) - middle[:, None, None, None]) * spacing[:, None, None, None]
    for rate in (0.8, 1.2):
        found = fields.flowed((rate * at).astype(np.float32), spacing)
        inner = (slice(None), *(slice(4, -4) for _ in range(3)))
        expected = at * (1 - np.exp(-rate))
        assert np.abs(found - expected)[inner].max() < 0.03 * np.abs(expected[inner]).max()
        assert fields.jacobian(found, spacing).min() > 0.9 * np.exp(-3 * rate)


@given(st.integers(0, 2**31), st.floats(0.5, 5))  # up to 18 mm, twice what mass effect moves
@settings(max_examples=10, deadline=None)
def test_a_flow_there_and_back_comes_home(seed, sd_mm):
    rng = np.random.default_rng(seed)
    spacing, shape = np.array([2.0, 2.0, 2.0]), (44, 46, 42)
    velocity = sd_mm * np.stack([fields.noise(rng, shape, spacing, 16.0) for _ in range(3)])
    there, back = (fields.flowed(sign * velocity.astype(np.float32), spacing) for sign in (1, -1))
    at = np.indices(shape) - there / 2.0
    again = np.stack([ndimage.map_coordinates(p, at, order=1, mode="nearest") for p in back])
    # What has left the grid does not come back: only what stays well inside is asked about.
    inner = (slice(None), *(slice(16, -16) for _ in range(3)))
    assert np.abs(there + again)[inner].max() < 0.1 * np.abs(there).max()
