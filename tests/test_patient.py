"""Patients as hosts: a planted tumour is healed, and what cannot be healed is refused."""

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from tumorfab import metrics, mni152, patient, standardise, volume
from tumorfab.anatomy import Plane
from tumorfab.volume import Volume

MNI = mni152.template(4.0)
TURN = volume.sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.0, 0.05, 0.08)
NORMAL = np.array(TURN.TransformVector((1.0, 0.0, 0.0), (0.0, 0.0, 0.0))) * [1, 1, -1]
PLANE = Plane((0.0, 0.0, 0.0), tuple(NORMAL.tolist()))
GRID = MNI.t1.grid


def turned(data: np.ndarray) -> np.ndarray:
    moved = Volume(data.astype(np.float32), GRID.affine)
    return volume.resample(moved, GRID, TURN.GetInverse())


def points() -> np.ndarray:
    """Millimetres of all voxels, (N, 3)."""
    index = np.indices(GRID.shape).reshape(3, -1).T
    return index @ GRID.affine[:3, :3].T + GRID.affine[:3, 3]


def sphere(side_mm: float, radius_mm: float) -> np.ndarray:
    """A ball `side_mm` to the right of the plane, above the middle."""
    centre = np.array([0.0, -15.0, 22.0])
    centre += (side_mm - PLANE.distance(centre[None])[0]) * NORMAL
    near = np.linalg.norm(points() - centre, axis=1) < radius_mm
    return near.reshape(GRID.shape)


@pytest.fixture(scope="module")
def healthy() -> dict[str, Any]:
    """A symmetric brain whose plane is oblique to the grid, with a T1w and a made-up second one."""
    brain = turned(MNI.mask) > 0.5
    shares = np.clip(np.stack([turned(x) for x in (MNI.csf, MNI.gm, MNI.wm)]), 1e-6, 1)
    shares = np.where(brain, shares / shares.sum(0), 0).astype(np.float32)
    second = np.tensordot(np.array([3.0, 1.0, 0.0], np.float32), shares, 1)
    images = {
        "T1w": standardise.normalise(turned(MNI.t1.data), brain)[0],
        "T2w": standardise.normalise(second, brain)[0],
    }
    return {
        "images": images,
        "tissues": dict(zip(("CSF", "GM", "WM"), shares, strict=True)),
        "ventricles": turned(MNI.ventricles) > 0.5,
        "brain": brain,
    }


def ill(healthy: dict[str, Any], tumour: np.ndarray) -> dict[str, Any]:
    """The same brain with a bright, GM-like tumour."""
    tumour = tumour & healthy["brain"]
    images = {m: np.where(tumour, 4, x).astype(np.float32) for m, x in healthy["images"].items()}
    tissues = {
        t: np.where(tumour, t == "GM", x).astype(np.float32) for t, x in healthy["tissues"].items()
    }
    return {
        "images": images,
        "tissues": tissues,
        "ventricles": healthy["ventricles"] & ~tumour,
        "brain": healthy["brain"],
        "labels": np.where(tumour, 2, 0).astype(np.uint8),
        "plane": PLANE,
        "grid": GRID,
    }


@pytest.fixture(scope="module")
def case(healthy) -> dict[str, Any]:
    return ill(healthy, sphere(24.0, 16.0))


@pytest.fixture(scope="module")
def mended(case) -> patient.Healed:
    return patient.healed(**case)


def reached(case: dict[str, Any]) -> np.ndarray:
    far = ndimage.distance_transform_edt(case["labels"] == 0, sampling=GRID.spacing)
    return far <= patient.REACH_MM + patient.EDGE_MM


def test_a_planted_tumour_is_healed_to_the_symmetric_brain(healthy, case, mended):
    tumour = case["labels"] > 0
    assert np.count_nonzero(tumour) > 200
    for modality, image in mended.images.items():
        truth = healthy["images"][modality][tumour]
        error = np.abs(image[tumour] - truth)
        damage = np.abs(case["images"][modality][tumour] - truth)
        assert np.median(error) < 0.1 * np.median(damage)
        assert np.corrcoef(image[tumour], truth)[0, 1] > 0.9
    error = np.mean([np.abs(mended.tissues[t] - x)[tumour] for t, x in healthy["tissues"].items()])
    assert error < 0.05
    lost = tumour & healthy["ventricles"]
    assert np.count_nonzero(lost & mended.ventricles) > 0.6 * np.count_nonzero(lost) > 0
    assert metrics.dice(mended.ventricles, healthy["ventricles"]) > 0.9


def test_away_from_the_tumour_nothing_changes(case, mended):
    away = ~reached(case)
    for modality, image in mended.images.items():
        assert image.dtype == np.float32
        np.testing.assert_array_equal(image[away], case["images"][modality][away])
        assert not image[~case["brain"]].any()
    for name, share in mended.tissues.items():
        np.testing.assert_array_equal(share[away], case["tissues"][name][away])
    np.testing.assert_array_equal(mended.ventricles[away], case["ventricles"][away])


def test_tissue_maps_sum_to_1_in_the_brain_and_0_outside(case, mended):
    total = np.sum(list(mended.tissues.values()), axis=0)
    np.testing.assert_allclose(total, case["brain"], atol=1e-5)
    assert min(share.min() for share in mended.tissues.values()) >= 0


def test_healing_again_gives_the_same_bytes(case, mended):
    again = patient.healed(**case)
    for modality, image in mended.images.items():
        np.testing.assert_array_equal(again.images[modality], image)
    for name, share in mended.tissues.items():
        np.testing.assert_array_equal(again.tissues[name], share)


def test_a_different_brightness_of_the_two_sides_is_levelled(healthy, case):
    right = PLANE.distance(points()).reshape(GRID.shape) > 0
    skewed = {
        m: np.where(right & case["brain"], x + 0.5, x).astype(np.float32)
        for m, x in case["images"].items()
    }
    found = patient.healed(**{**case, "images": skewed})
    tumour = case["labels"] > 0
    for modality, image in found.images.items():
        truth = healthy["images"][modality][tumour] + 0.5
        assert abs(np.median(image[tumour] - truth)) < 0.1


def test_texture_is_as_rough_as_before(healthy, case):
    """Noise is interpolated nowhere, and averaged with other noise nowhere."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, GRID.shape).astype(np.float32)
    images = {m: np.where(case["brain"], noise, 0).astype(np.float32) for m in case["images"]}
    # The anatomy guides the registration; noise alone is in the other modality.
    images["T1w"] = case["images"]["T1w"]
    found = patient.healed(**{**case, "images": images}).images["T2w"]
    inner = ndimage.binary_erosion(case["brain"], iterations=2)
    changed = inner & (found != images["T2w"])
    ratio = ndimage.laplace(found)[changed].std() / ndimage.laplace(noise)[inner & ~changed].std()
    assert 0.9 < ratio < 1.1


def test_a_tumour_in_both_hemispheres_is_refused(healthy):
    with pytest.raises(ValueError, match=r"4\d% of the tumour lies across the midsagittal plane"):
        patient.healed(**ill(healthy, sphere(1.0, 16.0)))


def test_a_tumour_in_the_mirror_image_is_refused(healthy, monkeypatch):
    monkeypatch.setattr(patient, "MOST_ACROSS", 0.2)
    with pytest.raises(ValueError, match="of the tumour has tumour for its mirror image"):
        patient.healed(**ill(healthy, sphere(32.0, 16.0) | sphere(-32.0, 8.0)))


def test_a_tumour_without_healthy_tissue_around_it_is_refused(healthy):
    rest = sphere(32.0, 20.0) | sphere(-32.0, 20.0)
    with pytest.raises(ValueError, match="ml of healthy tissue around the tumour are too few"):
        patient.healed(**ill({**healthy, "brain": healthy["brain"] & rest}, sphere(32.0, 16.0)))


def test_no_tumour_is_refused(healthy):
    with pytest.raises(ValueError, match="no tumour"):
        patient.healed(**ill(healthy, np.zeros(GRID.shape, bool)))


def test_room_is_the_other_hemisphere_away_from_the_tumour(case):
    found = patient.room(case["labels"], case["brain"], PLANE, GRID, 30.0)
    right = PLANE.distance(points()).reshape(GRID.shape) > 0
    assert not (found & right).any()
    index = np.argwhere(case["labels"] > 0) * GRID.spacing
    there = np.argwhere(found) * GRID.spacing
    gaps = [np.linalg.norm(index - point, axis=1).min() for point in there[::200]]
    assert min(gaps) >= 30.0
    assert found.sum() > 0.8 * (case["brain"] & ~right).sum()
    nearer = patient.room(case["labels"], case["brain"], PLANE, GRID, 0.0)
    np.testing.assert_array_equal(nearer, case["brain"] & ~right)


def test_room_mirrors_with_the_tumour(healthy):
    on_left = ill(healthy, sphere(-32.0, 16.0))
    found = patient.room(on_left["labels"], on_left["brain"], PLANE, GRID, 0.0)
    right = PLANE.distance(points()).reshape(GRID.shape) > 0
    np.testing.assert_array_equal(found, on_left["brain"] & right)


def test_there_is_no_room_where_both_hemispheres_hold_tumour(healthy):
    both = ill(healthy, sphere(32.0, 12.0) | sphere(-32.0, 8.0))
    assert not patient.room(both["labels"], both["brain"], PLANE, GRID, 10.0).any()


def test_the_whole_brain_is_room_without_a_tumour(healthy):
    empty = np.zeros(GRID.shape, np.uint8)
    found = patient.room(empty, healthy["brain"], PLANE, GRID, 10.0)
    np.testing.assert_array_equal(found, healthy["brain"])


def test_reflection_is_the_planes():
    at = np.random.default_rng(0).normal(0, 40, (5, 3))
    swap = patient.reflection(Plane((3.0, -4.0, 5.0), PLANE.normal))
    found = [swap.TransformPoint((p * [-1, -1, 1]).tolist()) for p in at]
    expected = Plane((3.0, -4.0, 5.0), PLANE.normal).mirrored(at)
    np.testing.assert_allclose(np.array(found) * [-1, -1, 1], expected, atol=1e-9)
