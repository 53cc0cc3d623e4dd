"""Downstream segmentation by nnU-Net v2 (Isensee et al. 2021), through its own commands.

Its plans are made from the real training cases alone and moved to the data set that the samples
enrich, so that every arm trains the same network on the same grid. A split written for it keeps
validation cases out of the training. It wants names and folders of its own, which are made below
the run's folder; cases are listed by path and not copied.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from tumorfab import bank, gpu, samples, stage
from tumorfab.stage import InputError

# The data set that is planned on and the one that is trained on.
REAL, ENRICHED = "Dataset001_real", "Dataset002_enriched"
PLANS = "nnUNetPlans"
# Nested regions, as BraTS scores them, and the label that each stands for where no inner one is.
REGIONS = {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}
REGION_LABELS = [2, 1, 3]


@dataclass(frozen=True)
class Files:
    """The volumes of one case: an image per modality, and the label map."""

    images: list[Path]
    labels: Path


def description(cases: dict[str, Files], modalities: list[str], folder: Path) -> dict[str, Any]:
    """dataset.json of a data set in `folder`: cases by name, their paths relative to it."""

    def relative(path: Path) -> str:
        return os.path.relpath(path.resolve(), folder.resolve())

    return {
        "channel_names": {str(i): m for i, m in enumerate(modalities)},
        "labels": REGIONS,
        "regions_class_order": REGION_LABELS,
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
        "dataset": {
            name: {"images": [relative(i) for i in case.images], "label": relative(case.labels)}
            for name, case in cases.items()
        },
    }


def split(
    real: Sequence[str], synthetic: Sequence[str], validation: Sequence[str], share: float
) -> list[dict[str, list[str]]]:
    """splits_final.json, one fold. nnU-Net draws every case that is listed equally often: cases are
    repeated so that about `share` of the draws are synthetic. Without validation cases it is shown
    the real ones; they choose nothing, since the weights of the last epoch are used."""
    trained = list(real)
    if synthetic and share > 0:
        # How much more often than a synthetic case a real one is listed.
        ratio = Fraction((1 - share) * len(synthetic) / (share * len(real))).limit_denominator(8)
        trained = list(real) * ratio.numerator + list(synthetic) * ratio.denominator
    return [{"train": trained, "val": list(validation) or list(real)}]


def history(log: str) -> list[dict[str, float]]:
    """Epochs (as `step`), training loss and mean validation Dice of a training's log; what an
    interrupted epoch wrote counts once it was done again."""
    rows: dict[int, dict[str, float]] = {}
    epoch = 0
    for line in log.splitlines():
        if found := re.search(r": Epoch (\d+)", line):
            epoch = int(found[1])
            rows[epoch] = {"step": epoch}
        elif found := re.search(r": train_loss (\S+)", line):
            rows[epoch]["loss"] = float(found[1])
        elif found := re.search(r": Pseudo dice \[(.*)\]", line):
            values = [float(v) for v in re.findall(r"(?:^|[(\s])(\d+\.\d+(?:e-\d+)?)", found[1])]
            if values:  # a region that no validation patch holds has none
                rows[epoch]["validation_dice"] = sum(values) / len(values)
    return [rows[epoch] for epoch in sorted(rows)]


class Commands:
    """nnU-Net's commands on the folders below `work`, on one device."""

    def __init__(self, work: Path, device: str, threads: int) -> None:
        self.work, self.device, self.threads = work, device, threads
        folders = {
            f"nnUNet_{name}": str(work / name) for name in ("raw", "preprocessed", "results")
        }
        self.env = {
            **os.environ,
            **folders,
            "nnUNet_n_proc_DA": str(max(1, threads)),
            "nnUNet_def_n_proc": "1",
            "OMP_NUM_THREADS": str(threads),
        }
        if device != "cpu":
            self.env["CUDA_VISIBLE_DEVICES"], self.device = device, "cuda"

    def run(self, command: str, *arguments: str | int | Path) -> None:
        """Run one command; its output is this job's. Raises `InputError` when it is not installed
        or fails."""
        binary = shutil.which(f"nnUNetv2_{command}", path=_path())
        if binary is None:
            raise InputError(
                f"nnUNetv2_{command}: not found; install nnU-Net: pip install -e '.[nnunet]'"
            )
        done = subprocess.run([binary, *map(str, arguments)], env=self.env)
        if done.returncode:
            raise InputError(
                f"nnUNetv2_{command}: ended with status {done.returncode}; its output is above"
            )

    def plan(self, configuration: str) -> None:
        """Plan on the real cases, move the plans to the enriched set, preprocess that."""
        self.run("plan_and_preprocess", "-d", 1, "--no_pp", "-c", configuration, "-npfp", 1)
        real, enriched = (self.work / "preprocessed" / name for name in (REAL, ENRICHED))
        self.run("move_plans_between_datasets", "-s", 1, "-t", 2, "-sp", PLANS)
        # The two files that moving leaves behind. What the fingerprint says is in the plans.
        shutil.copy(self.work / "raw" / ENRICHED / "dataset.json", enriched)
        shutil.copy(real / "dataset_fingerprint.json", enriched)
        self.run("preprocess", "-d", 2, "-plans_name", PLANS, "-c", configuration, "-np", 1)

    def train(self, configuration: str, trainer: str) -> None:
        """Train on the enriched set; go on where a killed training has stopped."""
        self.run(
            "train", 2, configuration, 0, "-tr", trainer, "-p", PLANS, "-device", self.device, "--c"
        )

    def predict(self, source: Path, target: Path, configuration: str, trainer: str) -> None:
        """Segment the images in a folder."""
        self.run(
            "predict", "-i", source, "-o", target, "-d", 2, "-c", configuration, "-f", 0,
            "-tr", trainer, "-p", PLANS, "-device", self.device, "-npp", 1, "-nps", 1,
        )  # fmt: skip


def _path() -> str:
    """Where commands are found: beside this interpreter first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def prepare(
    work: Path, cases: dict[str, dict[str, Files]], modalities: list[str], share: float
) -> None:
    """Write both data sets and the split; `cases` by role (train, synthetic, validation) and
    name."""
    everything = {name: case for role in cases.values() for name, case in role.items()}
    for name, chosen in ((REAL, cases["train"]), (ENRICHED, everything)):
        folder = work / "raw" / name
        stage.write_json(folder / "dataset.json", description(chosen, modalities, folder))
    train, synthetic, validation = (list(cases[r]) for r in ("train", "synthetic", "validation"))
    listed = split(train, synthetic, validation, share)
    stage.write_json(work / "preprocessed" / ENRICHED / "splits_final.json", listed)


def fingerprint(cases: dict[str, dict[str, Files]], *what: Any) -> str:
    """Hash of what a run depends on: the content of its cases by role and name, and `what`."""
    seen = {
        f"{role}/{name}": [
            hashlib.sha256(path.read_bytes()).hexdigest() for path in (*case.images, case.labels)
        ]
        for role, found in cases.items()
        for name, case in found.items()
    }
    return hashlib.sha256(json.dumps([seen, *what], sort_keys=True).encode()).hexdigest()


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tumorfab nnunet",
        description=__doc__.splitlines()[0],
        fromfile_prefix_chars="@",  # @FILE: one argument a line
    )
    parser.add_argument(
        "--results", type=Path, required=True, help="folder with sub-*/anat of the real cases"
    )
    parser.add_argument("--train", nargs="+", required=True, help="real training cases")
    parser.add_argument(
        "--samples", type=Path, nargs="*", default=[], help="sidecars (.json) of synthetic samples"
    )
    parser.add_argument("--validation", nargs="*", default=[], help="cases to watch")
    parser.add_argument("--test", nargs="+", required=True, help="cases to segment")
    parser.add_argument("--label", required=True, help="label of the analysis space")
    parser.add_argument("--modality", nargs="+", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gate", type=Path, help="table of the gate: only accepted samples count")
    parser.add_argument("--share", type=float, required=True, help="share of synthetic draws")
    parser.add_argument(
        "--params", type=json.loads, required=True, help="config section `nnunet`, JSON"
    )
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Command line of the stage: one arm, k, n, fold and seed."""
    args = _arguments(argv)

    def files(subject: str) -> Files:
        found = bank.case_files(args.results / f"sub-{subject}" / "anat", subject, args.label)
        return Files([Path(str(found["image"]).format(m)) for m in args.modality], found["dseg"])

    if args.gate:
        args.samples = samples.accepted(args.gate, args.samples)
    for sidecar in args.samples:
        samples.read(sidecar, args.train)  # refuses a sample of any other donor
    cases = {
        "train": {s: files(s) for s in args.train},
        "synthetic": {
            s.stem: Files([samples.image(s, m) for m in args.modality], samples.dseg(s))
            for s in args.samples
        },
        "validation": {s: files(s) for s in args.validation},
    }
    work, made = args.out / "nnunet", args.out / "nnunet" / "made_from.json"
    state = {"sha256": fingerprint(cases, args.modality, args.share, args.params)}
    if not (made.exists() and stage.read_json(made) == state):
        shutil.rmtree(work, ignore_errors=True)
    stage.write_json(made, state)
    setting = args.params["configuration"], args.params["trainer"]
    with gpu.device(args.threads) as device:
        card = "cpu" if device.type == "cpu" else gpu.visible(device.index + 1)[device.index]
        nnunet = Commands(work, card, args.threads)
        planned = work / "preprocessed" / ENRICHED / "planned"
        if not planned.exists():
            prepare(work, cases, args.modality, args.share)
            nnunet.plan(args.params["configuration"])
            stage.write_text(planned, "")
        nnunet.train(*setting)
        source, target = work / "images", work / "predicted"
        source.mkdir(exist_ok=True)
        for subject in args.test:
            for channel, image in enumerate(files(subject).images):
                link = source / f"{subject}_{channel:04d}.nii.gz"
                link.unlink(missing_ok=True)
                link.symlink_to(image.resolve())
        nnunet.predict(source, target, *setting)
    for subject in args.test:
        name = f"sub-{subject}_space-{args.label}_desc-pred_dseg.nii.gz"
        with stage.atomic(args.out / name) as temporary:
            shutil.copyfile(target / f"{subject}.nii.gz", temporary)
    _finish(args.out, work)


def _finish(out: Path, work: Path) -> None:
    """Write the history; keep the trained model and remove what only making it needed."""
    (folder,) = (work / "results" / ENRICHED).glob("*/fold_0")
    logs = sorted(folder.glob("training_log_*.txt"))
    rows = history("\n".join(log.read_text(encoding="utf-8") for log in logs))
    columns = ["step", "loss", "validation_dice"]
    lines = [",".join(f"{row[c]:.6g}" if c in row else "" for c in columns) for row in rows]
    stage.write_text(out / "training.csv", "\n".join([",".join(columns), *lines]) + "\n")
    for name in ("raw", "preprocessed", "images", "predicted"):
        shutil.rmtree(work / name, ignore_errors=True)


if __name__ == "__main__":
    stage.run(main)
