import shutil

import numpy as np
import pytest
import shapes
import toy

from tumorfab import bank, roi
from tumorfab.contrast import Reference, reference
from tumorfab.stage import InputError, read_json
from tumorfab.volume import load, load_labels, save

GRID = shapes.grid(2.0, 30, 30, 30)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    toy.write_cohort(folder)
    return folder


def extracted(labels):
    image = np.arange(27000, dtype=np.float32).reshape(GRID.shape) % 97
    return roi.extract(
        "A", {"T1w": image}, labels, {"T1w": Reference(10.0, 2.0)}, {"T1w": 0.1}, GRID
    )


def test_components_become_rois_largest_first():
    labels = np.zeros(GRID.shape, np.uint8)
    labels[3:8, 3:8, 3:8] = 1  # 1000 mm^3
    labels[15:25, 15:25, 15:25] = 2  # 8000 mm^3
    labels[18:20, 18:20, 18:20] = 3
    labels[28, 28, 28] = 1  # a speck of 8 mm^3, left out
    found = extracted(labels)
    assert [one.name for one, _ in found] == ["A-0", "A-1"]
    (large, box), (small, _) = found
    assert (large.labels > 0).sum() == 1000
    assert (small.labels > 0).sum() == 125
    assert box == (slice(11, 29), slice(11, 29), slice(11, 29))  # 8 mm = 4 voxels of margin
    assert ((large.core < 0) == (large.labels == 3)).all()
    assert ((large.whole < 0) == (large.labels > 0)).all()


def test_oedema_without_a_core_is_left_out():
    labels = np.zeros(GRID.shape, np.uint8)
    labels[15:25, 15:25, 15:25] = 2
    assert extracted(labels) == []
    labels[3:8, 3:8, 3:8] = 3
    assert [one.name for one, _ in extracted(labels)] == ["A-0"]


def test_a_roi_holds_one_tumour_only():
    labels = np.zeros(GRID.shape, np.uint8)
    labels[3:10, 3:10, 3:10] = 3
    labels[12:19, 3:10, 3:10] = 1  # within the margin of the first
    found = extracted(labels)
    assert [np.unique(one.labels).tolist() for one, _ in found] == [[0, 3], [0, 1]]


def test_a_lone_speck_is_still_a_tumour():
    labels = np.zeros(GRID.shape, np.uint8)
    labels[5, 5, 5] = 1
    assert len(extracted(labels)) == 1


def test_bank_round_trip(tmp_path):
    one, _ = shapes.tumour()
    bank.save(tmp_path / "sub-A_rois.npz", [one])
    back = bank.Bank(tmp_path, {}).roi("A-0")
    assert back.name == one.name
    np.testing.assert_array_equal(back.labels, one.labels)
    np.testing.assert_array_equal(back.spacing, one.spacing)
    for name in ("core", "necrosis", "whole"):
        np.testing.assert_allclose(getattr(back, name), getattr(one, name), atol=0.03)
        # The boundary, which lies between voxels, is kept exactly.
        np.testing.assert_array_equal(getattr(back, name) < 0, getattr(one, name) < 0)
    assert list(back.texture) == list(one.texture)
    for modality, texture in one.texture.items():
        np.testing.assert_allclose(back.texture[modality], texture, atol=0.002)
    for name, look in one.look.items():
        for what, values in look.items():
            np.testing.assert_array_equal(back.look[name][what], values)


def test_a_roi_is_read_once(tmp_path):
    one, _ = shapes.tumour()
    bank.save(tmp_path / "sub-A_rois.npz", [one])
    rois = bank.Bank(tmp_path, {})
    assert rois.roi("A-0") is rois.roi("A-0")


def test_the_description_says_volumes_places_and_look(results):
    rois = bank.load(results / "bank", ["A2", "A1"])
    assert [a["donor"] for a in rois.about.values()] == ["A2", "A1"]
    about = read_json(results / "bank" / "sub-A1_rois.json")
    assert about["licence"] == "CC0"
    (described,) = about["rois"]
    assert rois.about["A1-0"] == described
    labels = load_labels(results / "sub-A1/anat" / f"sub-A1_space-{toy.LABEL}_dseg.nii.gz").data
    for value, name in roi.CLASSES.items():
        volume = described["classes"][name]["volume_mm3"]
        assert volume == pytest.approx((labels == value).sum() * 64)
    # The tumour's middle is voxel (12, 22, 18); MNI152's origin is the middle of the toy grid.
    np.testing.assert_allclose(described["centre_mm"], [-48, -88, 72], atol=2)
    np.testing.assert_allclose(described["centre_mni_mm"], [30, -2, 2], atol=2)
    box = tuple(slice(*ends) for ends in described["box"])
    assert (labels[box] > 0).sum() == (labels > 0).sum()


def test_looks_are_relative_to_the_patients_own_tissue(results):
    about = read_json(results / "bank" / "sub-A1_rois.json")
    image = load(results / "sub-A1/anat" / f"sub-A1_space-{toy.LABEL}_desc-preproc_T1w.nii.gz").data
    labels = load_labels(results / "sub-A1/anat" / f"sub-A1_space-{toy.LABEL}_dseg.nii.gz").data
    centre, scale = about["reference"]["T1w"]
    necrosis = (image[labels == 1] - centre) / scale
    described = about["rois"][0]["classes"]["NCR"]
    assert described["mean"]["T1w"] == pytest.approx(necrosis.mean(), abs=1e-3)
    assert described["sd"]["T1w"] == pytest.approx(necrosis.std(ddof=1), abs=1e-3)


def test_same_cases_same_bytes(results, tmp_path):
    toy.write_cohort(tmp_path)
    paths = sorted((results / "bank").iterdir())
    assert len(paths) == 2 * 4
    for path in paths:
        assert path.read_bytes() == (tmp_path / "bank" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("spoil", ["garbage", "cut", "flipped", "empty"])
def test_a_broken_roi_file_is_named(results, tmp_path, spoil):
    shutil.copytree(results / "bank", tmp_path / "bank")
    path = tmp_path / "bank" / "sub-A1_rois.npz"
    good = path.read_bytes()
    flipped = bytes(b ^ 255 for b in good[200:400])
    content = {
        "garbage": b"nothing",
        "cut": good[:5000],
        "flipped": good[:200] + flipped + good[400:],
        "empty": b"",
    }
    path.write_bytes(content[spoil])
    rois = bank.load(tmp_path / "bank", ["A1"])
    with pytest.raises(InputError, match=r"sub-A1_rois.npz: not a readable ROI file") as caught:
        rois.roi("A1-0")
    assert "\n" not in str(caught.value)


def test_a_roi_file_of_another_version_is_named(tmp_path):
    np.savez(tmp_path / "sub-A_rois.npz", **{"0/labels": np.zeros((2, 2, 2))})
    with pytest.raises(InputError, match=r"sub-A_rois.npz: not a readable ROI file"):
        bank.Bank(tmp_path, {}).roi("A-0")


def bank_of(results, tmp_path, labels):
    """The bank of one more case, whose tumour is `labels`."""
    anat = toy.write_subject(tmp_path, "X", (12, 22, 18))
    save(anat / f"sub-X_space-{toy.LABEL}_dseg.nii.gz", labels, toy.GRID.affine)
    bank.bank_case("X", anat, toy.LABEL, toy.MODALITIES, "CC0", tmp_path / "bank")


def test_a_bank_without_any_core_is_refused(results, tmp_path):
    oedema = np.where(toy.distance(np.array([12, 22, 18])) < 22, 2, 0).astype(np.uint8)
    bank_of(results, tmp_path, oedema)
    assert read_json(tmp_path / "bank" / "sub-X_rois.json")["rois"] == []
    with pytest.raises(InputError, match=r"bank: none of X has a tumour core .* other training"):
        bank.load(tmp_path / "bank", ["X"])
    # Beside another case it simply has nothing to give.
    for path in (results / "bank").glob("sub-A1*"):
        shutil.copy(path, tmp_path / "bank")
    assert list(bank.load(tmp_path / "bank", ["X", "A1"]).about) == ["A1-0"]


def test_a_case_without_a_tumour_is_refused(results, tmp_path):
    with pytest.raises(InputError, match=r"dseg.nii.gz: holds no tumour; leave this case out"):
        bank_of(results, tmp_path, np.zeros(toy.GRID.shape, np.uint8))


def test_a_missing_donor_is_named(results):
    with pytest.raises(InputError, match=r"sub-A9_rois.json"):
        bank.load(results / "bank", ["A1", "A9"])


def test_reference_undoes_any_scanner():
    rng = np.random.default_rng(0)
    wm = np.zeros((20, 20, 20), np.float32)
    wm[:10] = 1
    brain = np.ones(wm.shape, bool)
    image = np.where(wm > 0, 100, 60) + rng.normal(0, 2, wm.shape)
    one = reference(image, wm, brain)
    two = reference(3 * image + 40, wm, brain)
    np.testing.assert_allclose(one.relative(image), two.relative(3 * image + 40), atol=1e-5)
    np.testing.assert_allclose(one.absolute(one.relative(image)), image, atol=1e-4)
    # White matter is 0, and the brain has a robust spread of 1.
    assert np.median(one.relative(image)[:10]) == pytest.approx(0, abs=0.01)
    low, high = np.percentile(one.relative(image), (25, 75))
    assert high - low == pytest.approx(1.349)


def test_what_is_excluded_sets_no_reference():
    rng = np.random.default_rng(0)
    image = rng.normal(80, 10, (20, 20, 20))
    wm = np.where(image > 85, 1, 0).astype(np.float32)
    tumour = np.zeros(wm.shape, bool)
    tumour[:12] = True
    spoiled = np.where(tumour, 500, image)
    found = reference(spoiled, wm, np.ones(wm.shape, bool), tumour)
    alone = reference(image[12:], wm[12:], np.ones(wm[12:].shape, bool))
    assert found == alone


def test_reference_needs_white_matter():
    image = np.zeros((8, 8, 8), np.float32)
    with pytest.raises(InputError, match="tissue maps hold no white matter"):
        reference(image, image, image == 0)
