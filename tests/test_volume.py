"""Volumes: what is written is what is read, and no voxel moves in space."""

import itertools
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from tumorfab.stage import InputError
from tumorfab.volume import (
    Grid,
    Volume,
    box,
    from_sitk,
    load,
    load_grid,
    load_labels,
    load_on,
    resample,
    save,
    to_sitk,
)

SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)
SIZES = st.floats(2**-10, 2**20, width=32)
IMAGES = hnp.arrays(
    np.float32, SHAPES, elements=st.one_of(st.just(0.0), SIZES, SIZES.map(lambda x: -x))
)
AFFINE = np.array([[-1.5, 0, 0, 90], [0, 0, 2, -126], [0, 1.2, 0, -72], [0, 0, 0, 1]])


def rotation(angles: tuple[float, float, float]) -> NDArray[np.float64]:
    """Rotation about the three axes in turn, angles in radians."""
    euler = sitk.Euler3DTransform((0.0, 0.0, 0.0), *angles)
    return np.array(euler.GetMatrix()).reshape(3, 3)


@st.composite
def affines(draw: st.DrawFn) -> NDArray[np.float64]:
    """Any order of axes, any flips, a rotation, a spacing, an origin."""
    axes = np.eye(3)[draw(st.permutations(range(3)))]
    flips = np.diag(draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3)))
    spacing = np.diag(draw(st.tuples(*[st.floats(0.5, 5)] * 3)))
    turn = rotation(draw(st.tuples(*[st.floats(-3, 3)] * 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn @ axes @ flips @ spacing
    affine[:3, 3] = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    return affine


def opened(path: Path) -> Any:
    """The file as nibabel sees it, without our reading."""
    return nib.load(path)


def write(path: Path, data: NDArray[Any], affine: NDArray[Any] = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


# On disk


@settings(deadline=None)
@given(data=IMAGES)
def test_an_image_survives_the_disk_within_the_step_of_int16(
    data: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("volume") / "a.nii.gz"
    save(path, data, AFFINE)
    back = load(path)
    assert back.data.dtype == np.float32
    np.testing.assert_allclose(back.affine, AFFINE, atol=1e-4)
    assert np.abs(back.data - data).max() <= np.abs(data).max() / 32767
    assert not back.data[data == 0].any(), "the background must stay exactly 0"


@settings(deadline=None)
@given(data=hnp.arrays(np.uint8, SHAPES))
def test_labels_survive_the_disk_exactly(
    data: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("volume") / "a.nii.gz"
    save(path, data, AFFINE)
    back = load_labels(path)
    assert back.data.dtype == np.uint8
    np.testing.assert_array_equal(back.data, data)


def test_what_was_read_is_written_back_unchanged(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(100, 30, (9, 8, 7)).astype(np.float32)
    save(tmp_path / "a.nii.gz", data, AFFINE)
    first = load(tmp_path / "a.nii.gz")
    save(tmp_path / "b.nii.gz", first.data, first.affine)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_masks_are_written_as_bytes(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((5, 6, 7)) > 0.5
    save(tmp_path / "a.nii.gz", mask, AFFINE)
    assert opened(tmp_path / "a.nii.gz").get_data_dtype() == np.uint8
    np.testing.assert_array_equal(load_labels(tmp_path / "a.nii.gz").data, mask)


def test_the_same_volume_is_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(0).normal(size=(20, 21, 22)).astype(np.float32)
    save(tmp_path / "a.nii.gz", data, AFFINE)
    monkeypatch.setattr("time.time", lambda: 2e9)
    save(tmp_path / "other.nii.gz", np.asfortranarray(data), AFFINE.copy())
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "other.nii.gz").read_bytes()


def test_others_read_what_we_write(tmp_path: Path) -> None:
    data = np.random.default_rng(0).uniform(0, 9, (5, 6, 7)).astype(np.float32)
    save(tmp_path / "a.nii.gz", data, AFFINE)
    image = opened(tmp_path / "a.nii.gz")
    assert nib.aff2axcodes(image.affine) == nib.aff2axcodes(AFFINE)
    np.testing.assert_allclose(np.array(image.header.get_zooms()), [1.5, 1.2, 2.0])
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.get_qform(), AFFINE, atol=1e-4)
    itk = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    np.testing.assert_allclose(sitk.GetArrayFromImage(itk).T, load(tmp_path / "a.nii.gz").data)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_refused_volume_leaves_nothing(tmp_path: Path, bad: float) -> None:
    data = np.ones((4, 4, 4), np.float32)
    data[1, 2, 3] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        save(tmp_path / "a.nii.gz", data, AFFINE)
    assert os.listdir(tmp_path) == []


def test_other_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="int64"):
        save(tmp_path / "a.nii.gz", np.ones((4, 4, 4), np.int64), AFFINE)


def test_a_failing_write_leaves_the_old_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.nii.gz"
    save(path, np.ones((4, 4, 4), np.uint8), AFFINE)
    old = path.read_bytes()

    def full(self: Path, payload: bytes) -> int:
        with open(self, "wb") as handle:
            handle.write(payload[:10])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save(path, np.zeros((4, 4, 4), np.uint8), AFFINE)
    assert os.listdir(tmp_path) == ["a.nii.gz"]
    assert path.read_bytes() == old


# Reading what others wrote


def test_scaled_integers_are_read_in_their_own_units(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), AFFINE)
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, tmp_path / "a.nii")
    raw = np.asanyarray(opened(tmp_path / "a.nii").dataobj)
    np.testing.assert_array_equal(load(tmp_path / "a.nii").data, raw.astype(np.float32))


def test_trailing_axes_of_one_are_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", np.ones((3, 4, 5, 1, 1), np.float32))
    assert load(path).data.shape == load_grid(path).shape == (3, 4, 5)


def test_the_header_alone_gives_the_grid(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", np.ones((3, 4, 5), np.float32))
    grid = load_grid(path)
    assert grid.matches(load(path).grid)
    np.testing.assert_allclose(grid.spacing, [1.5, 1.2, 2.0])
    assert grid.voxel_volume == pytest.approx(1.5 * 1.2 * 2.0)


def message(path: Path, read: Any = load) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.95])
def test_a_truncated_file_is_refused(tmp_path: Path, ending: str, kept: float) -> None:
    data = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    path = write(tmp_path / f"a{ending}", data)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    assert "not a readable NIfTI" in message(path) or "cannot be read to its end" in message(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert message(tmp_path / "a.nii.gz").endswith("no such file")


def test_what_is_no_nifti_is_refused(tmp_path: Path) -> None:
    nib.save(nib.MGHImage(np.ones((3, 3, 3), np.float32), AFFINE), tmp_path / "a.mgz")
    assert "is MGHImage, not NIfTI" in message(tmp_path / "a.mgz")
    (tmp_path / "a.nii").write_text("text")
    assert "not a readable NIfTI" in message(tmp_path / "a.nii")


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6, 2), (4, 5, 1, 2)])
def test_what_is_not_3d_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = write(tmp_path / "a.nii", np.ones(shape, np.float32))
    assert "one 3D volume is needed" in message(path)


def test_colours_and_complex_numbers_are_refused(tmp_path: Path) -> None:
    colours = np.zeros((3, 3, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert "not one number each" in message(write(tmp_path / "a.nii", colours))
    phases = np.zeros((3, 3, 3), np.complex64)
    assert "not one number each" in message(write(tmp_path / "b.nii", phases))


@pytest.mark.parametrize("value", [0.5, -1, 256, np.nan])
def test_what_is_no_label_map_is_refused(tmp_path: Path, value: float) -> None:
    path = write(tmp_path / "a.nii", np.full((3, 3, 3), value, np.float32))
    assert "not a label map" in message(path, load_labels)


def test_a_header_without_geometry_has_no_affine(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((3, 3, 3), np.float32), AFFINE)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(image, tmp_path / "a.nii")
    assert not load_grid(tmp_path / "a.nii").affine.any()


def test_the_qform_counts_where_there_is_no_sform(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((3, 3, 3), np.float32), AFFINE)
    image.set_qform(AFFINE, 1)
    image.set_sform(None, 0)
    nib.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_allclose(load_grid(tmp_path / "a.nii.gz").affine, AFFINE, atol=1e-4)


def test_load_on_insists_on_the_grid(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    save(path, np.ones((3, 4, 5), np.uint8), AFFINE)
    shifted = AFFINE.copy()
    shifted[0, 3] += 0.5
    assert load_on(path, Grid((3, 4, 5), AFFINE), labels=True).dtype == np.uint8
    with pytest.raises(InputError, match="is on another grid"):
        load_on(path, Grid((3, 4, 5), shifted))
    with pytest.raises(InputError, match="is on another grid"):
        load_on(path, Grid((3, 4, 6), AFFINE))


# Grids


@given(affines(), st.floats(-0.004, 0.004))
def test_a_grid_matches_itself_within_header_precision(
    affine: NDArray[np.float64], error: float
) -> None:
    moved = affine.copy()
    moved[:3, 3] += error
    assert Grid((20, 30, 25), affine).matches(Grid((20, 30, 25), moved))
    assert not Grid((20, 30, 25), affine).matches(Grid((20, 30, 26), affine))
    moved[1, 3] += 0.05
    assert not Grid((20, 30, 25), affine).matches(Grid((20, 30, 25), moved))


def test_a_small_turn_shows_at_the_far_corner() -> None:
    turned = np.eye(4)
    turned[:3, :3] = rotation((0, 0, 0.001))
    assert not Grid((200, 200, 200), np.eye(4)).matches(Grid((200, 200, 200), turned))


def centre(grid: Grid) -> NDArray[np.float64]:
    """Centre of the field of view in mm."""
    middle: NDArray[np.float64] = (grid.affine @ [*(np.array(grid.shape) - 1) / 2, 1])[:3]
    return middle


@given(affines(), st.tuples(*[st.integers(1, 60)] * 3), st.floats(0.5, 8))
def test_a_coarsened_grid_covers_the_same_field_of_view(
    affine: NDArray[np.float64], shape: tuple[int, int, int], spacing: float
) -> None:
    grid = Grid(shape, affine)
    coarse = grid.coarsened(spacing)
    np.testing.assert_allclose(coarse.spacing, spacing)
    np.testing.assert_allclose(centre(coarse), centre(grid), atol=1e-6)
    extent, covered = np.array(shape) * grid.spacing, np.array(coarse.shape) * spacing
    assert (covered >= extent - 0.002 * spacing).all(), "nothing is cut off"
    assert (covered < extent + spacing).all(), "by no more than a voxel"
    np.testing.assert_allclose(
        coarse.affine[:3, :3] / spacing, affine[:3, :3] / grid.spacing, atol=1e-9
    )


def test_brats_at_2_mm_has_half_its_voxels() -> None:
    assert Grid((240, 240, 155), np.diag([-1.0, -1, 1, 1])).coarsened(2).shape == (120, 120, 78)


# SimpleITK


@given(affines())
def test_sitk_and_back_moves_no_voxel(affine: NDArray[np.float64]) -> None:
    data = np.arange(3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5)
    image = to_sitk(Volume(data, affine))
    back = from_sitk(image)
    np.testing.assert_array_equal(back.data, data)
    np.testing.assert_allclose(back.affine, affine, atol=1e-6)
    for index in itertools.product((0, 2), (0, 3), (0, 4)):
        assert image.GetPixel(*index) == data[index]
        lps = np.array(image.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose(lps * [-1, -1, 1], (affine @ [*index, 1])[:3], atol=1e-6)


def test_sitk_shares_no_memory() -> None:
    data = np.zeros((3, 4, 5), np.float32)
    image = to_sitk(Volume(data, AFFINE))
    data[:] = 1
    assert not sitk.GetArrayViewFromImage(image).any()


# Resampling


def smooth(shape: tuple[int, int, int] = (24, 22, 20)) -> NDArray[np.float32]:
    i, j, k = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    return (100 * np.exp(-2 * (i**2 + 1.5 * j**2 + k**2 + i * j))).astype(np.float32)


def test_the_identity_returns_the_very_voxels() -> None:
    data = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)
    volume = Volume(data, AFFINE)
    np.testing.assert_array_equal(resample(volume, volume.grid), data)
    labels = Volume((data > 0).astype(np.uint8), AFFINE)
    np.testing.assert_array_equal(resample(labels, labels.grid, labels=True), labels.data)


def test_a_permuted_and_flipped_grid_gives_the_permuted_and_flipped_voxels() -> None:
    volume = Volume(smooth(), np.diag([2.0, 2.0, 2.0, 1.0]))
    order, flip = (2, 0, 1), np.array([1.0, -1.0, 1.0])
    expected = np.flip(volume.data.transpose(order), 1)
    affine = np.eye(4)
    affine[:3, :3] = volume.affine[:3, :3][:, order] * flip
    affine[:3, 3] = volume.affine[:3, :3][:, order[1]] * (expected.shape[1] - 1)
    i, j, k = expected.shape
    out = resample(volume, Grid((i, j, k), affine))
    np.testing.assert_allclose(out, expected, atol=1e-3)


def test_a_turned_grid_agrees_with_an_independent_interpolation() -> None:
    volume = Volume(smooth(), np.diag([2.0, 2.0, 2.0, 1.0]))
    affine = np.eye(4)
    affine[:3, :3] = rotation((0.2, -0.1, 0.3)) * 2
    affine[:3, 3] = (8.3, 5.1, 9.7)
    grid = Grid((12, 12, 12), affine)
    indices = np.vstack([np.indices(grid.shape).reshape(3, -1), np.ones(12**3)])
    points: NDArray[Any] = (np.linalg.inv(volume.affine) @ affine @ indices)[:3]
    expected = map_coordinates(volume.data, points, order=3).reshape(grid.shape)
    expected = expected.clip(0, volume.data.max())
    limits = np.array(volume.data.shape)[:, None] - 3  # the borders are a matter of convention
    inside = ((points > 2) & (points < limits)).all(0).reshape(grid.shape)
    assert inside.sum() > 500
    np.testing.assert_allclose(resample(volume, grid)[inside], expected[inside], atol=0.02)


def test_a_transform_maps_points_of_the_grid_to_the_volume() -> None:
    volume = Volume(smooth(), np.diag([2.0, 2.0, 2.0, 1.0]))
    shift = sitk.TranslationTransform(3, (-2.0, 0.0, 0.0))  # LPS: one voxel towards +I in RAS
    out = resample(volume, volume.grid, shift)
    np.testing.assert_allclose(out[:-1], volume.data[1:], atol=1e-3)


def test_interpolation_does_not_ring() -> None:
    data = np.zeros((16, 16, 16), np.float32)
    data[5:11, 5:11, 5:11] = 100
    affine = np.eye(4)
    affine[:3, 3] = 0.4
    out = resample(Volume(data, np.eye(4)), Grid((15, 15, 15), affine))
    assert out.min() >= 0
    assert 95 < out.max() <= 100


def test_outside_the_field_of_view_is_zero() -> None:
    affine = np.eye(4)
    affine[:3, 3] = 100
    out = resample(Volume(np.full((8, 8, 8), 5, np.float32), np.eye(4)), Grid((8, 8, 8), affine))
    assert not out.any()


def test_coarsening_averages_what_the_grid_cannot_hold() -> None:
    noise = np.random.default_rng(0).normal(100, 20, (32, 32, 32)).astype(np.float32)
    volume = Volume(noise, np.eye(4))
    out = resample(volume, volume.grid.coarsened(4))[1:-1, 1:-1, 1:-1]
    assert out.mean() == pytest.approx(100, abs=1.5)
    assert out.std() < 10, "plain interpolation would keep most of the noise's 20"


def test_labels_keep_their_classes_and_volumes() -> None:
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[8:32, 8:32, 8:32] = 2
    labels[12:28, 12:28, 12:28] = 3
    labels[16:24, 16:24, 16:24] = 1
    volume = Volume(labels, np.eye(4))
    out = resample(volume, volume.grid.coarsened(2), labels=True)
    assert out.dtype == np.uint8
    assert set(np.unique(out)) == {0, 1, 2, 3}
    for value in (1, 2, 3):
        assert (out == value).sum() * 8 == pytest.approx((labels == value).sum(), rel=0.25)


def test_labels_never_blend_into_another_class() -> None:
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[6:] = 3  # half way between 0 and 3 lie 1 and 2, which are not there
    affine = np.eye(4)
    affine[:3, :3] = rotation((0.3, 0.2, 0.1))
    out = resample(Volume(labels, np.eye(4)), Grid((12, 12, 12), affine), labels=True)
    assert set(np.unique(out)) == {0, 3}


def test_resampling_twice_gives_the_same_bytes() -> None:
    volume = Volume(smooth(), np.diag([2.0, 2.0, 2.0, 1.0]))
    grid = volume.grid.coarsened(3)
    assert resample(volume, grid).tobytes() == resample(volume, grid).tobytes()


def test_box_is_tight_and_its_margin_ends_at_the_volume():
    mask = np.zeros((10, 11, 12), bool)
    mask[2, 3, 4] = mask[4, 9, 5] = True
    assert box(mask) == (slice(2, 5), slice(3, 10), slice(4, 6))
    assert box(mask, 3) == (slice(0, 8), slice(0, 11), slice(1, 9))
    with pytest.raises(ValueError, match="empty mask"):
        box(np.zeros((3, 3, 3), bool))
