"""Training of TF-GAN: one flat loop, from the few real training cases and the coarse samples.

Only files of training cases and of samples made from them are ever opened. A killed run goes on
from its last checkpoint; every step draws its batch from a generator named after the step.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from tumorfab import bank, checkpoint, gpu, patches, refiner, samples, stage
from tumorfab.contrast import Reference
from tumorfab.networks import backbone
from tumorfab.patches import Case
from tumorfab.volume import Image, box, load_grid, load_on

SAVE_EVERY = 50
EMA = 0.99
LOSSES = ["encoder", "discriminator", "adversarial", "classes", "perceptual", "content"]


def load_case(
    images: dict[str, Path], dseg: Path, references: dict[str, list[float]], edge: int
) -> Case:
    """A case around its tumours, tissue-relative, background exactly 0."""
    grid = load_grid(dseg)
    labels = load_on(dseg, grid, labels=True)
    volumes = [load_on(path, grid) for path in images.values()]
    relative = tissue_relative(volumes, [references[m] for m in images])
    if not labels.any():
        raise stage.InputError(f"{dseg}: holds no tumour; make it again")
    return Case.cropped(dseg.name, relative, labels, box(labels > 0, edge))


def tissue_relative(images: list[Image], references: list[list[float]]) -> list[Image]:
    """Image units to tissue-relative units, per modality; the background (exactly 0 in every
    modality) stays 0."""
    brain = np.any([image != 0 for image in images], axis=0)
    return [
        np.where(brain, Reference(*pair).relative(image), 0).astype(np.float32)
        for image, pair in zip(images, references, strict=True)
    ]


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


def train(
    real: list[Case],
    coarse: list[Case],
    params: dict[str, Any],
    seed: int,
    device: torch.device,
    state_path: Path,
    writer: SummaryWriter,
    run: str,
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Train encoder, then generator against discriminator; returns the generator's averaged weights
    and the loss history. Raises `InputError` when the training diverges."""
    modalities, edge, count = len(real[0].images), params["patch"], params["batch"]
    torch.manual_seed(int(stage.rng(seed, "refiner", "weights").integers(2**31)))
    encoder = backbone(modalities, refiner.CLASSES, params["channels"]).to(device)
    generator = refiner.Generator(modalities, params["channels"]).to(device)
    average = refiner.Generator(modalities, params["channels"]).to(device)
    average.load_state_dict(generator.state_dict())
    discriminator = refiner.Discriminator(modalities, params["channels"]).to(device)
    statistics = refiner.ClassStatistics([params["channels"] * 2**i for i in range(3)]).to(device)
    modules = {"encoder": encoder, "generator": generator, "average": average,
               "discriminator": discriminator, "statistics": statistics}  # fmt: skip
    rate = params["learning_rate"]
    optimisers = {
        "encoder": torch.optim.AdamW(encoder.parameters(), 1e-3),
        "generator": torch.optim.Adam(generator.parameters(), rate, betas=(0.5, 0.9)),
        "discriminator": torch.optim.Adam(discriminator.parameters(), 2 * rate, betas=(0.5, 0.9)),
    }
    stateful = modules | {f"optimiser of {name}": item for name, item in optimisers.items()}
    history: list[dict[str, float]] = []
    start = 0
    if saved := checkpoint.resume(state_path, run):
        for name, item in stateful.items():
            item.load_state_dict(saved[name])
        start, history = saved["step"], saved["history"]

    total = params["encoder_steps"] + params["steps"]
    for step in stage.progress(range(start, total), "refiner training", total - start):
        rng = stage.rng(seed, "refiner", "step", step)
        x, labels = batch(real, count, edge, rng, device)
        if step < params["encoder_steps"]:  # phase 1: the encoder whose features will guide
            losses = _encoder_step(encoder, optimisers["encoder"], x, labels)
        else:  # phase 2: generator against discriminator
            encoder.requires_grad_(False)
            y, wanted = batch(coarse, count, edge, rng, device)
            losses = _adversarial_step(modules, optimisers, x, labels, y, wanted, params)
            done = step - params["encoder_steps"]
            # The average starts short, so that the first, worst weights do not linger in it.
            decay = min(EMA, (1 + done) / (10 + done))
            with torch.no_grad():
                for kept, new in zip(average.parameters(), generator.parameters(), strict=True):
                    kept.lerp_(new, 1 - decay)
        if not all(np.isfinite(value) for value in losses.values()):
            raise stage.InputError(
                f"refiner training diverged at step {step} ({losses}); lower refiner.learning_rate"
            )
        history.append({"step": step, **losses})
        for name, value in losses.items():
            writer.add_scalar(f"refiner/{name}", value, step)
        if (step + 1) % SAVE_EVERY == 0 and step + 1 < total:
            state = {name: item.state_dict() for name, item in stateful.items()}
            checkpoint.save(state_path, run, {**state, "step": step + 1, "history": history})
    return {k: v.cpu() for k, v in average.state_dict().items()}, history


def _encoder_step(
    encoder: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    x: torch.Tensor,
    labels: torch.Tensor,
) -> dict[str, float]:
    loss = refiner.class_loss(encoder(x), labels)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return {"encoder": loss.item()}


def _adversarial_step(
    modules: dict[str, Any],
    optimisers: Mapping[str, torch.optim.Optimizer],
    x: torch.Tensor,
    labels: torch.Tensor,
    y: torch.Tensor,
    wanted: torch.Tensor,
    params: dict[str, Any],
) -> dict[str, float]:
    """One step of each player. `x`, `labels`: real patches; `y`, `wanted`: coarse patches."""
    generator, discriminator = modules["generator"], modules["discriminator"]
    encoder, statistics = modules["encoder"], modules["statistics"]
    at_real, at_fake = refiner.support(x, labels), refiner.support(y, wanted)

    with torch.no_grad():
        refined = generator(y, wanted)
    verdict, classes = discriminator(x)
    against = refiner.hinge(verdict, None, at_real) + refiner.hinge(
        None, discriminator(refined)[0], at_fake
    )
    # The class head learns from real voxels only: what it calls a class is what reality calls it.
    judge = against + refiner.class_loss(classes, labels)
    optimisers["discriminator"].zero_grad()
    judge.backward()
    optimisers["discriminator"].step()

    statistics.update(encoder.encode(x)[1], labels)
    discriminator.requires_grad_(False)
    refined = generator(y, wanted)
    verdict, classes = discriminator(refined)
    terms = {
        "adversarial": -refiner.weighted_mean(verdict, at_fake),
        "classes": refiner.class_loss(classes, wanted),
        "perceptual": statistics.distance(encoder.encode(refined)[1], wanted),
        # Content: keep the coarse tumour's low frequencies, and leave real tumours as they are.
        "content": refiner.content(refined, y, at_fake)
        + refiner.weighted_mean((generator(x, labels) - x) ** 2, at_real),
    }
    loss = torch.stack([params[name] * term for name, term in terms.items()]).sum()
    optimisers["generator"].zero_grad()
    loss.backward()
    optimisers["generator"].step()
    discriminator.requires_grad_(True)
    return {"discriminator": against.item(), **{name: term.item() for name, term in terms.items()}}


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
        "--out", type=Path, required=True, help="folder for refiner.pt and training.csv"
    )
    args = parser.parse_args(argv)

    edge = args.params["patch"]
    real = []
    for donor in args.donor:
        files = bank.case_files(args.results / f"sub-{donor}" / "anat", donor, args.label)
        references = stage.read_json(args.bank / f"sub-{donor}_rois.json")["reference"]
        images = {m: Path(str(files["image"]).format(m)) for m in args.modality}
        real.append(load_case(images, files["dseg"], references, edge))
    coarse = []
    for sidecar in stage.progress(args.samples, "reading coarse samples"):
        record = samples.read(sidecar, args.donor)
        if record["draw"]["tumour_free"]:
            continue
        references = record["reference"]
        images = {m: samples.image(sidecar, m) for m in args.modality}
        coarse.append(load_case(images, samples.dseg(sidecar), references, edge))

    if not coarse:
        raise stage.InputError("place.tumour_free: no sample has a tumour to learn from; lower it")
    run = checkpoint.fingerprint(
        args.params, args.seed, args.modality, [c.digest() for c in real + coarse]
    )
    state_path = args.out / "checkpoint.pt"
    with gpu.device(args.threads) as device, SummaryWriter(str(args.out / "tensorboard")) as writer:
        weights, history = train(
            real, coarse, args.params, args.seed, device, state_path, writer, run
        )
    checkpoint.write_history(args.out / "training.csv", history, LOSSES)
    checkpoint.save_model(
        args.out / "refiner.pt",
        "refiner",
        args.modality,
        weights=weights,
        channels=args.params["channels"],
    )
    state_path.unlink(missing_ok=True)


if __name__ == "__main__":
    stage.run(main)
