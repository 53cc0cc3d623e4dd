"""Paired Pix2Pix in 3D (Isola et al., CVPR 2017): label to image, painted into healthy hosts.

A generator learns from the real training cases to turn a map of tissues and tumour classes into
the image; a discriminator sees map and image and judges patch by patch:

    min_G max_D  E[log D(x, y)] + E[log(1 - D(x, G(x)))] + l1 E[|y - G(x)|]

Then a training case's tumour, turned, scaled and warped as in `copypaste`, is laid on the map of a
host, and inside it the generator's image replaces the host's.
"""

import argparse
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks.nets import PatchDiscriminator
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.utils.tensorboard import SummaryWriter

from tumorfab import bank, checkpoint, gpu, samples, stage
from tumorfab.baselines import copypaste, pairs
from tumorfab.baselines.copypaste import Paste
from tumorfab.baselines.pairs import Case, Mixed
from tumorfab.host import Host, load_host, load_patient
from tumorfab.networks import backbone, settled
from tumorfab.patches import Case as Crop
from tumorfab.stage import InputError
from tumorfab.train_refiner import batch
from tumorfab.volume import Image, Labels, box, load_on

TISSUES = ("CSF", "GM", "WM")
CLASSES = (1, 2, 3)  # NCR, ED, ET
SAVE_EVERY = 50
MARGIN = 12  # voxels around a tumour that the generator sees
# The paper's source of variety, at the deepest level; it stays on when images are made.
DROPOUT = 0.5
LOSSES = ["discriminator", "adversarial", "l1"]


class Generator(nn.Module):
    """Map (B, 6, I, J, K) to image (B, M, I, J, K): encoder and decoder with skip connections."""

    def __init__(self, modalities: int, channels: int) -> None:
        super().__init__()
        self.network = backbone(len(TISSUES) + len(CLASSES), modalities, channels)

    def forward(self, condition: torch.Tensor) -> torch.Tensor:
        """The image; exactly 0 outside the brain."""
        deep, skips = self.network.encode(condition)
        skips.reverse()
        image = self.network.decode(functional.dropout(deep, DROPOUT, training=True), skips)
        return image * (condition != 0).any(1, keepdim=True)


def discriminator(modalities: int, channels: int) -> nn.Module:
    """A PatchGAN on map and image; its patches are 34 voxels wide."""
    return PatchDiscriminator(
        3, channels, len(TISSUES) + len(CLASSES) + modalities, num_layers_d=2, norm="INSTANCE"
    )


def condition(tissues: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Map (B, 6, I, J, K) of tissue shares (B, 3, ...) and tumour labels (B, ...): where there is a
    tumour nothing is said of the tissue, whose shares were found from the image."""
    classes = torch.stack([labels == value for value in CLASSES], 1)
    return torch.cat([tissues * (labels == 0)[:, None], classes.to(tissues)], 1)


def losses(judge: nn.Module, mapped: torch.Tensor, image: torch.Tensor, real: bool) -> torch.Tensor:
    """How far the discriminator is from calling `image` real, or else made."""
    logits = judge(torch.cat([mapped, image], 1))[-1]
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


def train(
    cases: list[Crop],
    params: dict[str, Any],
    seed: int,
    device: torch.device,
    state_path: Path,
    writer: SummaryWriter,
    run: str,
) -> tuple[Generator, list[dict[str, float]]]:
    """Train on cases whose last three channels are tissue shares; returns generator and history.
    Raises `InputError` when the training diverges."""
    modalities = len(cases[0].images) - len(TISSUES)
    torch.manual_seed(int(stage.rng(seed, "pix2pix", "weights").integers(2**31)))
    generator = settled(Generator(modalities, params["channels"]), device)
    judge = discriminator(modalities, params["channels"]).to(device)
    makers, judges = (
        torch.optim.Adam(part.parameters(), params["learning_rate"], betas=(0.5, 0.999))
        for part in (generator, judge)
    )
    stateful: dict[str, Any] = {
        "generator": generator,
        "judge": judge,
        "makers": makers,
        "judges": judges,
    }
    history: list[dict[str, float]] = []
    start, steps = 0, params["steps"]
    if saved := checkpoint.resume(state_path, run):
        for name, item in stateful.items():
            item.load_state_dict(saved[name])
        start, history = saved["step"], saved["history"]
    for step in stage.progress(range(start, steps), "Pix2Pix training", steps - start):
        rng = stage.rng(seed, "pix2pix", "step", step)
        torch.manual_seed(int(rng.integers(2**31)))  # of the dropout
        drawn, labels = batch(cases, params["batch"], params["patch"], rng, device)
        y, x = drawn[:, :modalities], condition(drawn[:, modalities:], labels)
        made = generator(x)
        against = (losses(judge, x, y, True) + losses(judge, x, made.detach(), False)) / 2
        judges.zero_grad()
        against.backward()
        judges.step()
        judge.requires_grad_(False)
        fooled, apart = losses(judge, x, made, True), functional.l1_loss(made, y)
        makers.zero_grad()
        (fooled + params["l1"] * apart).backward()
        makers.step()
        judge.requires_grad_(True)
        row = dict(zip(LOSSES, (against.item(), fooled.item(), apart.item()), strict=True))
        if not np.isfinite(list(row.values())).all():
            raise InputError(
                f"Pix2Pix training diverged at step {step}; lower pix2pix.learning_rate"
            )
        history.append({"step": step, **row})
        for name, value in row.items():
            writer.add_scalar(f"pix2pix/{name}", value, step)
        if (step + 1) % SAVE_EVERY == 0 and step + 1 < steps:
            state = {name: item.state_dict() for name, item in stateful.items()}
            checkpoint.save(state_path, run, {**state, "step": step + 1, "history": history})
    return generator, history


def apply(host: Host, donor: Case, draw: Paste, generator: Generator) -> Mixed:
    """The host with the drawn tumour as the generator paints it; deterministic. What lies outside
    the brain or on a tumour that the host has is cut; outside the tumour the host is untouched."""
    where, cast, _ = copypaste.cast(host, donor, draw)
    labels = host.labels.copy()
    labels[where] = np.where((labels[where] == 0) & host.brain[where], cast, labels[where])
    inside = labels != host.labels
    if not inside.any():
        return pairs.replaced(host, inside, host.images, labels)
    window = box(inside, MARGIN)
    tissues = np.stack([host.csf, host.brain - host.csf - host.wm, host.wm])
    painted = paint(generator, tissues[(slice(None), *window)], labels[window], draw.warp_seed)
    images = {m: image.copy() for m, image in host.images.items()}
    for image, part in zip(images.values(), painted, strict=True):
        image[window] = part
    return pairs.replaced(host, inside, images, labels)


@torch.no_grad()
def paint(
    generator: Generator, tissues: NDArray[np.float32], labels: Labels, seed: int
) -> NDArray[np.float32]:
    """The image (M, I, J, K) that the generator makes of tissue shares (3, I, J, K) and labels."""
    torch.manual_seed(seed)
    device = next(generator.parameters()).device
    size = labels.shape
    padded = [(0, -n % 4) for n in size]  # three levels halve twice
    shares = np.pad(np.clip(tissues, 0, 1), [(0, 0), *padded]).astype(np.float32)
    x = torch.from_numpy(shares)[None].to(device)
    y = torch.from_numpy(np.pad(labels, padded))[None].to(device)
    made = generator(condition(x, y))[0].cpu().numpy()
    return np.asarray(made[(slice(None), *(slice(0, n) for n in size))])


def crop(case: Case, tissues: list[Image], name: str, edge: int) -> Crop:
    """A case for training, cropped to `edge` voxels around its tumours: images, then tissues."""
    where = box(case.labels > 0, edge)
    return Crop.cropped(name, [*case.images.values(), *tissues], case.labels, where)


def main(argv: list[str] | None = None) -> None:
    """Command line of the stage: train on the training cases, make all samples of all hosts."""
    parser = pairs.parser("baselines.pix2pix", __doc__.splitlines()[0])
    parser.add_argument(
        "--host",
        nargs=2,
        action="append",
        required=True,
        metavar=("SUBJECT", "LICENCE"),
        help="a healthy subject, or one of the training cases (--patient); repeat for each",
    )
    parser.add_argument("--patient", choices=["kept", "healed"], help="of the patients' tumours")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--params", type=json.loads, required=True, help="config section `pix2pix`, JSON"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the set of samples")
    args = parser.parse_args(argv)
    cases, crops = {}, []
    for subject, _ in args.case:
        case = pairs.load_case(args.results, subject, args.label, args.modality)
        files = bank.case_files(args.results / f"sub-{subject}" / "anat", subject, args.label)
        tissues = [load_on(files[t], case.grid) for t in TISSUES]
        cases[subject] = case
        crops.append(crop(case, tissues, subject, args.params["patch"]))
    run = checkpoint.fingerprint(args.params, args.seed, args.modality, [c.digest() for c in crops])
    folder = args.out / "pix2pix"
    state_path = folder / "checkpoint.pt"
    with gpu.device(args.threads) as device:
        with SummaryWriter(str(folder / "tensorboard")) as writer:
            generator, history = train(
                crops, args.params, args.seed, device, state_path, writer, run
            )
        checkpoint.write_history(folder / "training.csv", history, LOSSES)
        weights = {k: v.cpu() for k, v in generator.state_dict().items()}
        checkpoint.save_model(
            folder / "pix2pix.pt",
            "pix2pix",
            args.modality,
            weights=weights,
            channels=args.params["channels"],
        )
        for subject, licence in args.host:
            _fill(args, cases, generator, subject, licence)
    state_path.unlink(missing_ok=True)


def _fill(
    args: argparse.Namespace,
    cases: dict[str, Case],
    generator: Generator,
    subject: str,
    licence: str,
) -> None:
    """Make and write all samples of one host."""
    patient = args.patient and subject in cases
    where = subject, args.results / f"sub-{subject}" / "anat", args.label, args.modality
    host = load_patient(*where, args.patient) if patient else load_host(*where)
    kept = "kept" if host.labels.any() else "healed"
    licences = dict(args.case)
    known = {
        "method": "pix2pix",
        "host": subject,
        "host_tumour": kept if patient else "none",
        # Whoever's tumour it is, the generator learnt from all of them.
        "donors": sorted(cases),
        "licence": {"host": licence, "donors": licences},
        "seed": args.seed,
        "pix2pix_sha256": hashlib.sha256(
            (args.out / "pix2pix" / "pix2pix.pt").read_bytes()
        ).hexdigest(),
    }
    for number in stage.progress(range(args.draws), f"pix2pix samples in sub-{subject}"):
        rng = stage.rng(args.seed, "pix2pix", subject, number)
        donor = list(cases)[rng.integers(len(cases))]
        if not host.grid.matches(cases[donor].grid):
            raise InputError(f"sub-{donor}: lies on another grid than sub-{subject}")
        draw = copypaste.sample(rng, host, cases[donor])
        mixed = apply(host, cases[donor], draw, generator)
        stem = samples.stem(subject, args.label, "pix2pix", number)
        record = {"donor": donor, "number": number, "draw": asdict(draw)}
        sidecar = args.out / f"sub-{subject}" / "anat" / f"{stem}.json"
        pairs.write(sidecar, mixed, host.grid, {**known, **record})


if __name__ == "__main__":
    stage.run(main)
