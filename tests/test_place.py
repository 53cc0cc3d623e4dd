import dataclasses
import hashlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tumorfab import bank, draw, place, samples, sites, stage
from tumorfab.bank import Bank
from tumorfab.contrast import as_donated
from tumorfab.draw import Draw, MisfitError, Tumour
from tumorfab.shape import Pose
from tumorfab.stage import InputError, read_json
from tumorfab.volume import load, load_labels

PARAMS = {"donor": "", "site_mni_mm": [], **toy.PLACE}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    _, cases = toy.write_cohort(folder)
    return folder, toy.read_host(folder, "H1"), bank.load(folder / "bank", cases)


def still(site, roi="A1-0", **changes):
    """A draw that moves the ROI's core to `site` and changes nothing else."""
    pose = Pose(list(site), [0.0] * 3, [1.0] * 3, False, 0.0, 0, 0.0, 0.0)
    tumour = Tumour(roi, roi, pose, 0.0, True, 0.0, 0.0, 1)
    return Draw([dataclasses.replace(tumour, **changes)], False)


def made(cohort, seed=0, **params):
    """A sample with these settings."""
    _, host, rois = cohort
    return place.make(np.random.default_rng(seed), host, rois, PARAMS | params)


def core_of(labels):
    return np.isin(labels, (1, 3))


# One tumour


def test_an_unturned_tumour_is_carried_over_voxel_by_voxel(cohort):
    folder, host, rois = cohort
    site = (12, 22, 18)  # where the donor has it
    given = place.apply(host, rois, still(site), PARAMS | {"oedema": "donor"})
    donor = load_labels(folder / "sub-A1/anat" / f"sub-A1_space-{toy.LABEL}_dseg.nii.gz").data
    core = core_of(donor)
    np.testing.assert_array_equal(given.labels[core], donor[core])
    both, either = (
        ((given.labels > 0) & (donor > 0)).sum(),
        ((given.labels > 0) | (donor > 0)).sum(),
    )
    assert both > 0.95 * either
    # Donor and host have one contrast, so deep in the core the very intensities come back.
    deep = ndimage.binary_erosion(core)
    for modality in toy.MODALITIES:
        stem = folder / "sub-A1/anat" / f"sub-A1_space-{toy.LABEL}_desc-preproc"
        original = load(f"{stem}_{modality}.nii.gz").data
        assert np.abs(given.images[modality] - original)[deep].max() < 0.25


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_every_sample_is_valid(cohort, seed):
    _, host, _ = cohort
    sample = made(cohort, seed)
    assert all(sample.checks.values()), sample.checks
    labels = sample.made.labels
    assert set(np.unique(labels)) <= {0, 1, 2, 3}
    assert core_of(labels).any()
    still_host = ~sample.made.changed
    assert still_host.sum() > 0.3 * host.brain.sum()
    for modality, image in sample.made.images.items():
        np.testing.assert_array_equal(image[still_host], host.images[modality][still_host])


def test_the_host_itself_is_not_changed(cohort):
    folder, host, _ = cohort
    made(cohort)
    fresh = toy.read_host(folder, "H1")
    for name in ("csf", "wm", "ventricles", "labels", "changed", "brain"):
        np.testing.assert_array_equal(getattr(host, name), getattr(fresh, name))
    for modality, image in fresh.images.items():
        np.testing.assert_array_equal(host.images[modality], image)


def test_presets_decide_on_enhancement(cohort):
    high, low = made(cohort, preset="hgg").made.labels, made(cohort, preset="lgg").made.labels
    assert (high == 3).sum() * 64 >= draw.LEAST_ENHANCING_MM3
    assert not (low == 3).any()
    assert (low == 1).any()


def test_preset_lgg_has_no_rim_in_the_image_either(cohort):
    _, host, rois = cohort
    site = (12, 22, 18)
    given = place.apply(host, rois, still(site, enhancing=False), PARAMS)
    rim = (toy.distance(np.array(site)) < 13) & (toy.distance(np.array(site)) > 9)
    assert (given.labels[rim] == 1).all()
    level = host.references["T1w"].relative(given.images["T1w"][rim]).mean()
    classes = rois.about["A1-0"]["classes"]
    necrosis, enhancing = (classes[name]["mean"]["T1w"] for name in ("NCR", "ET"))
    assert abs(level - necrosis) < 0.2 * abs(level - enhancing)


@pytest.mark.parametrize("volume", [8.0, 25.0])
def test_the_core_has_the_volume_that_was_asked_for(cohort, volume):
    found = [
        core_of(made(cohort, seed, volume_ml=[volume, volume]).made.labels).sum() * 0.064
        for seed in range(6)
    ]
    assert np.mean(found) == pytest.approx(volume, rel=0.15)
    assert min(found) > 0.7 * volume
    assert max(found) < 1.3 * volume


def test_the_oedema_has_the_share_that_was_asked_for(cohort):
    for seed in range(3):
        labels = made(cohort, seed, oedema_ratio=[2.0, 2.0]).made.labels
        assert (labels == 2).sum() / core_of(labels).sum() == pytest.approx(2, rel=0.3)
    for params in ({"oedema": "none"}, {"oedema_ratio": [0.0, 0.0]}):
        assert not (made(cohort, **params).made.labels == 2).any()


def test_oedema_of_the_cohort_goes_with_the_cores_surface(cohort):
    small, large = (
        np.mean([made(cohort, s, volume_ml=[v, v]).draw.tumours[0].oedema_mm3 for s in range(6)])
        for v in (4.0, 32.0)
    )
    assert large / small == pytest.approx(4, rel=0.6)  # 8 times the volume


@pytest.mark.parametrize("region", ["frontal", "parietal", "temporal", "brainstem"])
def test_the_region_is_kept_to(cohort, region):
    _, host, _ = cohort
    sample = made(cohort, region=region, scale=[0.5, 0.5], volume_ml=[1.0, 1.0])
    voxel = np.array(sample.draw.tumours[0].pose.site)
    point = host.to_mni @ host.grid.affine @ [*voxel, 1]
    assert sites.region(point[None, :3])[0] == region


@pytest.mark.parametrize(("side", "sign"), [("left", -1), ("right", 1)])
def test_the_side_is_kept_to(cohort, side, sign):
    _, host, _ = cohort
    for seed in range(3):
        voxel = made(cohort, seed, side=side).draw.tumours[0].pose.site
        # RAS+: x grows to the patient's right; this grid's first axis runs the other way.
        assert sign * (host.to_mni @ host.grid.affine @ [*voxel, 1])[0] >= 0
        assert host.grid.affine[0, 0] < 0


def test_the_site_that_was_asked_for_is_taken(cohort):
    _, host, _ = cohort
    sample = made(cohort, site_mni_mm=[30.0, 0.0, 0.0])
    point = host.to_mni @ host.grid.affine @ [*sample.draw.tumours[0].pose.site, 1]
    np.testing.assert_allclose(point[:3], [30, 0, 0], atol=2.1)
    centre = ndimage.center_of_mass(core_of(sample.made.labels))
    assert np.linalg.norm((centre - np.array(sample.draw.tumours[0].pose.site)) * 4) < 8


def test_the_donor_that_was_asked_for_is_taken(cohort):
    for donor in ("A3", "A4-0"):
        tumour = made(cohort, donor=donor).draw.tumours[0]
        assert tumour.roi.startswith(donor)
        assert tumour.partner.startswith(donor)


def test_two_tumours_lie_apart(cohort):
    sample = made(cohort, count=[2, 2], volume_ml=[3.0, 6.0], mass_effect=[0.1, 0.2])
    assert len(sample.draw.tumours) == 2
    pieces, count = ndimage.label(core_of(sample.made.labels), np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel())[1:] * 0.064
    assert count >= 2
    assert np.sort(sizes)[-2] > 1.5
    one, two = (pieces == i + 1 for i in np.argsort(sizes)[-2:])
    assert ndimage.distance_transform_edt(~one, sampling=4.0)[two].min() > 8


def test_contrast_is_by_how_much_a_core_differs_from_white_matter_and_can_be_undone(cohort):
    _, host, rois = cohort
    site, factors = (13, 22, 18), {"T1w": 1.5, "T2w": 0.7}
    plain, varied = (
        place.apply(host, rois, still(site, contrast=contrast), PARAMS)
        for contrast in ({}, factors)
    )
    deep = ndimage.binary_erosion(core_of(plain.labels), iterations=2)
    assert deep.sum() > 20
    known = samples.contrasts({"draw": {"tumours": [{"contrast": factors}]}}, list(factors))
    assert known == pytest.approx(list(factors.values()))
    donated = as_donated(varied.labels, known, host.grid.spacing)
    far = ndimage.distance_transform_edt(varied.labels == 0, sampling=host.grid.spacing) > 12
    assert (donated[:, far] == 1).all()
    for (modality, factor), by in zip(factors.items(), donated, strict=True):
        one, other = (
            host.references[modality].relative(x.images[modality])[deep] for x in (plain, varied)
        )
        np.testing.assert_allclose(other, factor * one, atol=0.02)
        np.testing.assert_allclose(other * by[deep], one, atol=0.05)
    drawn = made(cohort, contrast=[0.5, 2.0]).draw.tumours[0].contrast
    assert set(drawn) == set(toy.MODALITIES)
    assert all(0.5 <= factor <= 2 for factor in drawn.values())
    assert made(cohort, contrast=[1.0, 1.0]).draw.tumours[0].contrast == {}


def test_mass_effect_moves_the_brain_and_none_does_not(cohort):
    _, host, rois = cohort
    site = (13, 22, 18)
    pushed = place.apply(host, rois, still(site, mass_effect=0.2), PARAMS)
    assert pushed.moved_mm > 1
    assert 0.1 <= pushed.jacobian < 1
    calm = place.apply(host, rois, still(site), PARAMS)
    assert calm.moved_mm == 0
    np.testing.assert_array_equal(calm.ventricles, host.ventricles)
    assert pushed.changed.sum() > 1.3 * calm.changed.sum()


def test_a_tumour_free_sample_goes_through_everything_but_the_tumour(cohort):
    _, host, rois = cohort
    sample = made(cohort, tumour_free=1.0, mass_effect=[0.3, 0.3])
    assert sample.draw.tumour_free
    assert len(sample.draw.tumours) == 1
    assert not sample.made.labels.any()
    assert sample.made.moved_mm > 0.5
    assert not np.array_equal(sample.made.images["T1w"], host.images["T1w"])
    assert all(sample.checks.values())
    # The same draw with its tumour moves the same voxels, and more.
    whole = place.apply(host, rois, dataclasses.replace(sample.draw, tumour_free=False), PARAMS)
    assert (whole.changed >= sample.made.changed).all()
    assert whole.labels.any()


def test_draws_are_plain_values_that_a_sidecar_can_hold(cohort, tmp_path):
    drawn = made(cohort, count=[2, 2], volume_ml=[3.0, 6.0]).draw
    stage.write_json(tmp_path / "x.json", dataclasses.asdict(drawn))
    assert Draw.read(read_json(tmp_path / "x.json")) == drawn


# What does not fit


@pytest.mark.parametrize(
    ("site", "roi", "reason"),
    [
        ((-60, 22, 18), "A1-0", "outside the volume"),
        ((1, 1, 1), "A1-0", "nothing is left of it inside the brain"),
        ((4, 22, 18), "A1-0", "cut by skull or ventricles"),
        ((20, 22, 18), "A1-0", "cut by skull or ventricles"),
    ],
)
def test_a_tumour_without_room_is_refused(cohort, site, roi, reason):
    _, host, rois = cohort
    with pytest.raises(MisfitError, match=reason):
        place.apply(host, rois, still(site, roi), PARAMS)


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"scale": [8.0, 9.0]}, r"no place found in 5 draws \(5 outside the brain\)"),
        ({"donor": "A9"}, "no donor A9 in the bank"),
        ({"site_mni_mm": [0.0, 90.0, 0.0]}, "the site that was asked for lies outside the brain"),
        ({"site_mni_mm": [900.0, 0.0, 0.0]}, "the site that was asked for lies outside the brain"),
        ({"site_mni_mm": [0.0, 0.0, 0.0]}, "in a ventricle"),
        ({"count": [2, 2], "site_mni_mm": [32.0, 0.0, 0.0]}, "too near another tumour"),
    ],
)
def test_a_draw_that_never_fits_says_why(cohort, params, reason):
    with pytest.raises(MisfitError, match=reason):
        made(cohort, tries=5, **params)


def altered(rois, classes):
    """The bank with other volumes of its classes."""
    about = {
        name: {**a, "classes": {c: {"volume_mm3": v} for c, v in classes.items()}}
        for name, a in rois.about.items()
    }
    return Bank(rois.folder, about)


def test_a_preset_that_the_bank_can_never_serve_is_refused_at_once(cohort):
    _, _, rois = cohort
    solid, dark = {"NCR": 0, "ED": 5, "ET": 900}, {"NCR": 900, "ED": 5, "ET": 20}
    for classes, preset in ((dark, "hgg"), (solid, "lgg")):
        with pytest.raises(InputError, match=r"config: place.preset: no .* preset") as caught:
            draw.check(altered(rois, classes), PARAMS | {"preset": preset})
        assert "\n" not in str(caught.value)
    draw.check(altered(rois, dark), PARAMS | {"preset": "lgg"})
    draw.check(altered(rois, solid), PARAMS | {"preset": "hgg"})


def test_preset_lgg_takes_those_that_do_not_enhance_first(cohort):
    _, _, rois = cohort
    dark = altered(rois, {"NCR": 900, "ED": 5, "ET": 20}).about["A2-0"]
    mixed = Bank(rois.folder, {**rois.about, "A2-0": dark})
    assert draw.donors(mixed, "lgg", "") == ["A2-0"]
    assert "A2-0" not in draw.donors(mixed, "hgg", "")


def test_each_check_can_fail(cohort):
    _, host, _ = cohort
    sample = made(cohort)
    labels, images = sample.made.labels, sample.made.images
    calm = np.argwhere(~sample.made.changed & host.brain)[0]
    outside, ventricle = np.argwhere(~host.brain)[0], np.argwhere(sample.made.ventricles)[0]

    def touched(at):
        spoiled = sample.made.changed.copy()
        spoiled[tuple(at)] = True
        return {"changed": spoiled}

    def with_label(at):
        spoiled = labels.copy()
        spoiled[tuple(at)] = 1
        return {"labels": spoiled, **touched(at)}

    def with_voxel(at, value):
        spoiled = images["T2w"].copy()
        spoiled[tuple(at)] = value
        return {"images": {**images, "T2w": spoiled}}

    faults = {
        "label holds a core, or nothing where no tumour was wanted": {"labels": 0 * labels},
        "label lies in the brain": with_label(outside),
        "no tumour in a ventricle": with_label(ventricle),
        "nothing folds": {"jacobian": -0.1},
        "untouched voxels are the host's": with_voxel(calm, 0.123),
        "intensities can be stored": with_voxel(np.argwhere(labels)[0], 1e4),
        "nothing outside the brain is touched": touched(outside),
    }
    assert set(faults) == set(sample.checks)
    for name, fault in faults.items():
        spoiled = dataclasses.replace(sample.made, **fault)
        assert not place.checks(host, spoiled, sample.draw)[name], name
    astray = labels.copy()
    astray[tuple(calm)] = 2
    for fault in (with_voxel(outside, 0.5), {"labels": astray}):
        spoiled = dataclasses.replace(sample.made, **fault)
        assert not place.checks(host, spoiled, sample.draw)["untouched voxels are the host's"]
    broken = dataclasses.replace(sample.made, **with_voxel(np.argwhere(labels)[0], np.nan))
    assert not all(place.checks(host, broken, sample.draw).values())
    free = dataclasses.replace(sample.draw, tumour_free=True)
    assert not all(place.checks(host, sample.made, free).values())


def test_a_tumour_in_place_of_the_brightest_voxel_can_be_stored(cohort, tmp_path):
    """What is left fits a finer lattice, which holds the host's voxels as well."""
    _, host, rois = cohort
    site = (12, 22, 18)
    bright = host.images["T2w"].copy()
    bright[site] = 1.01 * 32767 * place.lattice(bright)
    brighter = dataclasses.replace(host, images={**host.images, "T2w": bright})
    drawn = still(site)
    given = place.apply(brighter, rois, drawn, PARAMS)
    assert place.lattice(given.images["T2w"]) < place.lattice(bright)
    assert all(place.checks(brighter, given, drawn).values())
    place.save(tmp_path / "x.nii.gz", given.images["T2w"], host.grid.affine)
    stored, calm = load(tmp_path / "x.nii.gz").data, ~given.changed
    np.testing.assert_array_equal(stored[calm], host.images["T2w"][calm])


def test_a_sample_that_fails_a_check_is_drawn_again(cohort, monkeypatch):
    real, calls = place.checks, []

    def failing(*arguments):
        calls.append(1)
        return {**real(*arguments), **({"nothing folds": False} if len(calls) == 1 else {})}

    monkeypatch.setattr(place, "checks", failing)
    sample = made(cohort, seed=3)
    assert sample.rejected["failed: nothing folds"] == 1
    assert all(sample.checks.values())


# The stage


def sidecar(folder, number=0, host="H1"):
    return folder / f"sub-{host}_space-{toy.LABEL}_desc-coarse{number:03d}.json"


def written(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def wish(tmp_path, text):
    path = tmp_path / "wishes.csv"
    path.write_text(text)
    return str(path)


def test_the_sidecar_reproduces_the_sample_to_the_byte(cohort, tmp_path):
    folder, host, rois = cohort
    toy.make_samples(folder, tmp_path, count=[1, 2], volume_ml=[3.0, 6.0])
    for number in range(2):
        path = sidecar(tmp_path, number)
        record = read_json(path)
        again = place.apply(host, rois, Draw.read(record["draw"]), record["params"])
        for name, data in [*again.images.items(), ("dseg", again.labels)]:
            place.save(tmp_path / "again.nii.gz", data, host.grid.affine)
            kept = path.with_name(f"{path.stem}_{name}.nii.gz")
            assert (tmp_path / "again.nii.gz").read_bytes() == kept.read_bytes()


def test_the_sidecar_says_where_everything_comes_from(cohort, tmp_path):
    folder, _, _ = cohort
    toy.make_samples(folder, tmp_path)
    record = read_json(sidecar(tmp_path, 1))
    used = {t[role].rpartition("-")[0] for t in record["draw"]["tumours"] for role in
            ("roi", "partner")}  # fmt: skip
    assert record["donors"] == sorted(used)
    assert set(record["donors"]) <= {"A1", "A2"}
    assert record["licence"] == {"host": "unknown", "donors": dict.fromkeys(used, "CC0")}
    assert (record["host"], record["number"]) == ("H1", 1)
    assert all(record["checks"].values())
    assert record["refused"] == []
    assert record["largest_displacement_mm"] > 0
    assert set(record["inputs_sha256"]) >= {"sub-A1_rois.npz", "sub-A2_rois.npz"}


def test_the_sidecar_holds_the_checksums_of_its_volumes(cohort, tmp_path):
    """Who depends on the sidecar depends on them: another byte is another sidecar."""
    folder, _, _ = cohort
    toy.make_samples(folder, tmp_path, draws=1)
    kept = read_json(sidecar(tmp_path, 0))["volumes_sha256"]
    volumes = sorted(tmp_path.glob("*.nii.gz"))
    assert len(volumes) == len(toy.MODALITIES) + 1
    assert kept == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in volumes}


def test_files_away_from_the_tumour_hold_the_hosts_voxels(cohort, tmp_path):
    folder, host, _ = cohort
    toy.make_samples(folder, tmp_path, mass_effect=[0.0, 0.0])
    for number in range(2):
        stem = str(sidecar(tmp_path, number)).removesuffix(".json")
        labels = load(f"{stem}_dseg.nii.gz").data
        near = ndimage.distance_transform_edt(labels == 0, sampling=4) <= 10
        for modality in toy.MODALITIES:
            image = load(f"{stem}_{modality}.nii.gz").data
            np.testing.assert_array_equal(image[~near], host.images[modality][~near])
            assert not np.array_equal(image[near], host.images[modality][near])


def test_same_seed_same_bytes_and_draws_differ(cohort, tmp_path):
    folder, _, _ = cohort
    toy.make_samples(folder, tmp_path / "a")
    toy.make_samples(folder, tmp_path / "b")
    one = written(tmp_path / "a")
    assert len(one) == 2 * 4
    assert one == written(tmp_path / "b")
    labels = [one[f"{sidecar(tmp_path, n).stem}_dseg.nii.gz"] for n in (0, 1)]
    assert labels[0] != labels[1]


def test_more_draws_leave_the_earlier_ones_as_they_are(cohort, tmp_path):
    folder, _, _ = cohort
    toy.make_samples(folder, tmp_path / "one", draws=1)
    toy.make_samples(folder, tmp_path / "three", draws=3)
    one, three = written(tmp_path / "one"), written(tmp_path / "three")
    assert len(one) == 4
    assert len(three) == 12
    assert {name: three[name] for name in one} == one


def test_only_the_named_donors_are_ever_read(cohort, tmp_path):
    """The bank's other cases are garbage here: a planted leak would end in an error."""
    folder, _, _ = cohort
    toy.make_samples(folder, tmp_path / "whole", donors=("A3",), draws=3)
    assert {d for n in range(3) for d in read_json(sidecar(tmp_path / "whole", n))["donors"]} == {
        "A3"
    }
    for subject in ("H1",):
        shutil.copytree(folder / f"sub-{subject}", tmp_path / f"results/sub-{subject}")
    shutil.copytree(folder / "bank", tmp_path / "results/bank")
    for path in (tmp_path / "results/bank").iterdir():
        if "A3" not in path.name:
            path.write_bytes(b"not a bank")
    toy.make_samples(tmp_path / "results", tmp_path / "alone", donors=("A3",), draws=3)
    assert written(tmp_path / "alone") == written(tmp_path / "whole")


def test_wishes_are_kept_to_and_touch_no_other_sample(cohort, tmp_path):
    folder, host, _ = cohort
    table = wish(tmp_path, "host,number,preset,side,donor\nH1,1,lgg,left,A2\nH9,0,hgg,,\n")
    toy.make_samples(folder, tmp_path / "wished", table=table)
    toy.make_samples(folder, tmp_path / "plain")
    record = read_json(sidecar(tmp_path / "wished", 1))
    assert record["wish"] == {"donor": "A2", "preset": "lgg", "side": "left"}
    assert record["donors"] == ["A2"]
    assert record["refused"] == []
    labels = load_labels(tmp_path / "wished" / f"{sidecar(tmp_path, 1).stem}_dseg.nii.gz").data
    assert not (labels == 3).any()
    site = record["draw"]["tumours"][0]["pose"]["site"]
    assert (host.to_mni @ host.grid.affine @ [*site, 1])[0] <= 0
    names = [n for n in written(tmp_path / "plain") if "coarse000" in n]
    assert len(names) == 4
    for name in names:
        assert (tmp_path / "wished" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_a_wish_that_cannot_be_met_is_recorded_and_the_sample_made(cohort, tmp_path, capsys):
    folder, _, _ = cohort
    table = wish(tmp_path, "host,number,donor,mni_x,mni_y,mni_z\nH1,0,A9,,,\nH1,1,,90,90,90\n")
    toy.make_samples(folder, tmp_path / "out", table=table, tries=8)
    reasons = ("no donor A9 in the bank", "the site that was asked for lies outside the brain")
    said = capsys.readouterr().err
    for number, reason in enumerate(reasons):
        record = read_json(sidecar(tmp_path / "out", number))
        assert len(record["refused"]) == 1
        assert reason in record["refused"][0]
        assert f"sub-H1, sample {number}: " in said
        assert record["wish"]
        assert record["draw"]["tumours"]
        assert not record["draw"]["tumour_free"]
        assert (record["params"]["donor"], record["params"]["site_mni_mm"]) == ("", [])
        assert load_labels(
            tmp_path / "out" / f"{sidecar(tmp_path, number).stem}_dseg.nii.gz"
        ).data.any()


def test_a_host_that_holds_nothing_gives_itself_and_the_reason(cohort, tmp_path):
    folder, host, _ = cohort
    toy.make_samples(folder, tmp_path, scale=[8.0, 9.0], tries=3)
    for number in range(2):
        path = sidecar(tmp_path, number)
        record = read_json(path)
        assert record["draw"] == {"tumours": [], "tumour_free": True}
        assert record["refused"] == ["no place found in 3 draws (3 outside the brain)"]
        assert record["donors"] == []
        assert not load_labels(path.with_name(f"{path.stem}_dseg.nii.gz")).data.any()
        for modality in toy.MODALITIES:
            image = load(path.with_name(f"{path.stem}_{modality}.nii.gz")).data
            np.testing.assert_array_equal(image, host.images[modality])


def test_a_broken_table_and_a_hopeless_preset_end_in_one_line(cohort, tmp_path):
    folder, _, _ = cohort
    with pytest.raises(InputError, match=r"wishes.csv: unknown column colour"):
        toy.make_samples(folder, tmp_path, table=wish(tmp_path, "host,number,colour\n"))
    with pytest.raises(InputError, match=r"none.csv: no such file"):
        toy.make_samples(folder, tmp_path, table=str(tmp_path / "none.csv"))
    assert not list(tmp_path.glob("*.json"))


def test_a_host_without_white_matter_is_named(cohort, tmp_path):
    folder, _, _ = cohort
    shutil.copytree(folder / "sub-H1", tmp_path / "sub-H1")
    white = tmp_path / f"sub-H1/anat/sub-H1_space-{toy.LABEL}_label-WM_probseg.nii.gz"
    place.save(white, np.zeros(toy.GRID.shape, np.float32), toy.GRID.affine)
    with pytest.raises(InputError, match="sub-H1: tissue maps hold no white matter"):
        toy.read_host(tmp_path, "H1")


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
