"""Refiner inference: coarse samples in, refined samples out, one tumour-centred window each.

Outside the refiner's support the coarse sample's voxels, hence the host's, are written back bit for
bit.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tumorfab import __version__, checkpoint, gpu, judge, refiner, samples, stage
from tumorfab.contrast import as_donated, tissue_relative
from tumorfab.files import sha256
from tumorfab.networks import settled
from tumorfab.volume import Image, Labels, lattice, load_grid, load_on, save


def load_generator(
    path: Path, modalities: list[str], spacing: NDArray[np.float64], device: torch.device
) -> refiner.Generator:
    """The trained generator. Raises `InputError` when it is foreign, or of other modalities or
    `spacing` (mm)."""
    content = checkpoint.load_model(path, "refiner", modalities, spacing)
    reach = judge.reach(spacing)
    generator = refiner.Generator(len(modalities), content["channels"], reach)
    generator.load_state_dict(content["weights"])
    return settled(generator, device).eval()


def refine(
    generator: refiner.Generator,
    images: list[Image],
    labels: Labels,
    references: list[list[float]],
    contrasts: list[float],
    spacing: NDArray[np.float64],
) -> list[Image]:
    """Refine one sample. `images` per modality (I, J, K) in image units, `references` their
    [centre, scale], `contrasts` by how much their tumours' contrast was varied
    (`samples.contrasts`); `labels` (I, J, K) of `spacing` (mm). One without a tumour has nothing to
    refine."""
    if not labels.any():
        return images
    window = judge.window(labels, spacing)
    relative = np.stack(tissue_relative([image[window] for image in images], references))
    donated = as_donated(labels[window], contrasts, spacing)
    change = refiner.change(generator, relative * donated, labels[window]) / donated
    refined = []
    for image, residual, (_, scale) in zip(images, change, references, strict=True):
        limit = 32767 * lattice(image)  # what the file holds without moving the other voxels
        result = image.copy()
        # Adding the change, which is exactly 0 outside the support, leaves the rest bit-identical.
        result[window] = np.clip(image[window] + scale * residual, -limit, limit)
        refined.append(result)
    return refined


def main(argv: list[str] | None = None) -> None:
    """Command line of the stage: one shard of samples in one process."""
    parser = argparse.ArgumentParser(
        prog="tumorfab refine",
        description=__doc__.splitlines()[0],
        fromfile_prefix_chars="@",  # @FILE: one argument a line
    )
    parser.add_argument("--refiner", type=Path, required=True, help="refiner.pt")
    parser.add_argument(
        "--samples",
        type=Path,
        nargs="+",
        required=True,
        help="sidecars (.json) of the coarse samples",
    )
    parser.add_argument("--modality", nargs="+", required=True)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    digest = sha256(args.refiner)
    with gpu.device(args.threads) as device:
        spacing = load_grid(samples.dseg(args.samples[0])).spacing
        generator = load_generator(args.refiner, args.modality, spacing, device)
        for sidecar in stage.progress(args.samples, "refining"):
            record = stage.read_json(sidecar)
            refined = samples.refined(sidecar)
            grid = load_grid(samples.dseg(sidecar))
            labels = load_on(samples.dseg(sidecar), grid, labels=True)
            images = [load_on(samples.image(sidecar, m), grid) for m in args.modality]
            references = [record["reference"][m] for m in args.modality]
            contrasts = samples.contrasts(record, args.modality)
            changed = refine(generator, images, labels, references, contrasts, grid.spacing)
            for modality, image in zip(args.modality, changed, strict=True):
                save(samples.image(refined, modality), image, grid.affine)
            save(samples.dseg(refined), labels, grid.affine)
            provenance = {
                "coarse": sidecar.stem,
                "refiner_sha256": digest,
                "volumes_sha256": samples.checksums(refined, args.modality),
                "tumorfab": __version__,
            }
            stage.write_json(refined, {**record, **provenance})


if __name__ == "__main__":
    stage.run(main)
