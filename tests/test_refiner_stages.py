"""Training and inference of the refiner on the toy cohort."""

import argparse
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import toy

from tumorfab import checkpoint, contrast, judge, players, refine, samples, stage, train_refiner
from tumorfab.files import sha256
from tumorfab.stage import InputError, read_json
from tumorfab.volume import load

PARAMS = {"steps": 30, "encoder_steps": 30, "batch": 2, "patch": 16, "channels": 4,
          "learning_rate": 3e-3, "adversarial": 0.1, "classes": 0.1, "perceptual": 0.5,
          "content": 1.0, "validate_every": 10, "patience": 100, "compile": False,
          "encoder": "", "lessons": 0}  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refiner")
    hosts, cases = toy.write_cohort(folder)
    for host in hosts:
        toy.make_samples(folder, folder / f"set/sub-{host}/anat", host, tuple(cases[:2]))
    toy.make_samples(folder, folder / "free/sub-H1/anat", draws=1, tumour_free=1.0)
    return folder


def sidecars(results, folder="set"):
    return sorted(str(p) for p in results.glob(f"{folder}/sub-*/anat/*desc-coarse*.json"))


def train(results, out, donors=("A1", "A2"), samples=None, **params):
    train_refiner.main(
        ["--results", str(results), "--donor", *donors, "--bank", str(results / "bank"),
         "--samples", *(samples or sidecars(results)), "--label", toy.LABEL,
         "--modality", *toy.MODALITIES, "--seed", "3", "--threads", "1",
         "--params", json.dumps(PARAMS | params), "--out", str(out)]
    )  # fmt: skip


def weights(path):
    return torch.load(path, weights_only=True)["weights"]


@pytest.fixture(scope="module")
def trained(results):
    train(results, results / "set/refiner")
    return results / "set/refiner"


def test_training_learns_and_writes_its_history(trained):
    rows = (trained / "training.csv").read_text().splitlines()
    assert rows[0] == "step,encoder,discriminator,adversarial,classes,perceptual,content,distance"
    assert len(rows) == 1 + 60
    encoder = [float(row.split(",")[1]) for row in rows[1:31]]
    assert np.mean(encoder[-5:]) < np.mean(encoder[:5])
    assert not (trained / "checkpoint.pt").exists()
    assert any(p.name.startswith("events") for p in (trained / "tensorboard").iterdir())


def test_killed_training_ends_as_an_uninterrupted_one(results, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(train_refiner, "SAVE_EVERY", 5)
    process = multiprocessing.get_context("fork").Process(target=train, args=(results, tmp_path))
    process.start()
    deadline = time.monotonic() + 120
    # Past the start of the adversarial phase, so that every state there is has been saved once.
    while time.monotonic() < deadline:
        state = checkpoint_step(tmp_path / "checkpoint.pt")
        if state >= 35 or not process.is_alive():
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "refiner.pt").exists()
    train(results, tmp_path)
    one, two = weights(trained / "refiner.pt"), weights(tmp_path / "refiner.pt")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert (trained / "training.csv").read_bytes() == (tmp_path / "training.csv").read_bytes()


def column(folder, name):
    """Values of one column of the history, those that are there."""
    header, *rows = (folder / "training.csv").read_text().splitlines()
    values = [row.split(",")[header.split(",").index(name)] for row in rows]
    return [float(v) for v in values if v]


def test_the_refiner_is_the_one_that_came_nearest_to_real_tumours(results, trained, tmp_path):
    distances = column(trained, "distance")
    assert len(distances) == 3
    # On the same run with less patience the training ends, and the same weights are kept.
    train(results, tmp_path, learning_rate=0.3, patience=1, steps=200)
    worse = column(tmp_path, "distance")
    assert len(worse) < 20
    assert worse[-1] >= min(worse)
    start = weights(tmp_path / "refiner.pt")["network.conv_final.2.conv.weight"]
    before = coarse_distance(results)
    assert (min(worse) < before) == bool(start.any())


def coarse_distance(results):
    """Distance of the held-out coarse sample (the last one) from the real cases, unrefined."""
    parts = []
    for images, dseg, references, contrasts in (
        *((case_images(results, d), case_dseg(results, d), read_json(
            results / f"bank/sub-{d}_rois.json")["reference"], []) for d in ("A1", "A2")),
        sample_parts(sidecars(results)[-1]),
    ):  # fmt: skip
        case = train_refiner.load_case(images, dseg, references, 16, contrasts)
        goal = train_refiner.Goal([], [], toy.MODALITIES, toy.GRID.spacing)
        near = train_refiner.near(case, toy.GRID.spacing)
        parts.append(goal.measured(near, None))
    return judge.distance(parts[-1:], parts[:-1])


def case_images(results, donor):
    stem = results / f"sub-{donor}/anat/sub-{donor}_space-{toy.LABEL}_desc-preproc"
    return {m: Path(f"{stem}_{m}.nii.gz") for m in toy.MODALITIES}


def case_dseg(results, donor):
    return results / f"sub-{donor}/anat/sub-{donor}_space-{toy.LABEL}_dseg.nii.gz"


def sample_parts(sidecar):
    sidecar = Path(sidecar)
    images = {m: samples.image(sidecar, m) for m in toy.MODALITIES}
    record = read_json(sidecar)
    contrasts = samples.contrasts(record, toy.MODALITIES)
    return images, samples.dseg(sidecar), record["reference"], contrasts


def test_an_encoder_of_an_earlier_training_guides(results, trained, tmp_path):
    train(results, tmp_path, encoder=str(trained / "critic.pt"), steps=10)
    one, two = (torch.load(f / "critic.pt", weights_only=True) for f in (trained, tmp_path))
    assert all(torch.equal(one["encoder"][n], two["encoder"][n]) for n in one["encoder"])
    assert not column(tmp_path, "encoder")
    assert len(column(tmp_path, "perceptual")) == 10
    with pytest.raises(InputError, match=r"critic.pt: has 4 channels; set refiner.channels to it"):
        train(results, tmp_path / "wide", encoder=str(trained / "critic.pt"), channels=8)
    with pytest.raises(InputError, match=r"refiner.pt: is not a critic"):
        train(results, tmp_path / "kind", encoder=str(trained / "refiner.pt"))
    assert not (tmp_path / "wide/refiner.pt").exists()


def test_without_gpu_memory_batches_become_smaller(results, tmp_path, monkeypatch, capsys):
    compete, sizes = players.Players.compete, []

    def small(self, x, *others):
        sizes.append(len(x))
        if len(x) > 1:
            raise torch.OutOfMemoryError("no room")
        return compete(self, x, *others)

    monkeypatch.setattr(players.Players, "compete", small)
    train(results, tmp_path, batch=4, steps=3, encoder_steps=1)
    assert sizes == [4, 2, 1, 1, 1]  # and what fitted once is kept
    assert "out of GPU memory: going on with batches of 1" in capsys.readouterr().err

    def none(self, *batch):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(players.Players, "compete", none)
    with pytest.raises(InputError, match=r"refiner.patch: one patch does not fit the GPU; lower"):
        train(results, tmp_path / "none", steps=3, encoder_steps=1)


def checkpoint_step(path):
    try:
        return int(torch.load(path, weights_only=True)["state"]["step"])
    except FileNotFoundError:
        return 0


def test_a_checkpoint_of_another_run_is_not_continued(tmp_path, capsys):
    checkpoint.save(tmp_path / "c.pt", "one", {"step": 5})
    assert checkpoint.resume(tmp_path / "c.pt", "one") == {"step": 5}
    assert checkpoint.resume(tmp_path / "c.pt", "two") is None
    assert "belongs to another run" in capsys.readouterr().err
    (tmp_path / "c.pt").write_bytes(b"half a file")
    assert checkpoint.resume(tmp_path / "c.pt", "one") is None


def test_a_sample_of_a_foreign_donor_is_refused(results, tmp_path):
    with pytest.raises(InputError, match=r"its donor A\d is not a training case"):
        train(results, tmp_path, donors=("A3", "A4"))
    assert not (tmp_path / "refiner.pt").exists()


def test_tumour_free_samples_teach_nothing(results, tmp_path):
    short = {"steps": 3, "encoder_steps": 2}
    tumours, free = sidecars(results), sidecars(results, "free")
    train(results, tmp_path / "with", samples=[*free, *tumours], **short)
    train(results, tmp_path / "without", samples=tumours, **short)
    one, two = (weights(tmp_path / name / "refiner.pt") for name in ("with", "without"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(InputError, match=r"place.tumour_free: no sample has a tumour .* lower it"):
        train(results, tmp_path / "none", samples=free, **short)
    with pytest.raises(
        InputError, match=r"refiner.lessons: no sample has a tumour .* to 0, to learn"
    ):
        train(results, tmp_path / "none", samples=free, **short, lessons=8)
    assert not (tmp_path / "none/refiner.pt").exists()


def test_a_tumour_that_the_host_keeps_is_not_learned_as_a_synthetic_one(results, tmp_path):
    toy.make_samples(results, tmp_path, "A1", ("A1", "A2"), 1, patient="kept")
    (sidecar,) = tmp_path.glob("*.json")
    own = load(case_dseg(results, "A1")).data > 0
    labels = load(samples.dseg(sidecar)).data
    assert (labels[own] > 0).all()
    assert (labels[~own] > 0).any()
    args = argparse.Namespace(
        samples=[sidecar], donor=["A1", "A2"], modality=toy.MODALITIES, label=toy.LABEL,
        results=results, params=PARAMS,
    )  # fmt: skip
    (case,) = train_refiner.read_coarse(args, tmp_path / "cache")
    wide = toy.ndimage.binary_dilation(own, iterations=2)
    assert np.count_nonzero(case.labels) == np.count_nonzero(labels[~wide]) > 0


def test_the_refiner_is_shown_tumours_in_the_contrast_of_their_donors(results):
    images, dseg, references, _ = sample_parts(sidecars(results)[0])
    contrasts = [1.5, 0.7]
    labels, volumes = load(dseg).data, [load(images[m]).data for m in toy.MODALITIES]
    seen = []

    class Louder(torch.nn.Module):
        """Adds a tenth of what it is shown."""

        def __init__(self):
            super().__init__()
            self.somewhere = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x, y):
            seen.append(x[0].numpy())
            return 1.1 * x

    pairs = [references[m] for m in toy.MODALITIES]
    refined = refine.refine(Louder(), volumes, labels, pairs, contrasts, toy.GRID.spacing)
    where = judge.window(labels, toy.GRID.spacing)
    deep = toy.ndimage.binary_erosion(labels > 0, iterations=2)[where]
    far = toy.ndimage.distance_transform_edt(labels == 0, sampling=4.0)[where] > 12
    brain = volumes[0][where] != 0
    assert deep.any()
    assert (far & brain).any()
    sizes = tuple(slice(0, n) for n in deep.shape)
    for shown, volume, result, (centre, scale), contrast_ in zip(
        seen[0], volumes, refined, pairs, contrasts, strict=True
    ):
        relative = (volume[where] - centre) / scale
        # The edge of a tumour is soft: 4 voxels of 4 mm inside it is all the donors'.
        np.testing.assert_allclose(
            shown[sizes][deep], relative[deep] / contrast_, rtol=0.15, atol=1e-4
        )
        np.testing.assert_allclose(shown[sizes][far & brain], relative[far & brain], atol=1e-4)
        # What it adds is in the contrast of the sample again.
        np.testing.assert_allclose(
            (result[where] - volume[where])[brain] / scale, 0.1 * relative[brain], atol=1e-3
        )


def test_divergence_is_said(results, tmp_path):
    with pytest.raises(InputError, match=r"diverged at step .* lower refiner.learning_rate"):
        train(results, tmp_path, learning_rate=1e20)
    assert not (tmp_path / "refiner.pt").exists()


def run_refine(results, model, modalities=tuple(toy.MODALITIES), folder="set"):
    samples = sidecars(results, folder)
    refine.main(["--refiner", str(model), "--samples", *samples, "--modality", *modalities])


def test_refined_samples_keep_label_and_host(results, trained, tmp_path):
    # Thirty steps may have found nothing better than the identity: let it change something.
    content = torch.load(trained / "refiner.pt", weights_only=True)
    torch.manual_seed(0)
    torch.nn.init.normal_(content["weights"]["network.conv_final.2.conv.weight"], std=0.3)
    torch.save(content, tmp_path / "refiner.pt")
    run_refine(results, tmp_path / "refiner.pt")
    for sidecar in sidecars(results):
        stem = sidecar.removesuffix(".json")
        refined = stem.replace("desc-coarse", "desc-tf")
        labels = load(f"{stem}_dseg.nii.gz").data
        np.testing.assert_array_equal(load(f"{refined}_dseg.nii.gz").data, labels)
        for modality in toy.MODALITIES:
            before, after = (
                load(f"{stem}_{modality}.nii.gz").data,
                load(f"{refined}_{modality}.nii.gz").data,
            )
            # The support is a cube around each voxel of the tumour, one voxel beyond the reach.
            reach = judge.reach(toy.GRID.spacing) + 1
            away = toy.ndimage.distance_transform_cdt(labels == 0, "chessboard") > reach
            assert away.any()
            np.testing.assert_array_equal(after[away], before[away])
            assert not np.array_equal(after, before)
        record = read_json(f"{refined}.json")
        assert record["donors"] == read_json(sidecar)["donors"]
        assert record["coarse"].endswith(os.path.basename(stem))
        files = [f"{refined}_{name}.nii.gz" for name in (*toy.MODALITIES, "dseg")]
        assert record["volumes_sha256"] == {os.path.basename(f): sha256(Path(f)) for f in files}


def test_a_tumour_free_sample_is_left_alone(results, trained):
    run_refine(results, trained / "refiner.pt", folder="free")
    (sidecar,) = sidecars(results, "free")
    stem = sidecar.removesuffix(".json")
    refined = stem.replace("desc-coarse", "desc-tf")
    for name in (*toy.MODALITIES, "dseg"):
        before, after = (load(f"{s}_{name}.nii.gz").data for s in (stem, refined))
        np.testing.assert_array_equal(after, before)
    assert read_json(f"{refined}.json")["draw"]["tumour_free"]


def test_foreign_models_are_refused(results, trained, tmp_path):
    with pytest.raises(InputError, match="was trained on T1w, T2w, not on T1w"):
        run_refine(results, trained / "refiner.pt", ("T1w",))
    (tmp_path / "x.pt").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"x.pt: not a readable model"):
        run_refine(results, tmp_path / "x.pt")
    checkpoint.save_model(tmp_path / "y.pt", "segmentor", toy.MODALITIES, weights={})
    with pytest.raises(InputError, match=r"y.pt: is not a refiner"):
        run_refine(results, tmp_path / "y.pt")
    content = torch.load(trained / "refiner.pt", weights_only=True) | {"spacing": [1.0, 1.0, 1.5]}
    torch.save(content, tmp_path / "z.pt")
    with pytest.raises(InputError, match=r"z.pt: was trained on voxels of 1 x 1 x 1.5 mm, not of"):
        run_refine(results, tmp_path / "z.pt")


def test_background_stays_zero_in_relative_units():
    # The second voxel is brain: 0 in one modality only, by chance.
    one, two = np.array([[[0.0, 0.0, 4.0]]], np.float32), np.array([[[0.0, 3.0, 5.0]]], np.float32)
    relative = contrast.tissue_relative([one, two], [[1.0, 2.0], [1.0, 1.0]])
    np.testing.assert_allclose(relative[0], [[[0, -0.5, 1.5]]])
    np.testing.assert_allclose(relative[1], [[[0, 2, 4]]])


def test_step_generators_do_not_repeat():
    assert (
        stage.rng(3, "refiner", "step", 1).random() != stage.rng(3, "refiner", "step", 11).random()
    )
