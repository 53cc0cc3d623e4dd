import numpy as np
import pytest
import shapes
from hypothesis import given, settings
from hypothesis import strategies as st

from tumorfab import sites
from tumorfab.anatomy import Plane

GRID = shapes.grid(4.0, 40, 48, 40)
# MNI152's origin in the middle of the grid, a little off and turned against it.
TO_MNI = np.eye(4)
TO_MNI[:3, 3] = -78.0, -110.0, -70.0
PLANE = Plane((78.0, 0.0, 0.0), (1.0, 0.0, 0.0))
TISSUE = shapes.ellipsoid(GRID.shape, (19.5, 23.5, 19.5), (17, 22, 18))


def lesion(centre, core_mm3=5000.0):
    volumes = {"NCR": core_mm3 / 2, "ET": core_mm3 / 2, "ED": 1e4}
    return {
        "centre_mm": list(centre),
        "classes": {name: {"volume_mm3": v} for name, v in volumes.items()},
    }


LESIONS = [lesion((110.0, 130.0, 90.0))]


def candidates(wanted="any", side="any", tissue=TISSUE, lesions=LESIONS):
    voxels, weights = sites.candidates(tissue, GRID, TO_MNI, PLANE, lesions, wanted, side)
    points = voxels @ GRID.affine[:3, :3].T + GRID.affine[:3, 3]
    return voxels, weights, points


def test_a_landmark_lies_in_its_own_region_on_both_sides():
    for name, marks in sites.LANDMARKS.items():
        points = np.array(marks, float)
        for sign in (1, -1):
            assert set(sites.region(points * [sign, 1, 1])) == {name}


@pytest.mark.parametrize("name", sites.LANDMARKS)
def test_a_region_that_was_asked_for_is_kept_to(name):
    _, weights, points = candidates(name)
    assert len(points) > 5
    assert set(sites.region(points + TO_MNI[:3, 3])) == {name}
    assert weights.sum() == pytest.approx(1)


def test_the_brain_stem_is_only_for_those_who_ask():
    everywhere = sites.region(candidates()[2] + TO_MNI[:3, 3])
    assert set(everywhere) == set(sites.LANDMARKS) - {"brainstem"}


def test_the_side_is_the_patients():
    assert (candidates(side="right")[2][:, 0] > 78).all()  # +x is right
    assert (candidates(side="left")[2][:, 0] <= 78).all()
    both = candidates(side="right")[0].shape[0] + candidates(side="left")[0].shape[0]
    assert both == candidates()[0].shape[0]


def test_candidates_lie_in_tissue():
    voxels, _, _ = candidates()
    assert TISSUE[tuple(voxels.T)].all()
    voxels, weights, _ = candidates(tissue=TISSUE & False)
    assert len(voxels) == len(weights) == 0


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(0, 150)] * 3), min_size=1, max_size=4),
    st.tuples(*[st.floats(-1, 1)] * 2),
)
def test_the_frequency_is_symmetric(centres, tilt):
    normal = np.array([1.0, *tilt]) / np.linalg.norm([1.0, *tilt])
    plane = Plane((78.0, 90.0, 70.0), tuple(normal))
    lesions = [lesion(centre) for centre in centres]
    points = np.random.default_rng(0).uniform(0, 150, (50, 3))
    np.testing.assert_allclose(
        sites.frequency(points, lesions, plane),
        sites.frequency(plane.mirrored(points), lesions, plane),
        rtol=1e-6,
    )


def test_sites_are_likelier_where_the_cohort_has_tumours_but_possible_everywhere():
    _, weights, points = candidates()
    centre = np.array(LESIONS[0]["centre_mm"])
    apart = np.linalg.norm(points - centre, axis=1)
    mirrored = np.linalg.norm(points - PLANE.mirrored(centre[None]), axis=1)
    near, far = np.minimum(apart, mirrored) < 12, np.minimum(apart, mirrored) > 60
    assert weights[near].mean() > 5 * weights[far].mean()
    assert weights.min() >= sites.UNIFORM / len(weights) * (1 - 1e-9)
    assert weights.sum() == pytest.approx(1)


def test_a_lesion_far_outside_the_brain_changes_nothing():
    _, weights, _ = candidates(lesions=[lesion((9e4, 0.0, 0.0))])
    assert weights.sum() > 0
    np.testing.assert_allclose(weights, weights[0])


def test_the_voxel_of_a_point_of_mni152():
    voxel = sites.voxel([2.0, 10.0, -30.0], TO_MNI, GRID)
    assert voxel == [20, 30, 10]
    assert [type(v) for v in voxel] == [int] * 3
