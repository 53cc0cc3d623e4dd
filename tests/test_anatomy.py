"""Ventricles and the midsagittal plane: known answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tumorfab import anatomy, mni152, volume
from tumorfab.anatomy import Plane
from tumorfab.volume import Grid

MNI = mni152.template(4.0)
SIDEWAYS = Plane((0.0, 0.0, 0.0), (1.0, 0.0, 0.0))


def tilted(yaw: float, roll: float, shift: float) -> tuple[np.ndarray, np.ndarray, Plane]:
    """MNI152 turned and shifted on its own grid, its mask and its plane."""
    turn = volume.sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.0, np.deg2rad(roll), np.deg2rad(yaw))
    turn.SetTranslation((-shift, 0.0, 0.0))
    back = turn.GetInverse()
    image = volume.resample(MNI.t1, MNI.t1.grid, back)
    share = volume.resample(
        volume.Volume(MNI.mask.astype(np.float32), MNI.t1.affine), MNI.t1.grid, back
    )
    points = np.array([turn.TransformPoint(p) for p in ((0.0, 0, 0), (-1.0, 0, 0))])
    points *= [-1, -1, 1]  # ITK's axes are LPS
    normal = points[1] - points[0]
    return image, share > 0.5, Plane(tuple(points[0]), tuple(normal))


@settings(max_examples=6, deadline=None)
@given(yaw=st.integers(-8, 8), roll=st.integers(-8, 8), shift=st.integers(-6, 6))
def test_the_plane_of_a_turned_brain_is_found(yaw, roll, shift):
    image, mask, truth = tilted(yaw, roll, shift)
    found = anatomy.midsagittal(image, mask, MNI.t1.grid, SIDEWAYS)
    angle = np.rad2deg(np.arccos(min(1.0, np.dot(found.normal, truth.normal))))
    assert angle < 1.0
    inside = np.argwhere(mask)[::100] @ MNI.t1.affine[:3, :3].T + MNI.t1.affine[:3, 3]
    assert np.abs(found.distance(inside) - truth.distance(inside)).max() < 2.0


def test_a_tumour_on_one_side_does_not_move_the_plane():
    image, mask, truth = tilted(4.0, -3.0, 3.0)
    where = np.argwhere(mask)
    lesion = np.linalg.norm(where - np.quantile(where, 0.7, axis=0), axis=1) < 6
    image[tuple(where[lesion].T)] = 2 * image.max()
    found = anatomy.midsagittal(image, mask, MNI.t1.grid, SIDEWAYS)
    assert np.rad2deg(np.arccos(np.dot(found.normal, truth.normal))) < 2.0


def test_mirroring_twice_is_nothing_and_keeps_the_distance():
    plane = Plane((3.0, -2.0, 1.0), (0.8, 0.6, 0.0))
    points = np.random.default_rng(0).normal(0, 50, (20, 3))
    mirrored = plane.mirrored(points)
    np.testing.assert_allclose(plane.mirrored(mirrored), points, atol=1e-9)
    np.testing.assert_allclose(plane.distance(mirrored), -plane.distance(points), atol=1e-9)


def test_mapped_plane_is_where_the_matrix_gives_x_0():
    matrix = np.array([[2.0, 1, 0, 6], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    plane = anatomy.mapped(matrix)
    assert np.linalg.norm(plane.normal) == pytest.approx(1)
    assert (matrix @ [*plane.point, 1])[0] == pytest.approx(0)
    on_right = np.array(plane.point) + plane.normal
    assert (matrix @ [*on_right, 1])[0] > 0


def test_no_brain_has_no_plane():
    empty = np.zeros((4, 4, 4), np.float32)
    with pytest.raises(ValueError, match="no brain"):
        anatomy.midsagittal(empty, empty > 0, Grid((4, 4, 4), np.eye(4)), SIDEWAYS)


def test_template_ventricles_are_two_mirrored_spaces_of_known_volume():
    mni = mni152.template(1.0)
    inner = mni.ventricles
    assert 12 < inner.sum() / 1000 < 25  # ml
    pieces, count = ndimage.label(inner[: inner.shape[0] // 2])
    assert np.bincount(pieces.ravel())[1:].max() > 0.95 * (pieces > 0).sum()
    assert count <= 3
    np.testing.assert_array_equal(inner, inner[::-1])


def test_ventricles_keep_what_touches_and_leave_sulci():
    shape = (20, 20, 20)
    expected, other, csf = np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(shape, np.float32)
    expected[8:10, 8:12, 8:12] = True
    other[1, :, :] = True
    csf[7:12, 7:13, 8:12] = 1.0  # larger than expected
    csf[1:4, 5:10, 5:10] = 1.0  # a sulcus
    csf[9, 9, 17] = 1.0  # near, but it touches nothing
    found = anatomy.ventricles(csf, expected, other, np.ones(3))
    grown = np.zeros(shape, bool)
    grown[7:12, 7:13, 8:12] = True
    np.testing.assert_array_equal(found, grown)
