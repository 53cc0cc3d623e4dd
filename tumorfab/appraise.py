"""What the quality gate judges samples by: every score of every sample of a shard.

Two scores are learned, from the real training cases: how far a segmentation network sees the tumour
that the label says, and how real the discriminator finds it. The others are measured: intensities
and boundaries (`judge`), and the training tumour that it is most like (`likeness`). `gate` decides.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from tumorfab import bank, checkpoint, gpu, judge, likeness, metrics, refiner, roi, samples, stage
from tumorfab.contrast import Reference, as_donated, tissue_relative
from tumorfab.gate import SCORES, write
from tumorfab.likeness import Core, Match
from tumorfab.networks import settled
from tumorfab.volume import Grid, Image, Labels, load_grid, load_on


@dataclass(frozen=True, eq=False)
class Critic:
    """The networks of the refiner's training that have an opinion on tumours."""

    encoder: torch.nn.Module
    discriminator: refiner.Discriminator
    reach: int

    @torch.no_grad()
    def scores(self, images: NDArray[np.float32], labels: Labels) -> dict[str, float]:
        """`agreement`: Dice of the whole tumour that the encoder sees and the labelled one;
        `realism`: mean logit of the discriminator near the tumour. `images` (M, I, J, K)
        tissue-relative, `labels` (I, J, K)."""
        padded = [(0, -n % 4) for n in labels.shape]  # three levels halve twice
        device = next(self.encoder.parameters()).device
        x = torch.from_numpy(np.pad(images, [(0, 0), *padded]))[None].to(device)
        y = torch.from_numpy(np.pad(labels, padded).astype(np.int64))[None].to(device)
        seen, wanted = (self.encoder(x).argmax(1) > 0).cpu().numpy(), (y > 0).cpu().numpy()
        verdict = self.discriminator(x)[0]
        return {
            "agreement": metrics.dice(seen, wanted),
            "realism": refiner.weighted_mean(verdict, refiner.support(x, y, self.reach)).item(),
        }


def load_critic(
    path: Path, modalities: list[str], spacing: NDArray[np.float64], device: torch.device
) -> Critic:
    """The critic of a trained refiner. Raises `InputError` when it is foreign, or of other
    modalities or `spacing` (mm)."""
    content = checkpoint.load_model(path, "critic", modalities, spacing)
    encoder = refiner.encoder(len(modalities), content["channels"])
    discriminator = refiner.Discriminator(len(modalities), content["channels"])
    encoder.load_state_dict(content["encoder"])
    discriminator.load_state_dict(content["discriminator"])
    # Spectral norm estimates anew at every step of a training, and must not while it judges.
    networks = settled(encoder, device).eval(), discriminator.to(device).eval()
    return Critic(*networks, judge.reach(spacing))


def most_alike(
    images: dict[str, Image], labels: Labels, known: dict[str, Core], grid: Grid
) -> Match | None:
    """The match of the tumour in a sample that is most like a known one; `images` by modality,
    tissue-relative."""
    as_they_are = dict.fromkeys(images, Reference(0.0, 1.0))
    found = roi.extract("", images, labels, as_they_are, dict.fromkeys(images, 1.0), grid)
    left_right = int(np.abs(grid.affine[0, :3]).argmax())
    matches = [
        likeness.nearest(likeness.core(tumour, list(images)), known, left_right)
        for tumour, _ in found
    ]
    there = [match for match in matches if match]
    return max(there, key=lambda match: match.dice * max(match.correlation, 0), default=None)


def appraised(
    sidecar: Path,
    record: dict[str, Any],
    modalities: list[str],
    critic: Critic,
    known: dict[str, Core],
) -> dict[str, Any]:
    """Every score of one sample by its column; of one without a tumour its name alone."""
    row: dict[str, Any] = {"sample": sidecar.stem}
    grid = load_grid(samples.dseg(sidecar))
    labels = load_on(samples.dseg(sidecar), grid, labels=True)
    if not labels.any():
        return row
    where = judge.window(labels, grid.spacing)
    labels = np.ascontiguousarray(labels[where])
    images = {m: load_on(samples.image(sidecar, m), grid)[where] for m in modalities}
    relative = tissue_relative(list(images.values()), [record["reference"][m] for m in modalities])
    donated = as_donated(labels, samples.contrasts(record, modalities), grid.spacing)
    relative = [image * by for image, by in zip(relative, donated, strict=True)]
    row |= critic.scores(np.stack(relative), labels)
    match = most_alike(dict(zip(modalities, relative, strict=True)), labels, known, grid)
    if match:
        row |= {"nearest": match.name, "dice": match.dice, "correlation": match.correlation}
    return row | judge.measures(relative, modalities, labels, grid.spacing)


def main(argv: list[str] | None = None) -> None:
    """Command line of the stage: one shard of samples in one process."""
    parser = argparse.ArgumentParser(
        prog="tumorfab appraise",
        description=__doc__.splitlines()[0],
        fromfile_prefix_chars="@",  # @FILE: one argument a line
    )
    parser.add_argument("--critic", type=Path, required=True, help="critic.pt")
    parser.add_argument("--bank", type=Path, required=True, help="folder of the ROI bank")
    parser.add_argument("--donor", nargs="+", required=True, help="training cases")
    parser.add_argument(
        "--samples", type=Path, nargs="+", required=True, help="sidecars (.json) of the samples"
    )
    parser.add_argument("--modality", nargs="+", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="TSV to write")
    args = parser.parse_args(argv)
    rois = bank.load(args.bank, args.donor)
    known = {name: likeness.core(rois.roi(name), args.modality) for name in rois.about}
    rows = []
    with gpu.device(args.threads) as device:
        spacing = load_grid(samples.dseg(args.samples[0])).spacing
        critic = load_critic(args.critic, args.modality, spacing, device)
        for sidecar in stage.progress(args.samples, "appraising samples"):
            record = samples.read(sidecar, args.donor)
            # A patient who keeps the tumour has it by right.
            own = record["host"] if record["host_tumour"] == "kept" else None
            others = {n: core for n, core in known.items() if rois.about[n]["donor"] != own}
            rows.append(appraised(sidecar, record, args.modality, critic, others))
    table = pd.DataFrame(rows)
    measured = sorted(set(map(str, table)) - {"sample", *SCORES})
    write(args.out, table.reindex(columns=["sample", *SCORES, *measured]))


if __name__ == "__main__":
    stage.run(main)
