import numpy as np
import pytest
import SimpleITK as sitk
from heads import error_mm, head, pose
from hypothesis import given
from hypothesis import strategies as st

from tumorfab import brain, mni152, register, volume
from tumorfab.volume import Volume


def shifted(*mm: float) -> sitk.AffineTransform:
    transform = sitk.AffineTransform(3)
    transform.SetTranslation(mm)
    return transform


@pytest.fixture(scope="module")
def pair() -> tuple[Volume, Volume, np.ndarray, sitk.AffineTransform]:
    mni = mni152.template(4.0)
    subject = head(stripped=True)
    start = register.moments(
        Volume(mni.mask, mni.t1.affine), Volume(subject.mask, subject.scan.affine)
    )
    return mni.t1, subject.scan, mni.mask, start


@pytest.mark.parametrize("metric", [register.CORRELATION, register.INFORMATION])
def test_known_pose_is_recovered(pair, metric):
    fixed, moving, mask, start = pair
    found = register.linear(fixed, moving, mask, start, metric)
    assert error_mm(start, pose()) > 4
    assert error_mm(found.transform, pose()) < 1
    assert found.after > max(0.9, found.before)


def test_information_registers_another_contrast(pair):
    fixed, _, _, start = pair
    other = head(modality="T2w", stripped=True).scan
    rim = mni152.template(4.0).distance < brain.EDGE_MM
    found = register.linear(fixed, other, rim, start, register.INFORMATION)
    assert error_mm(found.transform, pose()) < 2


def test_rigid_keeps_distances(pair):
    fixed, moving, mask, _ = pair
    found = register.linear(fixed, moving, mask, pose(pitch=3), stages=("rigid",))
    matrix = np.array(found.transform.GetMatrix()).reshape(3, 3) / 0.92
    assert np.allclose(matrix.T @ matrix, np.eye(3), atol=1e-6)
    assert error_mm(found.transform, pose()) < 1


def test_bits_do_not_depend_on_threads(pair):
    fixed, moving, mask, start = pair
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    outcomes = set()
    try:
        for count in (1, 2, 5):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)
            for metric in (register.CORRELATION, register.INFORMATION):
                found = register.linear(fixed, moving, mask, start, metric)
                outcomes.add((metric, found.transform.GetParameters(), found.after))
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    assert len(outcomes) == 2


def test_moments_match_centre_and_volume():
    small = np.zeros((20, 20, 20), bool)
    small[5:9, 5:9, 5:9] = True
    large = np.zeros((20, 20, 20), bool)
    large[2:10, 4:12, 6:14] = True
    start = register.moments(Volume(small, np.eye(4)), Volume(large, np.eye(4)))
    assert start.TransformPoint((-6.5, -6.5, 6.5)) == pytest.approx((-5.5, -7.5, 9.5))
    assert start.TransformPoint((-8.5, -6.5, 6.5)) == pytest.approx((-9.5, -7.5, 9.5))


def test_moments_refuse_an_empty_mask():
    empty = Volume(np.zeros((4, 4, 4), bool), np.eye(4))
    with pytest.raises(ValueError, match="empty mask"):
        register.moments(empty, empty)


coordinate = st.floats(-100, 100)


@given(st.tuples(coordinate, coordinate, coordinate))
def test_compose_applies_first_then_second(point):
    first, then = pose(), shifted(1.0, 2.0, 3.0)
    expected = then.TransformPoint(first.TransformPoint(point))
    assert register.compose(first, then).TransformPoint(point) == pytest.approx(expected)


def test_composed_resampling_equals_two_steps():
    subject = head(stripped=True)
    grid = subject.scan.grid
    once = volume.resample(subject.scan, grid, register.compose(shifted(8, 0, 0), shifted(0, 4, 0)))
    first = volume.resample(subject.scan, grid, shifted(0, 4, 0))
    twice = volume.resample(Volume(first, grid.affine), grid, shifted(8, 0, 0))
    assert np.allclose(once, twice, atol=0.01)


def test_shrunk_averages_blocks_and_keeps_the_centre():
    data = np.arange(8**3, dtype=np.float32).reshape(8, 8, 8)
    small = register.shrunk(Volume(data, np.diag([1.0, 1, 1, 1])), 4.0)
    assert small.data.shape == (2, 2, 2)
    assert small.data[0, 0, 0] == pytest.approx(data[:4, :4, :4].mean())
    assert small.affine[:3, 3] == pytest.approx([1.5, 1.5, 1.5])


def test_correlation_of_a_constant_image_is_zero(pair):
    fixed, _, mask, start = pair
    flat = Volume(np.zeros((30, 30, 30), np.float32), np.diag([4.0, 4, 4, 1]))
    assert register.correlation(fixed, flat, mask, start) == 0
