"""The benchmark of realism: known answers of its measures, and what its classifier can tell."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import toy
from scipy import ndimage

from benchmarks import cohorts, realism, separability, texture
from benchmarks.study import Study, real_tumour
from benchmarks.texture import Tumour
from tumorfab import bank, config, stage
from tumorfab.stage import InputError
from tumorfab.volume import load_labels, save

SHAPE = (40, 40, 40)
SPACING = np.array([2.0, 2.0, 2.0])
CENTRE = (np.array(SHAPE) - 1) / 2
RADIUS = np.linalg.norm((np.indices(SHAPE).T - CENTRE) * SPACING, axis=-1).T


def tumour(seed, donor="A", host="A", lesion_noise=0.0, tumour_mm=12.0):
    """A ball of oedema with a rim and a core in a noisy ball of brain."""
    rng = stage.rng(seed, "toy tumour")
    labels = np.select([RADIUS < 5, RADIUS < 8, tumour_mm > RADIUS], [1, 3, 2], 0).astype(np.uint8)
    image = ndimage.gaussian_filter(np.array([0.5, -2.0, -0.7, 1.0])[labels], 0.7)
    tissue = ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.5)
    image = image + 0.5 * tissue / tissue.std() + rng.normal(0, 0.2, SHAPE)
    image += lesion_noise * rng.normal(size=SHAPE) * (labels > 0)
    brain = RADIUS < 38
    ventricles = np.zeros(SHAPE, bool)
    ventricles[:, :, 38] = brain[:, :, 38]
    return Tumour(donor, host, {"T1w": image}, labels, brain, ventricles, SPACING)


def test_a_ball_is_round_and_a_plate_is_not():
    assert texture.sphericity(RADIUS < 20, SPACING) == pytest.approx(1, abs=0.02)
    plate = np.zeros(SHAPE, bool)
    plate[5:35, 5:35, 18:22] = True
    a, c = 60.0, 8.0  # of a plate with sharp edges
    exact = np.pi ** (1 / 3) * (6 * a * a * c) ** (2 / 3) / (2 * a * a + 4 * a * c)
    assert texture.sphericity(plate, SPACING) == pytest.approx(exact, rel=0.08)  # edges are rounded


def test_sphericity_does_not_depend_on_the_grid():
    squeezed = np.array([1.5, 1.5, 3.0])
    offset = (np.indices(SHAPE).T - CENTRE) * squeezed
    ball = np.linalg.norm(offset, axis=-1).T < 24
    assert texture.sphericity(ball, squeezed) == pytest.approx(1, abs=0.02)


def test_a_step_is_sharper_than_a_blurred_one_and_noise_alone_has_no_boundary():
    inside, brain = RADIUS < 18, RADIUS < 36
    noise = stage.rng(0, "noise").normal(0, 0.05, SHAPE)
    step = inside.astype(float)
    sharp, blurred, none = (
        texture.sharpness((image + noise).astype(np.float32), inside, brain, SPACING)
        for image in (step, ndimage.gaussian_filter(step, 2.0), 0 * step)
    )
    assert sharp > 1.5 * blurred > 1.5
    assert none == pytest.approx(1, abs=0.05)


def test_the_edge_of_the_brain_is_no_boundary_of_the_tumour():
    half = np.indices(SHAPE)[0] < 20
    inside, brain = half & (RADIUS < 36), RADIUS < 36
    image = np.where(brain, stage.rng(0, "noise").normal(0, 0.1, SHAPE), 30).astype(np.float32)
    assert texture.sharpness(image, inside, brain, SPACING) == pytest.approx(1, abs=0.05)


def test_first_order_of_known_samples():
    rng = stage.rng(0, "samples")
    normal = texture.first_order(rng.normal(2, 3, 100_000))
    assert normal["mean"] == pytest.approx(2, abs=0.05)
    assert normal["sd"] == pytest.approx(3, abs=0.05)
    assert normal["skewness"] == pytest.approx(0, abs=0.05)
    assert normal["kurtosis"] == pytest.approx(0, abs=0.1)
    even = np.repeat(np.arange(8) * texture.BIN, 10)
    assert texture.first_order(even)["entropy"] == pytest.approx(3)
    assert np.isnan(texture.first_order(even[:5])["mean"])


def test_cooccurrence_tells_stripes_noise_and_ramps_apart_and_stays_in_the_mask():
    mask = RADIUS < 24
    i = np.indices(SHAPE)[0].astype(float)
    noise = stage.rng(0, "noise").normal(size=SHAPE)
    found = {
        name: texture.cooccurrence(np.where(mask, image, 99), mask)
        for name, image in (
            ("ramp", i),
            ("noise", noise),
            ("smooth", ndimage.gaussian_filter(noise, 2)),
        )
    }
    assert found["ramp"]["correlation"] > 0.98
    assert found["noise"]["correlation"] == pytest.approx(0, abs=0.05)
    assert found["ramp"]["contrast"] < found["smooth"]["contrast"] < found["noise"]["contrast"]
    again = texture.cooccurrence(np.where(mask, noise, -7), mask)
    assert again == found["noise"]


def test_measures_of_one_tumour():
    found = texture.features(tumour(0))
    assert found["volume, ml"] == pytest.approx(4 / 3 * np.pi * 12**3 / 1000, rel=0.03)
    assert found["ED share"] + found["NCR share"] + found["ET share"] == pytest.approx(1)
    assert found["NCR share"] == pytest.approx((5 / 12) ** 3, rel=0.2)
    assert found["T1w NCR mean"] < found["T1w ED mean"] < found["T1w ET mean"]
    assert found["core to ventricle, mm"] == pytest.approx((38 - 19.5) * 2 - 8, abs=2)


def test_a_core_that_was_taken_for_a_ventricle_is_not_its_own_distance():
    whole = tumour(0)
    mistaken = replace(whole, ventricles=whole.ventricles | (whole.labels == 1))
    assert texture.features(mistaken) == pytest.approx(texture.features(whole), nan_ok=True)


def test_tissue_far_from_the_tumour_does_not_see_it():
    whole = tumour(0)
    louder = whole.images["T1w"] + 5 * (RADIUS < 20)
    found, other = (texture.features(t) for t in (whole, replace(whole, images={"T1w": louder})))
    assert found["T1w far mean"] == pytest.approx(0.5, abs=0.05)
    for name in (*texture.FIRST_ORDER, *texture.SECOND_ORDER):
        assert found[f"T1w far {name}"] == other[f"T1w far {name}"]


def test_a_class_that_is_not_there_is_nan_and_has_no_intensities():
    whole = tumour(0)
    labels = np.where(whole.labels > 0, 2, 0).astype(np.uint8)
    only_oedema = Tumour("A", "A", whole.images, labels, whole.brain, whole.ventricles, SPACING)
    found = texture.features(only_oedema)
    assert np.isnan(found["T1w ET mean"])
    assert np.isnan(found["TC sphericity"])
    assert found["ET share"] == 0
    assert list(texture.intensities(only_oedema)) == ["T1w ED"]


def test_wasserstein_of_shifted_intensities_is_the_shift_beyond_what_patients_differ_by():
    base = stage.rng(0, "intensities").normal(size=101)
    real = [
        (donor, {"T1w ED": base + own}) for donor, own in zip("ABC", (-0.1, 0, 0.1), strict=True)
    ]
    shifted = [(donor, {"T1w ED": base + 2}) for donor in "ABC"]
    row = cohorts.distances(real, shifted).loc["T1w ED"]
    assert row["synthetic"] == pytest.approx(2)
    assert row["patients"] == pytest.approx((0.15 + 0.1 + 0.15) / 3, abs=0.03)


def test_differences_leave_the_donor_out():
    real = pd.DataFrame({"x": [0.0, 1.0, 2.0], "flat": 1.0}, index=list("ABC"))
    row = cohorts.differences(real, real).loc["x"]  # synthetic tumours that equal their donors
    assert row["synthetic"] == row["patients"] == pytest.approx(1)  # 1.5, 0 and 1.5 of sd 1
    assert row["difference"] == pytest.approx(0)
    row = cohorts.differences(real, real + 3).loc["x"]
    assert row["difference"] == row["synthetic"] == pytest.approx(3)
    assert list(cohorts.differences(real, real).index) == ["x"]


def test_no_donor_and_no_host_is_in_two_groups():
    donors, hosts = list("ABCABC"), list("ABCXYX")
    group = separability.groups(donors, hosts)
    assert group[0] == group[3] == group[2] == group[5]  # A and C share host X
    assert group[1] == group[4] != group[0]
    with pytest.raises(InputError, match="give each host one donor"):
        separability.groups(list("ABAB"), list("ABXX"))


def cohort(first_seed, own_host, **settings):
    """Patches of one tumour of each of six donors, in itself or in another host."""
    made = [
        tumour(first_seed + n, donor, f"{donor}{'' if own_host else '-host'}", **settings)
        for n, donor in enumerate("ABCDEF")
    ]
    return [separability.patches(t, stage.rng(first_seed + n)) for n, t in enumerate(made)]


@pytest.fixture(scope="module")
def real():
    return cohort(0, own_host=True)


GROUP = np.tile(np.arange(6), 2)


@pytest.mark.parametrize("zone", ["boundary", "all but far"])
def test_two_halves_of_one_population_cannot_be_told_apart(real, zone):
    found = separability.aucs(real, cohort(10, own_host=False), GROUP, zone)
    assert len(found) == 6
    assert found.mean() == pytest.approx(0.5, abs=0.2)  # six tumours of a kind are few


def test_white_noise_inside_lesions_is_found_there_and_not_elsewhere(real):
    noisy = cohort(10, own_host=False, lesion_noise=0.3)
    auc = {z: separability.aucs(real, noisy, GROUP, z).mean() for z in ("far", "inside")}
    assert auc["inside"] > 0.97
    assert auc["far"] == pytest.approx(0.5, abs=0.2)


def test_a_tumour_without_far_tissue_is_refused():
    with pytest.raises(InputError, match="no tissue 16 mm away"):
        separability.patches(tumour(0, tumour_mm=30.0), stage.rng(0))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The toy cohort, where `realism.prepared` would have put it."""
    folder = tmp_path_factory.mktemp("realism")
    hosts, cases = toy.write_cohort(folder / "results")
    shutil.move(folder / "results" / "bank", folder / "bank")
    return Study(folder, toy.LABEL, toy.MODALITIES, hosts, cases, False)


def test_variants_are_settings_that_the_schema_knows_and_end_at_its_defaults():
    found = realism.variants()
    for params in found.values():
        known = {key: value for key, value in params.items() if key != "site_mni_mm"}
        config.validated({"place": known})
    defaults = config.validated({})["place"]
    assert list(found.values())[-1] == defaults | {"site_mni_mm": [], "tries": 500}


@pytest.mark.parametrize("hosts", [["C", "F", "A"], [f"H{i}" for i in range(13)]])
def test_pairs_use_every_host_and_donor_and_can_be_left_out_apart(hosts):
    cases = list("ABCDEF")
    found = realism.pairs(hosts, cases)
    assert {host for host, _ in found} == set(hosts)
    assert {donor for _, donor in found} == set(cases)
    assert {(h, h) for h in hosts if h in cases} <= set(found)
    together = [*found, *zip(cases, cases, strict=True)]  # and the real tumours
    group = separability.groups([donor for _, donor in together], [host for host, _ in together])
    assert len(set(group)) == min(len(hosts), len(cases))


def test_a_real_tumour_is_read_as_the_bank_has_it_and_a_second_one_is_not_tissue(study, tmp_path):
    shutil.copytree(study.out, tmp_path, dirs_exist_ok=True)
    study = replace(study, out=tmp_path)
    path = study.anat("A1") / f"sub-A1_space-{toy.LABEL}_dseg.nii.gz"
    labels = load_labels(path).data
    second = np.zeros(labels.shape, bool)
    second[28:32, 20:24, 16:20] = True
    assert not labels[second].any()
    save(path, np.where(second, 3, labels).astype(np.uint8), toy.GRID.affine)
    bank.bank_case("A1", study.anat("A1"), toy.LABEL, toy.MODALITIES, "CC0", tmp_path / "bank")
    found = real_tumour(study, "A1")
    assert np.array_equal(found.labels, labels)
    assert found.brain[labels > 0].all()
    assert not found.brain[second].any()
    about = stage.read_json(tmp_path / "bank" / "sub-A1_rois.json")["rois"][0]["classes"]
    for value, name in bank.CLASSES.items():
        inside = found.images["T1w"][labels == value]
        assert inside.mean() == pytest.approx(about[name]["mean"]["T1w"], abs=0.01)


def test_steps_of_the_synthesis_are_made_measured_compared_and_written(study, tmp_path):
    variants = {name: realism.variants()[name] for name in ("pasted", "+ mass effect")}
    real = [realism.measured(real_tumour(study, case), 0) for case in study.cases]
    pairs = realism.pairs(study.hosts, study.cases)
    made = {
        name: [realism.measured(realism.synthetic_tumour(study, p, 0, pair), 0) for pair in pairs]
        for name, p in variants.items()
    }
    assert [(t.host, t.donor) for t in made["pasted"]] == pairs
    found = realism.compare(real, made, 0)
    assert set(found["auc"]) == set(variants)
    for zones in found["auc"].values():
        for auc in zones.values():
            assert len(auc["groups"]) == len(study.hosts)
            assert 0 <= auc["low"] <= auc["mean"] <= auc["high"] <= 1
    assert set(found["features"]["variant"]) == set(variants)
    assert {"T1w ED", "T2w ET"} <= set(found["intensities"].index)
    page = realism.printed(found)
    assert page.count("| + mass effect |") == 3  # a row of the AUCs, a column of the two others
    realism.write(tmp_path, real, made, found, 0)
    table = pd.read_csv(tmp_path / "tumours.csv")
    assert len(table) == len(real) + 2 * len(pairs)
    assert table["WT sphericity"].between(0, 1.05).all()
    record = stage.read_json(tmp_path / "realism.json")
    assert record["auc"] == found["auc"]
    assert len(record["features"]) == len(pd.read_csv(tmp_path / "features.csv"))
