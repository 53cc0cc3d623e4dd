"""The quality gate: planted faults are rejected for what they are, hard samples are not."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import shapes
import torch
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tumorfab import (
    appraise,
    bank,
    checkpoint,
    config,
    gate,
    judge,
    likeness,
    refiner,
    samples,
    stage,
)  # fmt: skip
from tumorfab.networks import backbone
from tumorfab.stage import InputError
from tumorfab.volume import load, load_labels, save

CASES = ["A1", "A2", "A3", "A4"]
PARAMS = config.validated({})["gate"]
CHANNELS = 4
# The toy's tumours are balls: unturned they would all be copies.
DRAWN = {"rotation_deg": 90, "oedema": "donor"}


def varied(results):
    """Real tumours differ: give each training case brightness and texture of its own."""
    for case in CASES:
        rng = stage.rng(1, "varied", case)
        stem = results / f"sub-{case}/anat/sub-{case}_space-{toy.LABEL}"
        labels = load_labels(f"{stem}_dseg.nii.gz").data
        for modality in toy.MODALITIES:
            image = load(f"{stem}_desc-preproc_{modality}.nii.gz")
            shifts = np.concatenate([[0], rng.normal(0, 0.6, 3)])
            texture = ndimage.gaussian_filter(rng.normal(size=labels.shape), 0.7)
            texture *= rng.uniform(0.2, 0.7) / texture.std()
            changed = np.where(labels > 0, image.data + shifts[labels] + texture, image.data)
            save(f"{stem}_desc-preproc_{modality}.nii.gz", changed.astype(np.float32), image.affine)
        bank.bank_case(case, stem.parent, toy.LABEL, toy.MODALITIES, "CC0", results / "bank")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gate")
    hosts, _ = toy.write_cohort(folder)
    varied(folder)
    for host in hosts:
        toy.make_samples(
            folder, folder / f"set/sub-{host}/anat", host, tuple(CASES), draws=6, **DRAWN
        )
    return folder


@pytest.fixture(scope="module")
def critic(results):
    """A critic as the refiner's training leaves it, but one that has learned nothing."""
    torch.manual_seed(0)
    path = results / "critic.pt"
    checkpoint.save_model(
        path,
        "critic",
        toy.MODALITIES,
        encoder=backbone(len(toy.MODALITIES), refiner.CLASSES, CHANNELS).state_dict(),
        discriminator=refiner.Discriminator(len(toy.MODALITIES), CHANNELS).state_dict(),
        channels=CHANNELS,
        spacing=toy.GRID.spacing.tolist(),
    )
    return path


def sidecars(results, folder="set"):
    return sorted(results.glob(f"{folder}/sub-*/anat/*desc-coarse*.json"))


def judged(results, critic, paths, out, donors=CASES, **params):
    """The table of the gate, made by both stages from two shards."""
    shards = [out / "shard-0.tsv", out / "shard-1.tsv"]
    for shard, part in zip(shards, (paths[::2], paths[1::2]), strict=True):
        appraise.main(
            ["--critic", str(critic), "--bank", str(results / "bank"), "--donor", *donors,
             "--samples", *map(str, part), "--modality", *toy.MODALITIES, "--out", str(shard)]
        )  # fmt: skip
    gate.main(
        ["--scores", *map(str, shards), "--donor", *donors, "--results", str(results),
         "--bank", str(results / "bank"), "--label", toy.LABEL, "--modality", *toy.MODALITIES,
         "--params", json.dumps(PARAMS | params), "--out", str(out / "gate.tsv")]
    )  # fmt: skip
    return out / "gate.tsv"


def planted(results, name, change):
    """An ordinary sample with a fault: `change` is given image (tissue-relative), labels, modality
    and generator, and returns the image. Its path and the one that it was made from."""
    original = sidecars(results)[3]
    faulty = results / "faulty" / original.name.replace("coarse", name)
    faulty.parent.mkdir(exist_ok=True)
    shutil.copy(original, faulty)
    shutil.copy(samples.dseg(original), samples.dseg(faulty))
    labels = load_labels(samples.dseg(original)).data
    for modality in toy.MODALITIES:
        image = load(samples.image(original, modality))
        centre, scale = stage.read_json(original)["reference"][modality]
        rng = stage.rng(5, name, modality)
        made = change((image.data - centre) / scale, labels, modality, rng) * scale + centre
        made = np.where(image.data != 0, made, 0).astype(np.float32)
        save(samples.image(faulty, modality), made, image.affine)
    return faulty


def pasted(results, case, mirrored=False):
    """A training case's tumour, voxel for voxel, in a healthy host where nothing else is."""
    original = sidecars(results)[0]
    copy = results / "faulty" / f"{original.stem}{'mirrored' if mirrored else 'copy'}.json"
    copy.parent.mkdir(exist_ok=True)
    record = stage.read_json(original)
    files = bank.case_files(results / f"sub-{case}/anat", case, toy.LABEL)
    labels = load_labels(files["dseg"])
    theirs = stage.read_json(results / f"bank/sub-{case}_rois.json")["reference"]

    def moved(array):
        return np.roll(np.flip(array, 0) if mirrored else array, (1, -2, 1), (0, 1, 2))

    inside = moved(labels.data) > 0
    for modality in toy.MODALITIES:
        host = load(
            results / f"sub-H1/anat/sub-H1_space-{toy.LABEL}_desc-preproc_{modality}.nii.gz"
        )
        (centre, scale), (own, spread) = record["reference"][modality], theirs[modality]
        tumour = (moved(load(str(files["image"]).format(modality)).data) - own) / spread
        made = np.where(inside, tumour * scale + centre, host.data).astype(np.float32)
        save(samples.image(copy, modality), made, host.affine)
    save(samples.dseg(copy), moved(labels.data), labels.affine)
    stage.write_json(copy, record | {"donors": [case]})
    return copy


FAULTS = {
    "noise": lambda x, y, m, rng: x + rng.normal(0, 2.0, x.shape) * (y > 0),
    "bright": lambda x, y, m, rng: x + 3.0 * ((y == 2) & (m == "T2w")),
    "dark": lambda x, y, m, rng: x - 3.0 * ((y == 2) & (m == "T2w")),
    "blurred": lambda x, y, m, rng: np.where(y > 0, ndimage.gaussian_filter(x, 3), x),
}


@pytest.fixture(scope="module")
def verdicts(results, critic):
    """Verdicts on all ordinary samples and, among them, the faulty ones."""
    faulty = [planted(results, name, change) for name, change in FAULTS.items()]
    faulty += [pasted(results, "A2"), pasted(results, "A3", mirrored=True)]
    return gate.read(judged(results, critic, [*sidecars(results), *faulty], results))


def verdict(verdicts, name):
    (row,) = verdicts[verdicts["sample"].str.contains(name)].to_dict("records")
    return row


def test_ordinary_samples_are_mostly_accepted(results, verdicts):
    ordinary = verdicts[verdicts["sample"].isin([p.stem for p in sidecars(results)])]
    assert len(ordinary) == 12
    assert (ordinary["verdict"] == "accept").mean() >= 0.8


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("noise", "T1w ED too varied"),
        ("noise", "T1w ET too varied"),
        ("bright", "T2w ED too bright"),
        ("dark", "T2w ED too dark"),
        ("blurred", "T1w TC boundary too blurred"),
        ("copy", "copy of a training tumour: A2-0"),
        ("mirrored", "copy of a training tumour: A3-0"),
    ],
)
def test_a_planted_fault_is_rejected_for_what_it_is(verdicts, name, reason):
    row = verdict(verdicts, name)
    assert row["verdict"] == "reject"
    assert reason in row["reasons"]


def test_the_same_samples_give_the_same_table_in_any_order(results, critic, tmp_path):
    paths = sidecars(results)[:4]
    tables = [
        judged(results, critic, order, tmp_path / name).read_bytes()
        for name, order in (("one", paths), ("two", paths), ("three", paths[::-1]))
    ]
    assert tables[0] == tables[1] == tables[2]


def test_a_patient_who_keeps_the_tumour_is_no_copy(results, critic, tmp_path):
    copy = pasted(results, "A2")
    record = stage.read_json(copy)
    kept = {}
    for host in ("A1", "A2"):
        stage.write_json(copy, record | {"host": host, "host_tumour": "kept"})
        table = gate.read(judged(results, critic, [copy, sidecars(results)[0]], tmp_path / host))
        kept[host] = verdict(table, "copy")
    assert "copy of a training tumour: A2-0" in kept["A1"]["reasons"]
    assert kept["A2"]["nearest"] != "A2-0"
    assert kept["A2"]["verdict"] == "accept"


def test_a_sample_without_a_tumour_is_accepted_unseen(results, critic, tmp_path):
    toy.make_samples(results, results / "free/sub-H1/anat", draws=1, tumour_free=1.0)
    (free,) = sidecars(results, "free")
    free = free.rename(free.with_name(free.name.replace("coarse", "coarse9")))
    for name in (*toy.MODALITIES, "dseg"):
        path = free.with_name(free.name.replace("coarse9", "coarse"))
        samples.image(path, name).rename(samples.image(free, name))
    table = gate.read(judged(results, critic, [free, sidecars(results)[0]], tmp_path))
    row = verdict(table, "coarse9")
    assert row["verdict"] == "accept"
    assert pd.isna([row["agreement"], row["nearest"], row["band"]]).all()


def test_the_tissue_around_is_in_the_table_and_not_judged(results, critic, tmp_path):
    table = gate.read(judged(results, critic, sidecars(results), tmp_path))
    assert any(" around " in name for name in table)
    assert not table["reasons"].fillna("").astype(str).str.contains("around").any()


def test_a_sample_of_a_foreign_donor_is_refused(results, critic, tmp_path):
    paths = [p for p in sidecars(results) if "A1" in stage.read_json(p)["donors"]]
    with pytest.raises(InputError, match=r"its donor A1 is not a training case"):
        judged(results, critic, paths, tmp_path, donors=CASES[1:])
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_critic_is_refused(results, tmp_path):
    checkpoint.save_model(tmp_path / "x.pt", "refiner", toy.MODALITIES, weights={})
    with pytest.raises(InputError, match=r"x\.pt: is not a critic"):
        judged(results, tmp_path / "x.pt", sidecars(results), tmp_path)


# The critic


class Threshold(torch.nn.Module):
    """Sees oedema wherever the first modality is above 1."""

    def __init__(self):
        super().__init__()
        self.at = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        seen = x[:, :1] - self.at
        return torch.cat([-seen, torch.full_like(seen, -9), seen, torch.full_like(seen, -9)], 1)


class Brightness(torch.nn.Module):
    """Finds bright what is real."""

    def forward(self, x):
        return torch.nn.functional.avg_pool3d(x, 4), None


def test_the_critic_scores_what_it_sees_and_only_near_the_tumour():
    labels = np.zeros((19, 21, 22), np.uint8)
    labels[8:12, 8:12, 8:12] = 2
    image = np.full((1, *labels.shape), 0.5, np.float32)
    image[0, 8:12, 8:12, 8:10] = 3
    critic = appraise.Critic(Threshold(), Brightness(), 2)
    found = critic.scores(image, labels)
    assert found["agreement"] == pytest.approx(2 / 3)  # half of the tumour, nothing else
    assert 0.5 < found["realism"] < 3
    far = image.copy()
    far[0, :2, :2, :2] = 100
    assert critic.scores(far, labels)["realism"] == found["realism"]
    near = np.where(labels > 0, image + 1, image)
    assert critic.scores(near, labels)["realism"] > found["realism"]


def test_a_copy_beside_another_tumour_is_found():
    (one, images), (two, others) = (shapes.tumour((6, 5, 4), seed=i) for i in range(2))
    labels = np.concatenate([two.labels, one.labels])
    both = {m: np.concatenate([others[m], images[m]]).astype(np.float32) for m in images}
    known = {"A-0": likeness.core(one, list(images))}
    found = appraise.most_alike(both, labels, known, shapes.grid(2, *labels.shape))
    assert (found.name, found.dice) == ("A-0", 1)
    assert found.correlation > 0.99


# The decision


REAL = [{"T1w ED mean": v, "T1w WT edge": w} for v, w in ((0, 1), (1, 1.3), (2, 0.9), (1.2, 1.1))]


def table(count=40, **columns):
    """Scores of ordinary samples."""
    rng = np.random.default_rng(0)
    made = {
        "sample": [f"s{i:02d}" for i in range(count)],
        "agreement": rng.uniform(0.5, 0.9, count),
        "realism": rng.normal(size=count),
        "nearest": "A1-0",
        "dice": 0.7,
        "correlation": 0.1,
        "T1w ED mean": 1.0,
        "T1w WT edge": 1.0,
    }
    return pd.DataFrame(made | columns)


def accepted(scores, **params):
    return gate.decide(scores, REAL, PARAMS | params)["verdict"] == "accept"


@pytest.mark.parametrize("name", ["agreement", "realism"])
def test_a_hard_sample_is_kept_unless_it_is_among_the_lowest_few(name):
    scores = table()
    scores.loc[:2, name] = [-30, -20, -10]
    kept = accepted(scores, lowest=0.05)
    assert kept[2]
    assert not kept[:2].any()
    assert accepted(scores, lowest=0.0).all()


@settings(max_examples=30, deadline=None)
@given(st.floats(-5, 5), st.floats(0, 0.5), st.integers(1, 60))
def test_the_share_that_learned_scores_reject_does_not_depend_on_their_level(level, share, count):
    scores = table(count)
    ordinary = accepted(scores, lowest=share)
    assert (~ordinary).sum() <= 2 * share * count
    moved = scores.assign(agreement=scores["agreement"] + level, realism=scores["realism"] - level)
    assert accepted(moved, lowest=share).equals(ordinary)
    assert accepted(scores.assign(agreement=level, realism=level), lowest=share).all()


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 10), st.sampled_from([-1, 1]), st.floats(0.5, 3))
def test_the_band_is_as_wide_on_both_sides(away, side, tolerance):
    allowed = gate.band(REAL, tolerance)["T1w ED mean"]
    mean, spread = 1.05, np.std([0, 1, 2, 1.2])
    scores = table(1, **{"T1w ED mean": mean + side * away * spread})
    row = gate.decide(scores, REAL, PARAMS | {"tolerance": tolerance}).iloc[0]
    assert (row["verdict"] == "accept") == (min(away, judge.FARTHEST) < allowed)
    if row["verdict"] == "reject":
        assert row["reasons"].startswith(f"T1w ED too {'bright' if side > 0 else 'dark'}: ")


def test_the_band_is_as_wide_as_real_cases_are_apart():
    left_out = judge.gaps(REAL[2], REAL[:2] + REAL[3:])["T1w ED mean"]
    narrow = gate.band(REAL, 1)
    assert narrow["T1w ED mean"] >= left_out
    assert gate.band(REAL, 1.5)["T1w ED mean"] == pytest.approx(1.5 * narrow["T1w ED mean"])
    # Where they happen to agree, it is as wide as elsewhere.
    agreeing = [case | {"T1w TC edge": 1.0} for case in REAL]
    assert gate.band(agreeing, 1)["T1w TC edge"] > 1


def test_every_real_case_is_within_its_own_band_and_what_is_farthest_never():
    for cases in (REAL[:2], REAL):
        rows = pd.concat([table(1, **case) for case in cases], ignore_index=True)
        assert (gate.decide(rows, cases, PARAMS)["verdict"] == "accept").all()
        wide = PARAMS | {"tolerance": 1000.0}
        found = gate.decide(table(1, **{"T1w ED mean": 1e3}), cases, wide)
        assert found["verdict"].tolist() == ["reject"]


def test_the_band_is_open_nowhere_and_nowhere_closed():
    lone = {f"T1w {label} {what}": 1.0 for label in ("ET", "NCR") for what in ("mean", "spread")}
    absent = dict.fromkeys(REAL[0], np.nan)
    for cases in ([REAL[0], REAL[1] | lone], [REAL[0], lone], [lone, lone], [REAL[0]] * 3):
        limits = gate.band(cases, 1.0)
        assert set(limits) == {name for case in cases for name in case}
        assert all(1 <= limit <= judge.FARTHEST for limit in limits.values())
        rows = pd.concat([table(1, **absent | case) for case in cases], ignore_index=True)
        assert (gate.decide(rows, cases, PARAMS)["verdict"] == "accept").all()


def test_a_copy_is_like_the_original_in_shape_and_in_texture():
    assert accepted(table(2, dice=[1.0, 0.5], correlation=[0.3, 1.0])).all()
    assert not accepted(table(2, dice=0.95, correlation=0.9)).any()
    assert accepted(table(2, dice=np.nan, correlation=np.nan)).all()


# What others ask of the table


@pytest.fixture
def written(tmp_path):
    scores = table(4, dice=[0.7, 1, 1, 0.7], correlation=[0, 1, 1, 0])
    scores.loc[2, "T1w ED mean"] = 50.0
    gate.write(tmp_path / "gate.tsv", gate.decide(scores, REAL, PARAMS))
    return tmp_path / "gate.tsv"


def test_an_arm_gets_the_accepted_ones_in_its_order(written, tmp_path):
    paths = [tmp_path / f"s{i:02d}.json" for i in (3, 1, 0, 2)]
    assert samples.accepted(written, paths) == [paths[0], paths[2]]
    assert samples.accepted(written, []) == []


def test_an_arm_without_a_sample_and_an_unknown_one_are_said(written, tmp_path):
    with pytest.raises(InputError, match=r"gate\.tsv: lacks s09; delete it and run again"):
        samples.accepted(written, [tmp_path / "s09.json"])
    with pytest.raises(InputError, match=r"gate\.tsv: no sample is accepted;.*gate\.tolerance"):
        samples.accepted(written, [tmp_path / "s01.json"])


def test_the_summary_counts_every_reason(written):
    assert gate.summary(written).to_numpy().tolist() == [
        ["accepted", 2],
        ["rejected", 2],
        ["copy of a training tumour", 2],
        ["T1w ED too bright", 1],
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "no such file"),
        ("", "not a table; delete it and run again"),
        ("sample\trealism\n", "lacks the column agreement; delete it and run again"),
    ],
)
def test_a_bad_table_is_one_line(tmp_path, content, problem):
    if content is not None:
        (tmp_path / "t.tsv").write_text(content)
    with pytest.raises(InputError) as caught:
        gate.read(tmp_path / "t.tsv")
    assert str(caught.value) == f"{tmp_path / 't.tsv'}: {problem}"
