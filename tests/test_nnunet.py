"""nnU-Net as the downstream network: what is written for it, and its commands on the toy cohort."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import toy

from tumorfab import nnunet, stage
from tumorfab.nnunet import Files
from tumorfab.stage import InputError, read_json
from tumorfab.volume import load_labels

# Makes nnU-Net's default trainer take a few steps; its shortest own one takes 250. Python runs
# this before anything else. A trainer by another name would make nnU-Net import all that it has,
# torchvision among it, which is broken where it was built for another PyTorch.
SHORT = """
import sys

if any("nnUNetv2_train" in argument for argument in sys.orig_argv):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer as Trainer

    def short(self, *args, _whole=Trainer.__init__, **kwargs):
        _whole(self, *args, **kwargs)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, 2, 1

    short.__signature__ = __import__("inspect").signature(Trainer.__init__)
    Trainer.__init__ = short
"""
LOG = """
2026-01-01 00:00:00.0: Epoch 0
2026-01-01 00:00:00.0: Current learning rate: 0.01
2026-01-01 00:00:01.0: train_loss 0.5
2026-01-01 00:00:01.0: val_loss -0.1
2026-01-01 00:00:01.0: Pseudo dice [np.float32(0.25), np.float32(0.5), np.float32(0.75)]
2026-01-01 00:00:02.0: Epoch 1
2026-01-01 00:00:00.0: Epoch 1
2026-01-01 00:00:01.0: train_loss -0.125
2026-01-01 00:00:01.0: Pseudo dice [0.5, np.float32(nan), 0.0]
"""


def test_only_real_training_cases_are_planned_on_and_paths_are_relative(tmp_path):
    cases = {
        role: {name: Files([tmp_path / f"{name}_T1w.nii.gz"], tmp_path / f"{name}.nii.gz")}
        for role, name in (("train", "A1"), ("synthetic", "S"), ("validation", "A3"))
    }
    nnunet.prepare(tmp_path / "work", cases, ["T1w"], 0.5)
    planned, enriched = (
        read_json(tmp_path / "work/raw" / name / "dataset.json")
        for name in (nnunet.REAL, nnunet.ENRICHED)
    )
    assert list(planned["dataset"]) == ["A1"]
    assert set(enriched["dataset"]) == {"A1", "S", "A3"}
    listed = enriched["dataset"]["S"]
    assert listed == {"images": ["../../../S_T1w.nii.gz"], "label": "../../../S.nii.gz"}
    (fold,) = read_json(tmp_path / "work/preprocessed" / nnunet.ENRICHED / "splits_final.json")
    assert fold == {"train": ["A1", "S"], "val": ["A3"]}


@pytest.mark.parametrize(
    ("real", "synthetic", "share"),
    [(2, 8, 0.5), (4, 4, 0.5), (4, 16, 0.25), (8, 2, 0.5), (3, 5, 0.4), (4, 8, 1.0), (4, 8, 0.0)],
)
def test_cases_are_repeated_so_that_the_share_is_met(real, synthetic, share):
    reals, made = ([f"{kind}{i}" for i in range(n)] for kind, n in (("r", real), ("s", synthetic)))
    (fold,) = nnunet.split(reals, made, ["v"], share)
    counts = Counter(fold["train"])
    drawn = sum(counts[name] for name in made) / len(fold["train"])
    assert drawn == pytest.approx(share, abs=0.02)
    assert len({counts[name] for name in reals}) == len({counts[name] for name in made}) == 1
    assert fold["val"] == ["v"]


def test_without_validation_cases_the_real_ones_are_watched():
    assert nnunet.split(["a", "b"], [], [], 0.5) == [{"train": ["a", "b"], "val": ["a", "b"]}]


def test_the_history_is_read_from_the_log():
    assert nnunet.history(LOG) == [
        {"step": 0, "loss": 0.5, "validation_dice": 0.5},
        {"step": 1, "loss": -0.125, "validation_dice": 0.25},
    ]


def run(results: Path, out: Path, *extra: str, train=("A1", "A2")) -> None:
    nnunet.main(
        ["--results", str(results), "--train", *train, "--validation", "A3", "--test", "A4",
         "--label", toy.LABEL, "--modality", *toy.MODALITIES, "--threads", "1", "--share", "0.5",
         "--params", json.dumps({"trainer": "nnUNetTrainer", "configuration": "3d_fullres"}),
         "--out", str(out), *extra]
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nnunet")
    toy.write_cohort(folder)
    toy.make_samples(folder, folder / "set", draws=2)
    return folder


def test_a_planted_leak_is_refused(tmp_path):
    sidecar = tmp_path / "sub-H1_desc-coarse000.json"
    stage.write_json(sidecar, {"donors": ["A1", "A4"]})
    with pytest.raises(InputError, match="donor A4 is not a training case of this run"):
        run(tmp_path, tmp_path, "--samples", str(sidecar))


def test_without_nnunet_one_line_says_how_to_get_it(results, tmp_path, monkeypatch):
    monkeypatch.setattr(nnunet, "_path", lambda: str(tmp_path))
    with pytest.raises(InputError, match=r"nnUNetv2_plan_and_preprocess: not found; install"):
        run(results, tmp_path / "out")


def test_its_own_commands_plan_train_and_predict(results, tmp_path, monkeypatch):
    if not shutil.which("nnUNetv2_train", path=nnunet._path()):
        pytest.skip("nnU-Net absent: no command nnUNetv2_train (pip install nnunetv2)")
    (tmp_path / "sitecustomize.py").write_text(SHORT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    commands = []
    real = nnunet.Commands.run
    monkeypatch.setattr(
        nnunet.Commands,
        "run",
        lambda self, name, *rest: commands.append(name) or real(self, name, *rest),
    )
    samples = [str(p) for p in sorted((results / "set").glob("*coarse*.json"))]
    out = tmp_path / "run"
    run(results, out, "--samples", *samples)
    assert commands == [
        "plan_and_preprocess", "move_plans_between_datasets", "preprocess", "train", "predict"
    ]  # fmt: skip
    predicted = load_labels(out / f"sub-A4_space-{toy.LABEL}_desc-pred_dseg.nii.gz")
    assert predicted.grid.matches(toy.GRID)
    assert set(np.unique(predicted.data)) <= {0, 1, 2, 3}
    rows = (out / "training.csv").read_text().splitlines()
    assert rows[0] == "step,loss,validation_dice"
    assert [row.split(",")[0] for row in rows[1:]] == ["0"]
    assert np.isfinite(float(rows[1].split(",")[1]))
    (model,) = (out / "nnunet/results").rglob("checkpoint_final.pth")
    plans = read_json(model.parent.parent / "plans.json")
    assert plans["dataset_name"] == nnunet.ENRICHED
    fingerprint = read_json(model.parent.parent / "dataset_fingerprint.json")
    assert len(fingerprint["spacings"]) == 2  # planned on A1 and A2 alone
    assert sorted(p.name for p in (out / "nnunet").iterdir()) == ["made_from.json", "results"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
