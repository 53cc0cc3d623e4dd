import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import toy

from tumorfab import segment
from tumorfab.stage import InputError, write_json
from tumorfab.volume import load_labels

PARAMS = {"steps": 150, "batch": 2, "patch": 24, "channels": 8, "learning_rate": 1e-3,
          "synthetic_share": 0.5, "schedule": "joint", "mirror": False,
          "validate_every": 75}  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segment")
    toy.write_cohort(folder)
    toy.make_samples(folder, folder / "set", draws=1)
    toy.make_samples(folder, folder / "free", draws=1, tumour_free=1.0)
    return folder


def run(results, out, *extra, params=PARAMS):
    segment.main(
        ["--results", str(results), "--train", "A1", "A2", "--validation", "A3", "--test", "A4",
         "--label", toy.LABEL, "--modality", *toy.MODALITIES, "--seed", "1", "--threads", "1",
         "--params", json.dumps(params), "--out", str(out), *extra]
    )  # fmt: skip


def test_it_learns_to_find_the_tumour_of_an_unseen_case(results, tmp_path):
    run(results, tmp_path)
    predicted = load_labels(tmp_path / f"sub-A4_space-{toy.LABEL}_desc-pred_dseg.nii.gz").data > 0
    truth = load_labels(results / "sub-A4/anat" / f"sub-A4_space-{toy.LABEL}_dseg.nii.gz").data > 0
    assert 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()) > 0.6
    history = pd.read_csv(tmp_path / "training.csv")
    assert len(history) == PARAMS["steps"]
    assert history["validation_dice"].notna().sum() == 2
    assert not (tmp_path / "checkpoint.pt").exists()


def test_same_seed_same_weights_and_synthetic_samples_are_used(results, tmp_path):
    short = PARAMS | {"steps": 4, "validate_every": 2}
    samples = [str(p) for p in (results / "set").glob("*coarse*.json")]
    run(results, tmp_path / "a", params=short)
    run(results, tmp_path / "b", params=short)
    run(results, tmp_path / "c", "--samples", *samples, params=short)
    run(results, tmp_path / "d", "--repeat", "1", params=short)
    one, two, more, other = (
        torch.load(tmp_path / n / "model.pt", weights_only=True)["weights"] for n in "abcd"
    )
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not all(torch.equal(one[k], more[k]) for k in one)
    assert not all(torch.equal(one[k], other[k]) for k in one)


def test_a_tumour_free_sample_is_a_case_like_any_other(results, tmp_path):
    (sidecar,) = (results / "free").glob("*coarse*.json")
    images = [segment.samples.image(sidecar, m) for m in toy.MODALITIES]
    case = segment.read_case(images, segment.samples.dseg(sidecar))
    assert not case.labels.any()
    short = PARAMS | {"steps": 2, "validate_every": 2}
    run(results, tmp_path, "--samples", str(sidecar), params=short)
    assert (tmp_path / "model.pt").exists()


def test_samples_that_the_gate_rejects_are_not_trained_on(results, tmp_path):
    short = PARAMS | {"steps": 3}
    kept, gone = (next((results / name).glob("*coarse*.json")) for name in ("set", "free"))
    gone = shutil.copytree(gone.parent, tmp_path / "gone") / gone.name
    for path in sorted(gone.parent.iterdir()):  # another name than that of the sample that is kept
        path.rename(path.with_name(path.name.replace("coarse000", "coarse001")))
    gone = gone.with_name(gone.name.replace("coarse000", "coarse001"))
    table = tmp_path / "tf.tsv"
    table.write_text(f"sample\tverdict\n{kept.stem}\taccept\n{gone.stem}\treject\n")
    run(results, tmp_path / "a", "--samples", str(kept), str(gone), "--gate", str(table),
        params=short)  # fmt: skip
    run(results, tmp_path / "b", "--samples", str(kept), params=short)
    run(results, tmp_path / "c", "--samples", str(kept), str(gone), params=short)
    one, two, three = (
        torch.load(tmp_path / n / "model.pt", weights_only=True)["weights"] for n in "abc"
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], three[name]) for name in one)


def test_shuffled_samples_have_the_labels_of_others(results, tmp_path, monkeypatch):
    made = [next((results / name).glob("*coarse*.json")) for name in ("set", "free")]
    read = []
    real = segment.read_case
    monkeypatch.setattr(
        segment, "read_case", lambda images, dseg: read.append((images, dseg)) or real(images, dseg)
    )
    short = PARAMS | {"steps": 1}
    run(results, tmp_path, "--samples", *map(str, made), "--shuffled", params=short)
    found = {images[0]: dseg for images, dseg in read if "coarse" in dseg.name}
    modality = toy.MODALITIES[0]
    images = [segment.samples.image(s, modality) for s in made]
    labels = [segment.samples.dseg(s) for s in made]
    assert set(found) == set(images)
    assert sorted(found.values()) == sorted(labels)
    assert all(found[i] != own for i, own in zip(images, labels, strict=True))


def test_a_planted_leak_is_refused(results, tmp_path):
    sidecar = tmp_path / "sub-H1_desc-coarse000.json"
    write_json(sidecar, {"donors": ["A1", "A4"]})  # A4 is the test case
    with pytest.raises(InputError, match="donor A4 is not a training case of this run"):
        run(results, tmp_path, "--samples", str(sidecar))


def test_the_annotation_of_a_test_case_is_never_opened(results, tmp_path, monkeypatch):
    opened = []
    real = segment.load_on
    monkeypatch.setattr(
        segment, "load_on", lambda path, *a, **k: opened.append(str(path)) or real(path, *a, **k)
    )
    run(results, tmp_path, params=PARAMS | {"steps": 1})
    assert any("sub-A4" in path for path in opened)
    assert not any("sub-A4" in path and "dseg" in path for path in opened)


def test_standardised_is_blind_to_the_scanner():
    rng = np.random.default_rng(0)
    image = np.where(rng.random((8, 8, 8)) > 0.4, rng.normal(5, 2, (8, 8, 8)), 0).astype(np.float32)
    brain = image != 0
    one, two = segment.standardised(image), segment.standardised(np.where(brain, 3 * image + 7, 0))
    np.testing.assert_allclose(one, two, atol=1e-4)
    assert one[brain].mean() == pytest.approx(0, abs=1e-4)
    assert (one[~brain] == 0).all()


def test_regions_and_labels_are_inverse():
    labels = torch.randint(0, 4, (1, 6, 6, 6))
    logits = segment.regions(labels)[0].numpy() * 2 - 1
    np.testing.assert_array_equal(segment.to_labels(logits), labels[0].numpy())


def test_labels_are_nested_whatever_the_logits():
    logits = np.random.default_rng(0).normal(size=(3, 8, 8, 8)).astype(np.float32)
    labels = segment.to_labels(logits)
    assert (logits[0][labels > 0] > 0).all()
    assert (logits[1][np.isin(labels, (1, 3))] > 0).all()


def test_batches_mix_by_the_share():
    def pool(value):
        return [
            segment.Case(
                "x", np.full((1, 8, 8, 8), value, np.float16), np.ones((8, 8, 8), np.uint8)
            )
        ]

    params = {"batch": 4, "patch": 8, "synthetic_share": 0.5}
    images, _ = segment.draw_batch(pool(1), pool(2), params, np.random.default_rng(0))
    assert sorted(images.amax((1, 2, 3, 4)).tolist()) == [1, 1, 2, 2]
    images, _ = segment.draw_batch(pool(1), [], params, np.random.default_rng(0))
    assert images.amax((1, 2, 3, 4)).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_both_schedules_show_as_many_synthetic_patches(share):
    params = {"steps": 40, "batch": 4, "synthetic_share": share}
    shares = {
        schedule: [segment.synthetic_share(params | {"schedule": schedule}, s) for s in range(40)]
        for schedule in ("joint", "pretrain")
    }
    assert set(shares["joint"]) == {share}
    assert sum(shares["pretrain"]) == sum(shares["joint"])
    assert shares["pretrain"] == sorted(shares["pretrain"], reverse=True)  # synthetic first


def test_pretraining_sees_synthetic_then_real(results, tmp_path, monkeypatch):
    seen = []
    draw = segment.draw_batch

    def spied(real, synthetic, params, rng):
        seen.append(params["synthetic_share"])
        return draw(real, synthetic, params, rng)

    monkeypatch.setattr(segment, "draw_batch", spied)
    samples = [str(p) for p in (results / "set").glob("*coarse*.json")]
    short = PARAMS | {"steps": 4, "validate_every": 4, "schedule": "pretrain"}
    run(results, tmp_path, "--samples", *samples, params=short)
    assert seen == [1, 1, 0, 0]


def test_mirrored_prediction_is_the_mean_over_eight_mirrorings():
    class Uneven(torch.nn.Module):
        """Looks at the voxel itself and, along each axis, at the one before it."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, x):
            before = sum(torch.roll(x, 1, axis) for axis in (2, 3, 4))
            return (self.weight * x + before).expand(-1, 3, -1, -1, -1) - 2

    images = np.random.default_rng(0).normal(size=(1, 16, 16, 16)).astype(np.float32)
    network = Uneven()
    plain, mirrored = (segment.predict(network, images, 16, mirror=m) for m in (False, True))
    assert not np.array_equal(plain, mirrored)
    near = sum(np.roll(images[0], step, axis) for step in (1, -1) for axis in range(3))
    np.testing.assert_array_equal(mirrored, np.where(images[0] + near / 2 - 2 > 0, 3, 0))
