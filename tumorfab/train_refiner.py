"""Training of TF-GAN: one flat loop, from the few real training cases and the coarse samples.

Only files of training cases and of samples made from them are ever opened. A killed run goes on
from its last checkpoint; every step draws its batch from a generator named after the step.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.utils.tensorboard import SummaryWriter

from tumorfab import bank, checkpoint, gpu, judge, patches, refiner, samples, stage
from tumorfab.contrast import as_donated, tissue_relative
from tumorfab.patches import Case
from tumorfab.players import Players
from tumorfab.volume import box, load_grid, load_on

SAVE_EVERY = 50
LOSSES = ["encoder", "discriminator", "adversarial", "classes", "perceptual", "content", "distance"]
# One in so many coarse samples is kept from the training, to tell when it is done.
HELD_OUT = 5


def load_case(
    images: dict[str, Path],
    dseg: Path,
    references: dict[str, list[float]],
    edge: int,
    contrasts: Sequence[float] = (),
    kept: Path | None = None,
) -> Case:
    """A case around its tumours, tissue-relative, background exactly 0. A synthetic one has the
    contrast of its donors if `contrasts` tell it; the host's own tumour, whose label map is `kept`,
    is not one of its tumours."""
    grid = load_grid(dseg)
    labels = load_on(dseg, grid, labels=True)
    if kept:
        # Wider than it was: the new tumour's mass effect can have moved it.
        own = ndimage.binary_dilation(load_on(kept, grid, labels=True) > 0, iterations=2)
        labels = np.where(own, 0, labels).astype(np.uint8)
    if not labels.any():
        raise stage.InputError(f"{dseg}: holds no tumour; make it again")
    where = box(labels > 0, edge)
    labels = np.ascontiguousarray(labels[where])
    volumes = [load_on(path, grid)[where] for path in images.values()]
    relative = np.stack(tissue_relative(volumes, [references[m] for m in images]))
    if contrasts:
        relative *= as_donated(labels, contrasts, grid.spacing)
    return Case(dseg.name, relative.astype(np.float16), labels)


def near(case: Case, spacing: NDArray[np.float64]) -> Case:
    """The case with the tissue around its tumours that the refiner is shown."""
    where = judge.window(case.labels, spacing)
    return Case(case.name, case.images[(slice(None), *where)], case.labels[where])


def read_real(args: argparse.Namespace, cache: Path) -> tuple[list[Case], NDArray[np.float64]]:
    """The training cases, mapped from `cache`, and the voxel edges (mm) of their grid."""
    real = []
    for donor in args.donor:
        files = bank.case_files(args.results / f"sub-{donor}" / "anat", donor, args.label)
        references = stage.read_json(args.bank / f"sub-{donor}_rois.json")["reference"]
        images = {m: Path(str(files["image"]).format(m)) for m in args.modality}
        case = load_case(images, files["dseg"], references, args.params["patch"])
        real.append(case.mapped(cache))
    return real, load_grid(files["dseg"]).spacing


def read_coarse(args: argparse.Namespace, cache: Path) -> list[Case]:
    """The coarse samples that hold a tumour, mapped from `cache`. Raises `InputError` where there
    is none, and for a sample of a donor that is not a training case."""
    coarse = []
    for sidecar in stage.progress(args.samples, "reading coarse samples"):
        record = samples.read(sidecar, args.donor)
        if record["draw"]["tumour_free"]:
            continue
        images = {m: samples.image(sidecar, m) for m in args.modality}
        host, kept = record["host"], None
        if record["host_tumour"] == "kept":  # it is real: nothing to tell from real ones
            kept = bank.case_files(args.results / f"sub-{host}" / "anat", host, args.label)["dseg"]
        case = load_case(
            images, samples.dseg(sidecar), record["reference"], args.params["patch"],
            samples.contrasts(record, args.modality), kept,
        )  # fmt: skip
        coarse.append(case.mapped(cache))
    if not coarse:
        raise stage.InputError(
            "refiner.lessons: no sample has a tumour to learn from: no training case has room for "
            "one; set it to 0, to learn from the samples of the study"
            if args.params["lessons"]
            else "place.tumour_free: no sample has a tumour to learn from; lower it"
        )
    return coarse


def batch(
    cases: list[Case], count: int, edge: int, rng: np.random.Generator, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` augmented tumour-centred patches: (B, M, I, J, K) and (B, I, J, K)."""
    drawn = [
        patches.patch(cases[rng.integers(len(cases))], edge, rng, tumour=True) for _ in range(count)
    ]
    images = torch.from_numpy(np.stack([d[0] for d in drawn])).to(device)
    labels = torch.from_numpy(np.stack([d[1] for d in drawn])).to(device).long()
    return patches.augment(images, labels, rng)


@dataclass(frozen=True, eq=False)
class Goal:
    """What tells a good refiner: coarse samples that it never learns from, and the `real` training
    cases' measures (`judge`)."""

    held_out: list[Case]
    real: list[dict[str, float]]
    modalities: list[str]
    spacing: NDArray[np.float64]

    def distance(self, generator: refiner.Generator | None) -> float:
        """How far the held-out samples are from real tumours once they are refined."""
        return judge.distance([self.measured(case, generator) for case in self.held_out], self.real)

    def measured(self, case: Case, generator: refiner.Generator | None) -> dict[str, float]:
        """Measures of one case, refined if there is a generator."""
        images = case.images.astype(np.float32)
        if generator is not None:
            images = images + refiner.change(generator, images, case.labels)
        return judge.measures(list(images), self.modalities, case.labels, self.spacing)


def train(
    real: list[Case],
    coarse: list[Case],
    goal: Goal,
    params: dict[str, Any],
    seed: int,
    device: torch.device,
    state_path: Path,
    writer: SummaryWriter,
    run: str,
) -> tuple[Players, list[dict[str, float]]]:
    """Train encoder, then generator against discriminator; returns the players, whose `best` is the
    averaged generator that came nearest to the goal, and the history. Raises `InputError` when the
    training diverges or a single patch does not fit the GPU."""
    torch.manual_seed(int(stage.rng(seed, "refiner", "weights").integers(2**31)))
    players = Players.new(
        len(goal.modalities), params, judge.reach(goal.spacing), len(real), device
    )
    # Before the first step the generator is the identity: what it must beat is the coarse sample.
    before = goal.distance(None)
    progress: dict[str, Any] = {"step": 0, "history": [], "nearest": before, "idle": 0}
    if params["encoder"]:
        encoder = Path(params["encoder"])
        content = checkpoint.load_model(encoder, "critic", goal.modalities, goal.spacing)
        if content["channels"] != params["channels"]:
            raise stage.InputError(
                f"{params['encoder']}: has {content['channels']} channels; "
                "set refiner.channels to it"
            )
        players.encoder.load_state_dict(content["encoder"])
        progress["step"] = params["encoder_steps"]
    if saved := checkpoint.resume(state_path, run):
        players.load(saved)
        progress = saved["progress"]

    count, start, history = params["batch"], progress["step"], progress["history"]
    total = params["encoder_steps"] + params["steps"]
    for step in stage.progress(range(start, total), "refiner training", total - start):
        if progress["idle"] >= params["patience"]:
            break
        losses, count = _step(players, real, coarse, params, seed, step, count)
        if not all(np.isfinite(value) for value in losses.values()):
            raise stage.InputError(
                f"refiner training diverged at step {step} ({losses}); lower refiner.learning_rate"
            )
        done = step + 1 - params["encoder_steps"]
        if done > 0 and (done % params["validate_every"] == 0 or step + 1 == total):
            losses["distance"] = goal.distance(players.average)
            progress["idle"] += 1
            if losses["distance"] < progress["nearest"]:
                progress |= {"nearest": losses["distance"], "idle": 0}
                players.best.load_state_dict(players.average.state_dict())
            writer.add_image("refiner/sample", picture(players.average, goal.held_out[0]), step)
        history.append({"step": step, **losses})
        for name, value in losses.items():
            writer.add_scalar(f"refiner/{name}", value, step)
        if (step + 1) % SAVE_EVERY == 0 and step + 1 < total:
            progress["step"] = step + 1
            state = players.state() | {"step": step + 1, "progress": progress}
            checkpoint.save(state_path, run, state)
    if progress["nearest"] == before:
        print(
            "no refiner came nearer to real tumours than coarse samples are: they stay as they are"
        )
    return players, history


def _step(
    players: Players, real: list[Case], coarse: list[Case], params: dict[str, Any], seed: int,
    step: int, count: int,
) -> tuple[dict[str, float], int]:  # fmt: skip
    """One step on `count` patches of each kind, or on half as many, and half of that, where the GPU
    has no room; returns the losses and the number that fitted."""
    while True:
        rng = stage.rng(seed, "refiner", "step", step)
        try:
            x = batch(real, count, params["patch"], rng, players.device)
            if step < params["encoder_steps"]:  # phase 1: the encoder whose features will guide
                return players.learn_to_see(*x), count
            # phase 2: generator against discriminator
            y = batch(coarse, count, params["patch"], rng, players.device)
            return players.compete(*x, *y, params, step - params["encoder_steps"]), count
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            if count == 1:
                raise stage.InputError(
                    "refiner.patch: one patch does not fit the GPU; lower it"
                ) from None
            count //= 2
            print(f"out of GPU memory: going on with batches of {count}", file=sys.stderr)


def picture(generator: refiner.Generator, case: Case) -> NDArray[np.uint8]:
    """(1, H, W) for TensorBoard: a coarse sample (left) and what became of it, every modality, in
    the axial slice with most tumour."""
    k = int((case.labels > 0).sum((0, 1)).argmax())
    images = case.images.astype(np.float32)
    both = np.stack([images, images + refiner.change(generator, images, case.labels)])[..., k]
    rows = np.concatenate([np.concatenate(list(part), 1) for part in both], 0).T[::-1]
    low, high = np.percentile(rows, (1, 99))
    return (255 * np.clip((rows - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8)[None]


def main(argv: list[str] | None = None) -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(
        prog="tumorfab train_refiner",
        description=__doc__.splitlines()[0],
        fromfile_prefix_chars="@",  # @FILE: one argument a line
    )
    parser.add_argument(
        "--results", type=Path, required=True, help="folder with sub-*/anat of the real cases"
    )
    parser.add_argument("--donor", nargs="+", required=True, help="training cases")
    parser.add_argument("--bank", type=Path, required=True, help="folder of their ROI bank")
    parser.add_argument(
        "--samples",
        type=Path,
        nargs="+",
        required=True,
        help="sidecars (.json) of the coarse samples",
    )
    parser.add_argument("--label", required=True, help="label of the analysis space")
    parser.add_argument("--modality", nargs="+", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--params", type=json.loads, required=True, help="config section `refiner`, JSON"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for refiner.pt, critic.pt and training.csv",
    )
    args = parser.parse_args(argv)

    cache = args.out / "cache"
    real, spacing = read_real(args, cache)
    coarse = read_coarse(args, cache)
    # With a handful of samples the last one is learned from, too.
    held_out = coarse[HELD_OUT - 1 :: HELD_OUT] or coarse[-1:]
    learned = [case for case in coarse if case not in held_out] or coarse
    digests = [[case.digest() for case in cases] for cases in (real, learned, held_out)]
    run = checkpoint.fingerprint(args.params, args.seed, args.modality, digests)
    goal = Goal([near(case, spacing) for case in held_out], [], args.modality, spacing)
    goal = replace(goal, real=[goal.measured(near(case, spacing), None) for case in real])
    state_path = args.out / "checkpoint.pt"
    with gpu.device(args.threads) as device, SummaryWriter(str(args.out / "tensorboard")) as writer:
        players, history = train(
            real, learned, goal, args.params, args.seed, device, state_path, writer, run
        )
    checkpoint.write_history(args.out / "training.csv", history, LOSSES)
    about = {"channels": args.params["channels"], "spacing": spacing.tolist()}
    parts = {name: weights(getattr(players, name)) for name in ("best", "encoder", "discriminator")}
    best = parts.pop("best")
    checkpoint.save_model(args.out / "refiner.pt", "refiner", args.modality, **about, weights=best)
    checkpoint.save_model(args.out / "critic.pt", "critic", args.modality, **about, **parts)
    state_path.unlink(missing_ok=True)
    shutil.rmtree(cache)


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A network's weights, on the CPU."""
    return {name: value.cpu() for name, value in module.state_dict().items()}


if __name__ == "__main__":
    stage.run(main)
