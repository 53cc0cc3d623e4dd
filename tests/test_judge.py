import numpy as np
import pytest
import shapes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tumorfab import judge

SPACING = np.full(3, 2.0)
SHAPE = (40, 42, 38)
LABELS = np.zeros(SHAPE, np.uint8)
for value, radius in ((2, 13), (3, 9), (1, 5)):
    LABELS[shapes.ellipsoid(SHAPE, (20, 21, 19), radius)] = value


def tumour(seed=0, noise=0.3, shift=0.0, blur=0.0):
    values = np.array([0.0, -2.0, 1.0, 3.0])[LABELS] + shift * (LABELS == 2)
    image = ndimage.gaussian_filter(values, blur) if blur else values
    return (image + np.random.default_rng(seed).normal(0, noise, SHAPE)).astype(np.float32)


def measured(**how):
    return judge.measures([tumour(**how)], ["T1w"], LABELS, SPACING)


def test_measures_are_what_was_put_in():
    found = measured(noise=0.3)
    assert found["T1w NCR mean"] == pytest.approx(-2, abs=0.05)
    assert found["T1w ET mean"] == pytest.approx(3, abs=0.05)
    assert found["T1w ED spread"] == pytest.approx(np.log(0.3), abs=0.05)
    assert found["T1w ED grain"] == pytest.approx(np.log(0.3), abs=0.15)
    # Ten units across the core's boundary within two steps of 2 mm are steeper than one unit.
    assert found["T1w TC edge"] > found["T1w WT edge"]
    assert measured(blur=1.5)["T1w TC edge"] < found["T1w TC edge"] - 0.2


def test_what_is_around_is_brain_within_8_mm():
    image = tumour(noise=0.0)
    depth = ndimage.distance_transform_edt(LABELS == 0, sampling=SPACING)
    # Background, and what is 10 mm away, do not count; half of what is near is brighter.
    left = np.indices(SHAPE)[0] < 20
    image[(depth > 0) & (depth < 9)] = 1.0
    image[(depth > 0) & (depth < 9) & left] = 2.0
    image[depth > 10] = 50.0
    image[:, :12] = 0
    found = judge.measures([image], ["T1w"], LABELS, SPACING)
    near = (image != 0) & (LABELS == 0) & (depth < 8)
    assert found["T1w around mean"] == pytest.approx(1.5, abs=0.1)
    assert found["T1w around spread"] == pytest.approx(np.log(image[near].std()), abs=0.02)


@pytest.mark.parametrize(("spacing", "reach"), [(1.0, 8), (2.0, 4), (3.0, 3), (20.0, 1)])
def test_the_reach_is_8_mm_in_voxels(spacing, reach):
    assert judge.reach(np.full(3, spacing)) == reach


def test_a_class_of_few_voxels_is_not_measured():
    labels = np.where(LABELS == 1, 3, LABELS)
    labels[20, 21, 19] = 1
    found = judge.measures([tumour()], ["T1w"], labels, SPACING)
    assert not any("NCR" in name for name in found)


@pytest.mark.parametrize("fault", [{"noise": 0.05}, {"noise": 1.0}, {"shift": 1.5}, {"blur": 2}])
def test_what_is_not_like_the_real_ones_is_further_away(fault):
    real = [measured(seed=seed, noise=0.3 + 0.03 * seed) for seed in range(4)]
    good = [measured(seed=10 + seed, noise=0.3 + 0.03 * seed) for seed in range(4)]
    bad = [measured(seed=seed, **fault) for seed in range(10, 14)]
    assert judge.distance(good, real) < 0.5
    assert judge.distance(bad, real) > 2 * judge.distance(good, real)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6), st.floats(-50, 50))
def test_a_gap_is_bounded_and_zero_at_the_mean(values, other):
    real = [{"a": v} for v in values]
    assert judge.gaps({"a": float(np.mean(values))}, real)["a"] == pytest.approx(0, abs=1e-6)
    assert 0 <= judge.gaps({"a": other}, real)["a"] <= judge.FARTHEST
    assert judge.gaps({"b": other}, real) == {}
