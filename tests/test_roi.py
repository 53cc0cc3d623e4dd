import numpy as np
import pytest
import shapes
from hypothesis import given, settings
from hypothesis import strategies as st

from tumorfab import roi


@pytest.mark.parametrize("spacing", [1.0, 2.5])
def test_signed_distance_of_a_slab_is_exact(spacing):
    mask = np.zeros((40, 5, 5), bool)
    mask[10:30] = True  # its faces lie between 9 and 10, and between 29 and 30
    found = roi.signed_distance(mask, np.full(3, spacing))
    at = np.arange(40)
    wanted = np.maximum(9.5 - at, at - 29.5) * spacing
    np.testing.assert_allclose(found, np.broadcast_to(wanted[:, None, None], mask.shape), atol=1e-4)


def test_signed_distance_of_a_ball_is_right_to_half_a_voxel():
    ball = shapes.ellipsoid((41, 41, 41), (20, 20, 20), 12.0)
    found = roi.signed_distance(ball, np.full(3, 2.0))
    radius = np.linalg.norm(np.indices(ball.shape) - 20, axis=0)
    wrong = found - 2.0 * (radius - 12.0)
    assert np.abs(wrong).mean() < 0.5
    assert np.abs(wrong).max() < 2.0
    assert ((found < 0) == ball).all()


def test_signed_distance_without_a_boundary_is_far():
    nothing = np.zeros((4, 4, 4), bool)
    assert (roi.signed_distance(nothing, np.ones(3)) == roi.FAR_MM).all()
    assert (roi.signed_distance(~nothing, np.ones(3)) == -roi.FAR_MM).all()


@settings(max_examples=30, deadline=None)
@given(st.floats(-30, 30), st.floats(0, 20), st.sampled_from([0.0, 2.0, 5.0]))
def test_shares_of_a_voxel_sum_to_one(core, deeper, width):
    distance = np.full((1, 1, 1), core, np.float32)
    share = roi.shares(distance, distance + np.float32(deeper), width)
    assert sum(float(part[0, 0, 0]) for part in share.values()) == pytest.approx(1, abs=1e-5)
    assert min(float(part[0, 0, 0]) for part in share.values()) >= 0


def test_a_boundary_is_shared_evenly():
    distance = np.array([[[-3.0, -0.5, 0.0, 0.5, 3.0]]], np.float32)
    np.testing.assert_allclose(roi.soft(distance, 2.0)[0, 0], [1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_array_equal(roi.soft(distance, 0)[0, 0], [1, 1, 0, 0, 0])


def test_look_is_mean_and_covariance_of_each_class():
    found, images = shapes.tumour()
    stacked = np.stack(list(images.values()))
    for value, name in roi.CLASSES.items():
        values = stacked[:, found.labels == value]
        np.testing.assert_allclose(found.look[name]["mean"], values.mean(1))
        np.testing.assert_allclose(found.look[name]["covariance"], np.cov(values))


def test_a_class_of_few_voxels_borrows_the_look_of_the_core():
    rng = np.random.default_rng(0)
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[5:15, 5:15, 5:15] = 1
    labels[9:11, 9:11, 9:11] = 3  # 8 voxels
    image = rng.normal(np.where(labels == 3, 50, 1), 0.1)
    found = roi.analysed("A", 0, labels, {"T1w": image}, {"T1w": 0.1}, np.ones(3))
    core = image[labels > 0]
    assert found.look["ET"]["mean"][0] == pytest.approx(core.mean())
    assert found.look["ET"]["covariance"][0, 0] == pytest.approx(core.var(ddof=1))
    # There is no oedema at all: the core stands in for it.
    assert found.look["ED"]["mean"][0] == pytest.approx(core.mean())
    assert found.look["NCR"]["mean"][0] == pytest.approx(1, abs=0.05)


def test_texture_outside_mirrors_that_inside():
    rng = np.random.default_rng(0)
    labels = np.zeros((40, 6, 6), np.uint8)
    labels[14:26] = 3
    images = {"T1w": rng.normal(1, 0.3, labels.shape)}
    texture = roi.analysed("A", 0, labels, images, dict.fromkeys(images, 0.1), np.ones(3)).texture[
        "T1w"
    ]
    inside = images["T1w"][14:26]
    # In standard deviations of the class, but for the boundary, where the look of ED has a share.
    wanted = (inside - inside.mean()) / inside.std()
    np.testing.assert_allclose(texture[15:25], wanted[1:-1], atol=0.02)
    for away in range(1, 12):
        np.testing.assert_array_equal(texture[25 + away], texture[25 - away])
        np.testing.assert_array_equal(texture[14 - away], texture[14 + away])
    # Farther out than the core is thick, its nearest voxel is repeated.
    np.testing.assert_array_equal(texture[39], texture[25])


def test_an_outlier_is_not_texture():
    labels = np.full((10, 10, 10), 3, np.uint8)
    image = np.random.default_rng(0).normal(0, 1, labels.shape)
    image[5, 5, 5] = 1000
    found = roi.analysed("A", 0, labels, {"T1w": image}, {"T1w": 0.1}, np.ones(3))
    assert np.abs(found.texture["T1w"]).max() == roi.MOST_SD


def test_one_modality_and_one_voxel_are_enough():
    labels = np.zeros((3, 3, 3), np.uint8)
    labels[1, 1, 1] = 1
    found = roi.analysed("A", 0, labels, {"T1w": np.ones((3, 3, 3))}, {"T1w": 0.1}, np.ones(3))
    assert all(np.isfinite(part).all() for part in found.texture.values())
    assert all(np.isfinite(look["covariance"]).all() for look in found.look.values())
