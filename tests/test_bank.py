import numpy as np
import pytest
import toy

from tumorfab import bank
from tumorfab.contrast import Reference, reference
from tumorfab.stage import InputError, read_json
from tumorfab.volume import Grid, load

GRID = Grid((30, 30, 30), np.diag([2.0, 2.0, 2.0, 1.0]))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    toy.write_cohort(folder)
    return folder


def test_components_become_rois_largest_first():
    labels = np.zeros(GRID.shape, np.uint8)
    labels[3:8, 3:8, 3:8] = 2  # 1000 mm^3
    labels[15:25, 15:25, 15:25] = 2  # 8000 mm^3
    labels[18:20, 18:20, 18:20] = 3
    labels[28, 28, 28] = 2  # a speck of 8 mm^3, left out
    image = np.arange(27000, dtype=np.float32).reshape(GRID.shape)
    found = bank.extract("A", {"T1w": image}, labels, {"T1w": Reference(10.0, 2.0)}, GRID)
    assert [roi.name for roi, _ in found] == ["A-0", "A-1"]
    (large, box), (small, _) = found
    assert (large.labels > 0).sum() == 1000
    assert (small.labels > 0).sum() == 125
    assert box == (slice(11, 29), slice(11, 29), slice(11, 29))  # 8 mm = 4 voxels of margin
    np.testing.assert_allclose(large.images["T1w"], (image[box] - 10) / 2)


def test_a_roi_holds_one_tumour_only():
    labels = np.zeros(GRID.shape, np.uint8)
    labels[3:10, 3:10, 3:10] = 2
    labels[12:19, 3:10, 3:10] = 1  # within the margin of the first
    image = np.ones(GRID.shape, np.float32)
    for roi, _ in bank.extract("A", {"T1w": image}, labels, {"T1w": Reference(0, 1)}, GRID):
        assert len(np.unique(roi.labels[roi.labels > 0])) == 1


def test_a_lone_speck_is_still_a_tumour():
    labels = np.zeros(GRID.shape, np.uint8)
    labels[5, 5, 5] = 1
    image = np.ones(GRID.shape, np.float32)
    assert len(bank.extract("A", {"T1w": image}, labels, {"T1w": Reference(0, 1)}, GRID)) == 1


def test_bank_round_trip_and_description(results):
    rois = bank.load(results / "bank", ["A2", "A1"])
    assert [roi.donor for roi in rois] == ["A2", "A1"]
    assert set(rois[0].images) == set(toy.MODALITIES)
    about = read_json(results / "bank" / "sub-A1_rois.json")
    assert about["licence"] == "CC0"
    classes = about["rois"][0]["classes"]
    labels = load(results / "sub-A1/anat" / f"sub-A1_space-{toy.LABEL}_dseg.nii.gz").data
    for value, name in bank.CLASSES.items():
        assert classes[name]["volume_mm3"] == pytest.approx((labels == value).sum() * 64)
    # T1w: white matter 1, grey 0 -> centre 0.5, scale 1; NCR at -2 is -2.5 relative.
    assert about["reference"]["T1w"] == pytest.approx([0.5, 1.0], abs=0.1)
    assert classes["NCR"]["intensity"]["T1w"]["mean"] == pytest.approx(-2.5, abs=0.5)


def test_same_cases_same_bytes(results, tmp_path):
    toy.write_cohort(tmp_path)
    for path in sorted((results / "bank").iterdir()):
        assert path.read_bytes() == (tmp_path / "bank" / path.name).read_bytes(), path.name


def test_a_broken_roi_file_is_named(tmp_path):
    (tmp_path / "sub-A_rois.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"sub-A_rois.npz: not a readable ROI file"):
        bank.load(tmp_path, ["A"])


def test_reference_undoes_any_scanner():
    rng = np.random.default_rng(0)
    wm = np.zeros((20, 20, 20), np.float32)
    wm[:10] = 1
    image = np.where(wm > 0, 100, 60) + rng.normal(0, 2, wm.shape)
    one = reference(image, wm, 1 - wm)
    two = reference(3 * image + 40, wm, 1 - wm)
    np.testing.assert_allclose(one.relative(image), two.relative(3 * image + 40), atol=1e-5)
    np.testing.assert_allclose(one.absolute(one.relative(image)), image, atol=1e-4)


def test_reference_needs_both_tissues():
    none = np.zeros((8, 8, 8), np.float32)
    with pytest.raises(InputError, match="no white or no grey"):
        reference(none, none, none + 1)
