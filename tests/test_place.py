import subprocess
import sys

import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from tumorfab import bank, place, stage
from tumorfab.place import Draw
from tumorfab.stage import InputError, read_json
from tumorfab.volume import load, load_labels


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    _, cases = toy.write_cohort(folder)
    return folder, toy.read_host(folder, "H1"), bank.load(folder / "bank", cases)


def still(roi, site):
    """A draw that moves the ROI's centre of mass to `site` and changes nothing else."""
    zero = {m: dict.fromkeys(bank.CLASSES.values(), 0.0) for m in toy.MODALITIES}
    return Draw(roi.name, [0, 0, 0], [1, 1, 1], False, list(site), zero, {})


def test_an_unturned_roi_is_carried_over_voxel_by_voxel(cohort):
    folder, host, rois = cohort
    roi = rois[0]
    donor = load_labels(folder / "sub-A1/anat" / f"sub-A1_space-{toy.LABEL}_dseg.nii.gz").data
    images, labels = place.apply(host, roi, still(roi, (12, 22, 18)), edge_mm=4.0)
    np.testing.assert_array_equal(labels, donor)
    original = load(
        folder / "sub-A1/anat" / f"sub-A1_space-{toy.LABEL}_desc-preproc_T1w.nii.gz"
    ).data
    # Donor and host have one contrast, so deep in the tumour the very intensities come back.
    inner = toy.distance(np.array((12, 22, 18))) < 12
    assert np.abs(images["T1w"][inner] - original[inner]).max() < 0.2


def test_mirror_swaps_left_and_right(cohort):
    _, host, rois = cohort
    roi = rois[0]
    site = (14, 22, 18)
    plain = place.apply(host, roi, still(roi, site), 4.0)[1]
    mirrored = place.apply(host, roi, Draw(**{**vars(still(roi, site)), "mirror": True}), 4.0)[1]
    assert mirrored.sum() == plain.sum()
    # Mirrored about the ROI's centre along I, the left-right axis of this grid.
    np.testing.assert_array_equal(mirrored[4:25], plain[4:25][::-1])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_every_sample_is_valid(cohort, seed):
    _, host, rois = cohort
    draw = place.sample(np.random.default_rng(seed), host, rois, toy.PLACE)
    roi = next(r for r in rois if r.name == draw.roi)
    images, labels = place.apply(host, roi, draw, toy.PLACE["edge_mm"])
    passed = place.checks(host, images, labels, toy.PLACE["edge_mm"])
    assert all(passed.values()), passed
    assert set(np.unique(labels)) <= {0, 1, 2, 3}
    scale = np.prod(draw.scale)
    assert (labels > 0).sum() == pytest.approx((roi.labels > 0).sum() * scale, rel=0.25)


def test_checks_can_fail(cohort):
    _, host, rois = cohort
    images, labels = place.apply(host, rois[0], still(rois[0], (12, 22, 18)), 4.0)
    spoiled = {m: x.copy() for m, x in images.items()}
    spoiled["T2w"][-1, -1, -1] += 1
    assert not place.checks(host, spoiled, labels, 4.0)[
        "voxels away from the tumour are the host's"
    ]
    outside = labels.copy()
    outside[0, 0, 0] = 1
    assert not place.checks(host, images, outside, 4.0)["label lies in the brain"]
    assert not place.checks(host, images, np.zeros_like(labels), 4.0)["label is not empty"]


def test_the_transition_is_gradual_and_centred_on_the_boundary():
    inside = np.zeros((21, 21, 21), bool)
    inside[5:16] = True
    alpha = place._soft_edge(inside, np.array([2.0, 2.0, 2.0]), 8.0)[:, 10, 10]
    assert alpha[10] == 1.0
    assert alpha[0] == 0.0
    assert (np.diff(alpha[:11]) >= 0).all()
    assert alpha[4] + alpha[5] == pytest.approx(1.0)  # equally far from the boundary between them


def test_the_sidecar_reproduces_the_sample(cohort, tmp_path):
    folder, host, rois = cohort
    toy.make_samples(folder, tmp_path)
    stem = tmp_path / f"sub-H1_space-{toy.LABEL}_desc-coarse001"
    record = read_json(f"{stem}.json")
    draw = Draw(**record["draw"])
    roi = next(r for r in rois if r.name == draw.roi)
    images, labels = place.apply(host, roi, draw, record["edge_mm"])
    np.testing.assert_array_equal(load_labels(f"{stem}_dseg.nii.gz").data, labels)
    place.save(tmp_path / "again.nii.gz", images["T1w"], host.grid.affine)
    assert (tmp_path / "again.nii.gz").read_bytes() == stem.with_name(
        f"{stem.name}_T1w.nii.gz"
    ).read_bytes()
    assert record["donor"] in {"A1", "A2"}
    assert record["licence"] == {"host": "unknown", "donor": "CC0"}


def test_files_away_from_the_tumour_hold_the_hosts_voxels(cohort, tmp_path):
    folder, host, _ = cohort
    toy.make_samples(folder, tmp_path)
    for number in range(2):
        stem = tmp_path / f"sub-H1_space-{toy.LABEL}_desc-coarse{number:03d}"
        near = (
            toy.ndimage.distance_transform_edt(load(f"{stem}_dseg.nii.gz").data == 0, sampling=4)
            <= 6
        )
        for modality in toy.MODALITIES:
            written = load(f"{stem}_{modality}.nii.gz").data
            np.testing.assert_array_equal(written[~near], host.images[modality][~near])
            assert not np.array_equal(written[near], host.images[modality][near])


def test_same_seed_same_bytes_and_draws_differ(cohort, tmp_path):
    folder, _, _ = cohort
    toy.make_samples(folder, tmp_path / "a")
    toy.make_samples(folder, tmp_path / "b")
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert len(names) == 2 * 4
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    one, two = (
        tmp_path / "a" / f"sub-H1_space-{toy.LABEL}_desc-coarse{n:03d}_dseg.nii.gz" for n in (0, 1)
    )
    assert one.read_bytes() != two.read_bytes()


def test_donors_are_only_those_named(cohort, tmp_path):
    folder, _, _ = cohort
    toy.make_samples(folder, tmp_path, donors=("A3",))
    assert {read_json(p)["donor"] for p in tmp_path.glob("*.json")} == {"A3"}


def test_a_tumour_that_fits_nowhere_is_said(cohort):
    _, host, rois = cohort
    with pytest.raises(
        InputError, match=r"sub-H1: no place found in 5 draws \(5 outside the brain\)"
    ):
        place.sample(
            np.random.default_rng(0), host, rois, toy.PLACE | {"scale": [8.0, 9.0], "tries": 5}
        )


def test_imports_no_torch():
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tumorfab.place", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    modules = {line.rsplit("|", 1)[-1].strip() for line in loaded.stderr.splitlines()}
    assert "tumorfab.volume" in modules
    assert not {m for m in modules if m.split(".")[0] in ("torch", "monai", "nilearn")}


def test_stage_rng_separates_hosts():
    assert stage.rng(1, "place", "H1", 0).random() != stage.rng(1, "place", "H2", 0).random()
