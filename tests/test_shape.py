import dataclasses

import numpy as np
import pytest
import shapes
from hypothesis import given, settings
from hypothesis import strategies as st

from tumorfab import shape
from tumorfab.roi import analysed
from tumorfab.shape import Pose

GRID = shapes.grid(2.0, 60, 60, 60)
SITE = [30, 30, 30]
STILL = Pose(SITE, [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], False, 0.0, 0, 0.0, 0.0)
BALL, _ = shapes.tumour(6.0)
BIG, _ = shapes.tumour(12.0)  # so that voxels hardly matter
LONG, _ = shapes.tumour((10.0, 5.0, 4.0), donor="B", seed=1)


def posed(**changes):
    return dataclasses.replace(STILL, **changes)


def core(found):
    """The core's voxels on the whole grid."""
    whole = np.zeros(GRID.shape, bool)
    whole[found.where] = found.core < 0
    return whole


def extent(mask):
    """Voxels from end to end along each axis."""
    return np.ptp(np.argwhere(mask), axis=0) + 1


def lopsided():
    """A ROI that no mirror or turn brings onto itself."""
    ball = shapes.ellipsoid((33, 33, 33), (16, 16, 16), 7.0)
    knob = shapes.ellipsoid((33, 33, 33), (21, 19, 18), 4.0)
    labels = np.where(ball | knob, 3, 0).astype(np.uint8)
    images = {"T1w": labels + np.zeros(labels.shape)}
    return roi_of(labels, images)


def roi_of(labels, images):
    return analysed("C", 0, labels, images, dict.fromkeys(images, 0.1), np.full(3, 2.0))


@pytest.mark.parametrize("roi", [BALL, LONG], ids=["ball", "ellipsoid"])
def test_a_pose_that_does_nothing_gives_the_core_voxel_for_voxel(roi):
    found = shape.cast(GRID, roi, roi, STILL)
    offset = np.argwhere(roi.labels % 2 == 1) - 16 + SITE
    wanted = np.zeros(GRID.shape, bool)
    wanted[tuple(offset.T)] = True
    np.testing.assert_array_equal(core(found), wanted)
    dead = np.argwhere(found.necrosis < 0) + [s.start for s in found.where] - SITE + 16
    assert {tuple(v) for v in dead} == {tuple(v) for v in np.argwhere(roi.labels == 1)}
    # Every voxel shows the voxel of the ROI that is as far from the centre as it is.
    there = np.argwhere(found.core < 0)[0]
    host = there + [s.start for s in found.where]
    np.testing.assert_allclose(found.at[(slice(None), *there)], host - SITE + 16, atol=1e-4)


def test_the_roi_is_cast_where_the_rough_voxels_say():
    pose = posed(rotation_deg=[20.0, -40.0, 60.0], scale=[1.3, 0.8, 1.0], mirror=True)
    roi = lopsided()
    exact, rough = core(shape.cast(GRID, roi, roi, pose)), np.zeros(GRID.shape, bool)
    rough[tuple(shape.voxels(GRID, roi, pose).T)] = True
    assert (rough & exact).sum() > 0.9 * rough.sum()


def test_mirror_twice_is_no_mirror():
    roi = lopsided()
    flipped = roi_of(roi.labels[::-1], {"T1w": np.zeros(roi.labels.shape)})
    plain = core(shape.cast(GRID, roi, roi, STILL))
    once = core(shape.cast(GRID, roi, roi, posed(mirror=True)))
    twice = core(shape.cast(GRID, flipped, flipped, posed(mirror=True)))
    assert (once ^ plain).sum() > 0.1 * plain.sum()
    # The centre of mass lies between voxels, so that a voxel on the boundary may change sides.
    assert (twice ^ plain).sum() < 0.02 * plain.sum()


def test_the_mirror_swaps_left_and_right_however_the_grid_is_stored():
    affine = np.array([[0, 0, -2.0, 0], [2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])
    matrix = shape.forward(dataclasses.replace(GRID, affine=affine), posed(mirror=True))
    np.testing.assert_allclose(matrix, np.diag([1, 1, -1]))  # the third axis runs right to left


@settings(max_examples=15, deadline=None)
@given(
    st.tuples(*[st.floats(0.7, 1.4)] * 3),
    st.tuples(*[st.floats(-180, 180)] * 3),
)
def test_the_volume_goes_with_the_scale(scale, rotation):
    found = shape.cast(GRID, BIG, BIG, posed(scale=list(scale), rotation_deg=list(rotation)))
    wanted = (BIG.core < 0).sum() * np.prod(scale)
    assert (found.core < 0).sum() == pytest.approx(wanted, rel=0.06)


def test_distances_are_mm_of_the_host():
    """The soft boundary of a swollen tumour is as wide as that of a small one."""
    small, large = (shape.cast(GRID, BIG, BIG, posed(scale=[s] * 3)) for s in (1.0, 1.5))
    for name in ("core", "necrosis"):
        deepest = [getattr(found, name).min() for found in (small, large)]
        assert deepest[1] == pytest.approx(1.5 * deepest[0], rel=0.01)


@pytest.mark.parametrize("grow", [-3.0, -1.5, 1.5, 3.0])
def test_growth_moves_the_boundary_by_so_much(grow):
    def radius(grown):
        found = shape.cast(GRID, BIG, BIG, posed(rotation_deg=[20.0, 30.0, 40.0], grow_mm=grown))
        return (3 * core(found).sum() * 8 / (4 * np.pi)) ** (1 / 3)

    assert radius(grow) - radius(0.0) == pytest.approx(grow, abs=0.5)  # a quarter of a voxel


@pytest.mark.parametrize("grow", [-1.0, 2.0])
def test_a_tumour_without_enhancement_grows_none(grow):
    labels = np.where(shapes.ellipsoid((33, 33, 33), (16, 16, 16), 7.0), 1, 0).astype(np.uint8)
    roi = roi_of(labels, {"T1w": labels + np.zeros(labels.shape)})
    found = shape.cast(GRID, roi, roi, posed(rotation_deg=[20.0, 0, 0], grow_mm=grow, warp_mm=1.0))
    assert core(found).any()
    assert not ((found.core < 0) & (found.necrosis >= 0)).any()


def test_a_partner_gives_a_form_in_between_of_the_same_volume():
    own, other, both = (
        core(shape.cast(GRID, one, LONG, posed(partner_share=share)))
        for one, share in ((BALL, 0.0), (LONG, 0.0), (BALL, 0.5))
    )
    ratio = (other.sum() / own.sum()) ** (1 / 3)
    low, high = np.sort([extent(own), extent(other) / ratio], axis=0)
    assert (extent(both) >= low - 1).all()
    assert (extent(both) <= high + 1).all()
    assert extent(both)[0] > extent(own)[0] + 1
    assert extent(both)[2] < extent(own)[2]
    assert both.sum() == pytest.approx(own.sum(), rel=0.15)


def test_a_partner_that_is_all_gives_the_partners_form():
    both = core(shape.cast(GRID, BALL, LONG, posed(partner_share=1.0)))
    scale = ((BALL.core < 0).sum() / (LONG.core < 0).sum()) ** (1 / 3)
    wanted = core(shape.cast(GRID, LONG, LONG, posed(scale=[scale] * 3)))
    assert 2 * (both & wanted).sum() / (both.sum() + wanted.sum()) > 0.97


POSES = st.builds(
    Pose,
    site=st.lists(st.integers(5, 55), min_size=3, max_size=3),
    rotation_deg=st.lists(st.floats(-180, 180), min_size=3, max_size=3),
    scale=st.lists(st.floats(0.7, 1.4), min_size=3, max_size=3),
    mirror=st.booleans(),
    warp_mm=st.floats(0, 4),
    warp_seed=st.integers(0, 2**31),
    grow_mm=st.floats(0, 3),
    partner_share=st.floats(0, 1),
)


@settings(max_examples=25, deadline=None)
@given(POSES)
def test_necrosis_is_a_part_of_the_core_and_the_core_of_the_whole(pose):
    found = shape.cast(GRID, BALL, LONG, pose)
    assert (found.core <= found.necrosis + 1e-3).all()
    alone = shape.cast(GRID, BALL, BALL, pose)
    assert (shape.whole(BALL, alone, pose) <= alone.core + 1e-3).all()
    assert not (found.core >= 0).all()
    again = shape.cast(GRID, BALL, LONG, pose)
    np.testing.assert_array_equal(again.core, found.core)


@settings(max_examples=15, deadline=None)
@given(POSES)
def test_the_box_holds_all_of_the_core(pose):
    """Nothing of the core touches a face of its box that is not a face of the volume."""
    found = shape.cast(GRID, BALL, LONG, pose)
    for axis, (part, size) in enumerate(zip(found.where, GRID.shape, strict=True)):
        faces = np.moveaxis(found.core < 0, axis, 0)
        assert part.start == 0 or not faces[0].any()
        assert part.stop == size or not faces[-1].any()


def test_a_warp_changes_the_form_and_the_seed_decides_how():
    plain, one, same, other = (
        core(shape.cast(GRID, BALL, BALL, posed(warp_mm=sd, warp_seed=seed)))
        for sd, seed in ((0.0, 1), (2.0, 1), (2.0, 1), (2.0, 2))
    )
    np.testing.assert_array_equal(one, same)
    assert (one ^ plain).sum() > 0.05 * plain.sum()
    assert (one ^ other).sum() > 0.05 * plain.sum()


def test_outside_the_grid_there_is_nothing():
    assert shape.cast(GRID, BALL, BALL, posed(site=[-40, 30, 30])) is None
    assert shape.cast(GRID, BALL, BALL, posed(site=[30, 30, 120])) is None
