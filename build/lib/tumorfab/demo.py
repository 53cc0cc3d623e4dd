"""The embedded phantom cohort: made-up scans with real anatomy, so that the demo needs no data.

These are phantoms, not patients: no result on them says anything about real scans. Each subject
is the MNI152 average brain under a random diffeomorphism (`phantom`), painted tissue by tissue.
Healthy subjects are whole heads with skull, scalp and neck, tilted in the scanner; annotated ones
are stripped to the brain, lie on one common grid as BraTS cases do, and carry a tumour from a
reaction-diffusion model (`growth`). Nothing here comes from `bank` or `place`: "real" tumours made
by the very code that makes the synthetic ones would make the comparison between them circular.

Arrays are (I, J, K), lengths mm. "Subject mm" are RAS mm of a head before it is laid in the
scanner.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from tumorfab import growth, volume
from tumorfab.phantom import Brain, Layer, deformed_brain, head_layers, rotation, texture
from tumorfab.stage import InputError, rng, run
from tumorfab.volume import Affine, Grid, Image, Labels, Volume

BRIGHTNESS = {
    "T1w": {
        "skin": 0.60, "fat": 1.20, "muscle": 0.50, "air": 0.00, "bone": 0.08, "marrow": 0.75,
        "eye": 0.24, "CSF": 0.26, "GM": 0.70, "WM": 1.00, "ED": 0.56, "ET": 0.80, "NCR": 0.36,
    },
    "T2w": {
        "skin": 0.45, "fat": 0.75, "muscle": 0.28, "air": 0.00, "bone": 0.05, "marrow": 0.45,
        "eye": 1.45, "CSF": 1.50, "GM": 0.74, "WM": 0.50, "ED": 1.15, "ET": 0.88, "NCR": 1.36,
    },
}  # fmt: skip
"""Mean signal by modality and tissue, in arbitrary units."""

DETAIL = {"T1w": 1.0, "T2w": -0.6}
"""How the template's T1 texture shows: what is dark in T1w tends to be bright in T2w."""

LABEL = {"NCR": 1, "ED": 2, "ET": 3}
ORIENTATIONS = ("PSR", "RAS", "LPS", "LAS")
SUBJECT = {"healthy": r"H\d{2,}", "annotated": r"TF-\d{5}"}

# Field of view (mm along R, A, S) and what it is centred on (subject mm).
HEAD_VIEW, HEAD_CENTRE = (192, 240, 240), np.array([0.0, -14.0, -16.0])
BRAIN_VIEW, BRAIN_CENTRE = (192, 224, 192), np.array([0.0, -18.0, 4.0])
SPACE_CENTRE = np.array([-96.0, 112.0, 96.0])  # of the annotated cases, RAS mm


def names(healthy: int, annotated: int) -> tuple[list[str], list[str]]:
    """Subject ids of the cohorts: H01, H02, ... and TF-00001, TF-00002, ..."""
    return (
        [f"H{i:02d}" for i in range(1, healthy + 1)],
        [f"TF-{i:05d}" for i in range(1, annotated + 1)],
    )


def seed_point(generator: Generator, brain: Brain) -> tuple[int, ...]:
    """Random voxel of cerebral tissue, away from ventricles, mid-line, stem and cerebellum."""
    x, y, z = brain.at
    fluid = ndimage.gaussian_filter(brain.mask - brain.grey - brain.white, 5 / brain.mm)
    cerebrum = (z > -18) & (np.abs(x) > 14) & ((y > -45) | (z > 2))
    fit = cerebrum & (brain.mask > 0.99) & (brain.white > 0.4) & (fluid < 0.1)
    return tuple(int(v) for v in generator.choice(np.argwhere(fit)))


def infiltration(
    generator: Generator, brain: Brain
) -> tuple[tuple[slice, ...], Image, Image, float]:
    """Grow 8 to 80 ml of visible tumour; returns its box, there the cell density and the texture of
    the medium, and the density from which it shows.

    The front's width sqrt(D / rho) is drawn relative to the tumour's radius, so that small tumours
    have a dense core too; a few foci and an uneven medium keep it from being round. Sulci and other
    CSF between infiltrated tissue get its density: the swelling closes them.
    """
    volume_ml = float(np.exp(generator.uniform(np.log(8), np.log(80))))
    radius = (3 * volume_ml * 1000 / (4 * np.pi)) ** (1 / 3)
    visible = generator.uniform(0.08, 0.14)
    rho = generator.uniform(0.012, 0.04)
    d_white = rho * (radius * generator.uniform(0.09, 0.14)) ** 2
    centre = seed_point(generator, brain)
    reach = int((2.4 * radius + 12) / brain.mm)
    box = tuple(slice(max(c - reach, 0), c + reach + 1) for c in centre)
    uneven = texture(generator, brain.grid, 7)[box]
    diffusion = growth.diffusivity(brain.grey[box], brain.white[box], d_white)
    diffusion *= np.exp(0.8 * np.clip(uneven, -1.5, 1.5))  # the largest sets the time step
    voxels = np.indices(uneven.shape)
    here = np.moveaxis(voxels, 0, -1) + [b.start for b in box]
    foci = [np.array(centre), *(centre + generator.normal(0, radius / 3 / brain.mm, (4, 3)))]
    near = np.min([((here - focus) ** 2).sum(-1) for focus in foci], axis=0)
    start = np.exp(-near * (brain.mm / 3) ** 2).astype(np.float32)
    # The front is several mm wide: 2 mm voxels hold it, finer ones only cost time.
    stride = round(2 / brain.mm)
    every = (slice(None, None, stride),) * 3
    cells = growth.grow(start[every], diffusion[every], rho, stride * brain.mm, volume_ml, visible)
    cells = ndimage.map_coordinates(cells, voxels / stride, order=1, mode="nearest")
    room = ndimage.gaussian_filter((diffusion > 0).astype(np.float32), 3 / brain.mm)
    around = ndimage.gaussian_filter(cells, 3 / brain.mm) / np.maximum(room, 0.3)
    cells = np.where(diffusion > 0, cells, np.where(brain.mask[box] > 0.5, around, 0))
    return box, cells, uneven, visible


def tumour(generator: Generator, brain: Brain, number: int) -> tuple[list[Layer], Labels]:
    """A grown tumour: its layers and its labels (1 NCR, 2 ED, 3 ET) on the brain's grid.

    Visible infiltration is oedema, its densest 35 to 60 % the core, the densest 35 to 60 % of that
    necrotic, the rest enhancing. Of ten cases in a row (by `number`) one has no necrosis and one no
    enhancement.
    """
    box, cells, uneven, visible = infiltration(generator, brain)
    tissue = brain.grey[box] + brain.white[box]
    core_share, dead_share = generator.uniform(0.35, 0.6, 2)
    rough = (cells - 0.05 * uneven)[cells >= visible]
    levels = np.quantile(rough, [1 - core_share, 1 - core_share * dead_share])
    dense, dead = (level + 0.05 * uneven for level in levels)

    def above(level: NDArray | float, width: float) -> Image:
        return np.clip((cells - level) / width + 0.5, 0, 1).astype(np.float32)

    oedema = tissue * above(visible, 0.1) * np.clip(0.5 + cells, 0, 1)
    core, necrosis = above(dense, 0.15), above(dead, 0.1)
    labels = np.where((tissue > 0.5) & (cells >= visible), LABEL["ED"], 0)
    labels[cells >= dense] = LABEL["ET"]
    labels[cells >= dead] = LABEL["NCR"]
    if number % 10 == 5:
        labels[labels == LABEL["NCR"]], necrosis = LABEL["ET"], 0 * necrosis
    if number % 10 == 0:
        labels[labels == LABEL["ET"]], necrosis = LABEL["NCR"], core
    layers: list[Layer] = []
    for kind, part in (("ED", oedema), ("ET", core), ("NCR", necrosis)):
        share = np.zeros(brain.grid.shape, np.float32)
        share[box] = part
        layers.append((kind, share))
    seg = np.zeros(brain.grid.shape, np.uint8)
    seg[box] = labels
    return layers, seg


def signal(
    generator: Generator, modality: str, brain: Brain, head: list[Layer], lesion: list[Layer]
) -> Image:
    """What a perfect scanner would see: layers painted in turn, in this subject's contrast."""
    mean = {k: v * (1 + 0.04 * generator.uniform(-1, 1)) for k, v in BRIGHTNESS[modality].items()}
    grain = texture(generator, brain.grid, 5)
    image = np.zeros(brain.grid.shape, np.float32)
    for kind, share in head:
        image += share * (mean[kind] - image)
    image += DETAIL[modality] * brain.detail
    image *= 1 + 0.03 * grain
    for kind, share in lesion:
        image += share * (mean[kind] * (1 + 0.10 * grain) - image)
    return np.maximum(image, 0)


def scan(generator: Generator, head: Volume, grid: Grid) -> Image:
    """Scan onto `grid`: point spread, receive bias of up to 15 to 30 %, Rician noise, gain."""
    field = texture(generator, grid, 80)
    field = np.exp(generator.uniform(0.15, 0.3) * field / np.abs(field).max())
    clean = volume.resample(head, grid) * field
    noise = generator.uniform(0.015, 0.035)
    real, imaginary = noise * generator.standard_normal((2, *grid.shape), np.float32)
    gain = generator.uniform(200, 1000)
    return (gain * np.hypot(clean + real, imaginary)).astype(np.float32)


def view(extent: Sequence[float], spacing: float, centre: NDArray, orientation: str) -> Grid:
    """Grid of `extent` mm (along R, A, S) about `centre` (RAS mm), its axes in `orientation`."""
    axes = nib.orientations.axcodes2ornt(tuple(orientation))
    shape = [int(np.ceil(extent[int(axis)] / spacing)) for axis, _ in axes]
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, (axis, sign) in enumerate(axes):
        affine[int(axis), column] = sign * spacing
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid((shape[0], shape[1], shape[2]), affine)


def laid(turn: Affine, pivot: NDArray, target: NDArray) -> Affine:
    """Rotate (and scale) subject mm by `turn` about `pivot`, then bring `pivot` to `target`."""
    out = turn.copy()
    out[:3, 3] = target - turn[:3, :3] @ pivot
    return out


def healthy(
    subject: str, seed: int, spacing: float, modalities: Sequence[str]
) -> dict[str, Volume]:
    """Whole-head scans by file suffix; the head moves by up to 1 mm and 1 degree between them."""
    generator = rng(seed, "demo", subject)
    brain = deformed_brain(generator, 1 if spacing < 2 else 2, size=0.93)
    head = head_layers(generator, brain)
    turn = generator.uniform(-7, 7, 3)
    table, shift = generator.uniform(-40, 40, 3), generator.uniform(-5, 5, 3)
    orientation = str(generator.choice(ORIENTATIONS))
    grid = view(HEAD_VIEW, spacing, table, orientation)
    scans = {}
    for modality in modalities:
        own = rng(seed, "demo", subject, modality)
        image = signal(own, modality, brain, head, [])
        still = modality == "T1w"
        moved = np.zeros((2, 3)) if still else own.uniform(-1, 1, (2, 3)) / np.sqrt(3)
        pose = laid(rotation(turn + moved[0]), HEAD_CENTRE, table + shift + moved[1])
        posed = Volume(image, pose @ brain.grid.affine)
        scans[f"_{modality}"] = Volume(scan(own, posed, grid), grid.affine)
    return scans


def annotated(
    subject: str, seed: int, spacing: float, modalities: Sequence[str]
) -> dict[str, Volume]:
    """Stripped scans and labels by file suffix, on the one grid that all cases share.

    That space relates to the template as SRI24 does: smaller, slightly turned, another origin.
    """
    generator = rng(seed, "demo", subject)
    brain = deformed_brain(generator, 1 if spacing < 2 else 2, size=1.0)
    head = head_layers(generator, brain)
    lesion, labels = tumour(generator, brain, int(subject[-5:]))
    grid = view(BRAIN_VIEW, spacing, SPACE_CENTRE, "LPS")
    turn = rotation((2.0, -1.5, 1.0)) @ np.diag([0.95, 0.95, 0.95, 1.0])
    affine = laid(turn, BRAIN_CENTRE, SPACE_CENTRE) @ brain.grid.affine
    mask = (
        volume.resample(Volume((brain.mask > 0.5).astype(np.uint8), affine), grid, labels=True) > 0
    )
    scans = {}
    for modality, suffix in (("T1w", "-t1n"), ("T2w", "-t2w")):
        if modality in modalities:
            own = rng(seed, "demo", subject, modality)
            image = Volume(signal(own, modality, brain, head, lesion), affine)
            scans[suffix] = Volume(np.where(mask, scan(own, image, grid), 0), grid.affine)
    seg = volume.resample(Volume(labels, affine), grid, labels=True)
    scans["-seg"] = Volume(np.where(mask, seg, 0).astype(np.uint8), grid.affine)
    return scans


def main(argv: list[str] | None = None) -> None:
    """Write the phantom scans of one subject."""
    parser = argparse.ArgumentParser(prog="tumorfab.demo", description=main.__doc__)
    parser.add_argument("--cohort", choices=sorted(SUBJECT), required=True)
    parser.add_argument("--subject", required=True, help="H01, H02, ... or TF-00001, TF-00002, ...")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--spacing", type=float, default=3.0, help="voxel edge in mm, 1 to 8")
    parser.add_argument("--modalities", nargs="+", choices=sorted(BRIGHTNESS), default=["T1w"])
    parser.add_argument("--out", type=Path, required=True, help="folder for the scans")
    args = parser.parse_args(argv)
    if not re.fullmatch(SUBJECT[args.cohort], args.subject):
        raise InputError(
            f"--subject: {args.subject!r} does not match {SUBJECT[args.cohort]}; rename it"
        )
    if not 1 <= args.spacing <= 8:
        raise InputError(f"--spacing: is {args.spacing} mm; give 1 to 8")
    if args.seed < 0:
        raise InputError(f"--seed: is {args.seed}; give 0 or more")
    make, prefix = (healthy, "sub-") if args.cohort == "healthy" else (annotated, "")
    scans = make(args.subject, args.seed, args.spacing, args.modalities)
    for suffix, made in scans.items():
        volume.save(args.out / f"{prefix}{args.subject}{suffix}.nii.gz", made.data, made.affine)


if __name__ == "__main__":
    run(main)
