"""Downstream segmentation: train one network on one arm's cases, then segment the test cases.

Every arm takes the same steps, batch size and augmentation; they differ in the cases they draw.
The annotations of test cases are not read here at all; those of validation cases choose the
checkpoint and nothing else.
"""

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from tumorfab import bank, checkpoint, gpu, metrics, patches, samples, stage
from tumorfab.networks import Folded, settled
from tumorfab.patches import Case
from tumorfab.volume import Image, Labels, box, load_grid, load_on, save

LEVELS = 4
SAVE_EVERY = 100
RARE_LOGIT = -3.0
TUMOUR_SHARE = 0.7  # of the patches are centred on a tumour; the others show healthy brain


def new_network(modalities: int, channels: int) -> Folded:
    """Images to logits of WT, TC and ET."""
    return Folded(modalities, len(metrics.REGIONS), channels, LEVELS)


def standardised(image: Image) -> Image:
    """Zero mean and unit deviation over the brain (non-zero voxels); the background stays 0.

    The same for real, synthetic and test images, and from the image alone, so that a synthetic
    tumour shifts its brain's statistics as a real one does.
    """
    brain = image != 0
    values = image[brain]
    return np.where(brain, (image - values.mean()) / max(float(values.std()), 1e-6), 0).astype(
        np.float32
    )


def read_case(images: list[Path], dseg: Path) -> Case:
    """A training case, cropped to the brain."""
    grid = load_grid(dseg)
    volumes = [standardised(load_on(path, grid)) for path in images]
    brain = np.any([v != 0 for v in volumes], axis=0)
    return Case.cropped(dseg.name, volumes, load_on(dseg, grid, labels=True), box(brain))


def regions(labels: torch.Tensor) -> torch.Tensor:
    """(B, I, J, K) labels to (B, 3, I, J, K) nested regions WT, TC, ET."""
    return torch.stack(
        [torch.isin(labels, labels.new_tensor(v)) for v in metrics.REGIONS.values()], 1
    ).float()


def to_labels(logits: NDArray[np.float32]) -> Labels:
    """(3, I, J, K) region logits to a label map; inner regions count only inside outer ones."""
    wt, tc, et = logits > 0
    tc &= wt
    et &= tc
    return np.where(et, 3, np.where(tc, 1, np.where(wt, 2, 0))).astype(np.uint8)


@torch.no_grad()
def predict(network: torch.nn.Module, images: NDArray, patch: int, mirror: bool = False) -> Labels:
    """Segment (M, I, J, K) standardised images by overlapping, Gaussian-weighted windows; with
    `mirror` the mean over all eight mirrorings."""
    network.eval()
    x = torch.from_numpy(images.astype(np.float32))[None].to(next(network.parameters()).device)
    logits = torch.zeros(())
    for flips in product((False, True), repeat=3) if mirror else [(False,) * 3]:
        axes = [axis for axis, flip in zip((2, 3, 4), flips, strict=True) if flip]
        found = sliding_window_inference(
            x.flip(axes), (patch,) * 3, 4, network, overlap=0.5, mode="gaussian"
        )
        assert isinstance(found, torch.Tensor)
        logits = logits.to(found) + found.flip(axes)
    network.train()
    return to_labels(logits[0].float().cpu().numpy())


def synthetic_share(params: dict[str, Any], step: int) -> float:
    """Share of a step's batch that is synthetic. Both schedules show as many synthetic patches."""
    share: float = params["synthetic_share"]
    if params["schedule"] == "joint":
        return share
    return 1.0 if step < round(share * params["steps"]) else 0.0


def draw_batch(
    real: list[Case], synthetic: list[Case], params: dict[str, Any], rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch whose share of synthetic patches is `synthetic_share`, when there are any."""
    made = round(params["batch"] * params["synthetic_share"]) if synthetic else 0
    pools = [synthetic] * made + [real] * (params["batch"] - made)
    drawn = [
        patches.patch(
            pool[rng.integers(len(pool))], params["patch"], rng, rng.random() < TUMOUR_SHARE
        )
        for pool in pools
    ]
    images, labels = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
    return images, labels.long()


def train(
    real: list[Case],
    synthetic: list[Case],
    validation: list[Case],
    params: dict[str, Any],
    seed: tuple[int, int],
    device: torch.device,
    state_path: Path,
    writer: SummaryWriter,
    run: str,
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Train; returns the weights of the best validation (of the last step without validation cases)
    and the history. `seed` is the study's seed and the number of the repetition. Raises
    `InputError` when the training diverges."""
    torch.manual_seed(int(stage.rng(seed[0], "segment", seed[1], "weights").integers(2**31)))
    network = settled(new_network(len(real[0].images), params["channels"]), device)
    # Tumour is rare: starting from that prior, not from even odds, saves hundreds of steps (Lin
    # et al. 2017, section 4.1); on the tests' toy cohort Dice after 60 of them is 0.83, not 0.44.
    torch.nn.init.constant_(network.network.conv_final[2].conv.bias, RARE_LOGIT)
    optimiser = torch.optim.AdamW(network.parameters(), params["learning_rate"], weight_decay=1e-4)
    loss_function = DiceCELoss(sigmoid=True, batch=True)
    history: list[dict[str, float]] = []
    best, best_weights, start = -1.0, network.state_dict(), 0
    if saved := checkpoint.resume(state_path, run):
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        start, history = saved["step"], saved["history"]
        best, best_weights = saved["best"], saved["best_weights"]

    steps = params["steps"]
    for step in stage.progress(range(start, steps), "segmentation training", steps - start):
        rng = stage.rng(seed[0], "segment", seed[1], "step", step)
        for group in optimiser.param_groups:
            group["lr"] = params["learning_rate"] * (1 - step / steps) ** 0.9
        mixed = params | {"synthetic_share": synthetic_share(params, step)}
        images, labels = draw_batch(real, synthetic, mixed, rng)
        x, y = patches.augment(images.to(device), labels.to(device), rng, intensity=0.1)
        loss = loss_function(network(x), regions(y))
        if not torch.isfinite(loss):
            raise stage.InputError(
                f"segmentation training diverged at step {step}; lower segment.learning_rate"
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        row: dict[str, float] = {"step": step, "loss": loss.item()}
        last = step + 1 == steps
        if validation and ((step + 1) % params["validate_every"] == 0 or last):
            row["validation_dice"] = validate(network, validation, params["patch"])
            if row["validation_dice"] > best:
                best = row["validation_dice"]
                best_weights = {k: v.clone() for k, v in network.state_dict().items()}
        history.append(row)
        for name, value in row.items():
            writer.add_scalar(f"segment/{name}", value, step)
        if (step + 1) % SAVE_EVERY == 0 and not last:
            state = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
            progress = {
                "step": step + 1,
                "history": history,
                "best": best,
                "best_weights": best_weights,
            }
            checkpoint.save(state_path, run, {**state, **progress})
    weights = best_weights if validation else network.state_dict()
    return {k: v.cpu() for k, v in weights.items()}, history


def validate(network: torch.nn.Module, cases: list[Case], patch: int) -> float:
    """Mean Dice over validation cases and regions."""
    values: list[float] = []
    for case in cases:
        predicted = predict(network, case.images, patch)
        values += metrics.region_dice(predicted, case.labels).values()
    return float(np.mean(values))


def main(argv: list[str] | None = None) -> None:
    """Command line of the stage: one arm, k, n, fold and seed."""
    parser = argparse.ArgumentParser(
        prog="tumorfab segment",
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
    parser.add_argument(
        "--shuffled", action="store_true", help="each sample has the next one's labels: a control"
    )
    parser.add_argument("--gate", type=Path, help="table of the gate: only accepted samples count")
    parser.add_argument(
        "--validation", nargs="*", default=[], help="cases that choose the checkpoint"
    )
    parser.add_argument("--test", nargs="+", required=True, help="cases to segment")
    parser.add_argument("--label", required=True, help="label of the analysis space")
    parser.add_argument("--modality", nargs="+", required=True)
    parser.add_argument("--seed", type=int, required=True, help="the study's seed")
    parser.add_argument("--repeat", type=int, default=0, help="which repetition of the training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--params", type=json.loads, required=True, help="config section `segment`, JSON"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)

    def files(subject: str) -> tuple[list[Path], Path]:
        found = bank.case_files(args.results / f"sub-{subject}" / "anat", subject, args.label)
        return [Path(str(found["image"]).format(m)) for m in args.modality], found["dseg"]

    if args.gate:
        args.samples = samples.accepted(args.gate, args.samples)
    for sidecar in args.samples:
        samples.read(sidecar, args.train)  # refuses a sample of any other donor
    real = [read_case(*files(subject)) for subject in args.train]
    validation = [read_case(*files(subject)) for subject in args.validation]
    labels = args.samples[1:] + args.samples[:1] if args.shuffled else args.samples
    synthetic = [
        read_case([samples.image(s, m) for m in args.modality], samples.dseg(other))
        for s, other in stage.progress(
            zip(args.samples, labels, strict=True), "reading synthetic samples", len(labels)
        )
    ]
    digests = [[c.digest() for c in cases] for cases in (real, synthetic, validation)]
    run = checkpoint.fingerprint(args.params, args.seed, args.repeat, args.modality, digests)
    state_path = args.out / "checkpoint.pt"
    with gpu.device(args.threads) as device, SummaryWriter(str(args.out / "tensorboard")) as writer:
        weights, history = train(
            real,
            synthetic,
            validation,
            args.params,
            (args.seed, args.repeat),
            device,
            state_path,
            writer,
            run,
        )
        network = settled(new_network(len(args.modality), args.params["channels"]), device)
        network.load_state_dict(weights)
        for subject in stage.progress(args.test, "segmenting test cases"):
            paths, _ = files(subject)
            grid = load_grid(paths[0])
            images = np.stack([standardised(load_on(path, grid)) for path in paths])
            name = f"sub-{subject}_space-{args.label}_desc-pred_dseg.nii.gz"
            found = predict(network, images, args.params["patch"], args.params["mirror"])
            save(args.out / name, found, grid.affine)
    checkpoint.write_history(args.out / "training.csv", history, ["loss", "validation_dice"])
    checkpoint.save_model(
        args.out / "model.pt",
        "segmentor",
        args.modality,
        weights=weights,
        channels=args.params["channels"],
        spacing=grid.spacing.tolist(),
    )
    state_path.unlink(missing_ok=True)


if __name__ == "__main__":
    stage.run(main)
