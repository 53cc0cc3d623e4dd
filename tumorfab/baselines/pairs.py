"""What the baselines that mix two training cases share: reading the cases, writing the samples.

A method is a pair of functions: one draws what is random, the other computes the sample from it and
is deterministic. The drawn numbers are in the sample's sidecar.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tumorfab import __version__, bank, samples, stage
from tumorfab.files import sha256
from tumorfab.stage import InputError
from tumorfab.volume import Grid, Image, Labels, lattice, load_grid, load_on, save

Mask = NDArray[np.bool_]
Draw = TypeVar("Draw", bound=Any)  # a dataclass of plain numbers
Mixed = tuple[dict[str, Image], Labels]


class Brain(Protocol):
    """What a method asks of the brain that receives a tumour, healthy or not."""

    @property
    def images(self) -> dict[str, Image]:
        """Images (I, J, K) by modality."""

    @property
    def labels(self) -> Labels:
        """Tumours that it has (I, J, K)."""

    @property
    def brain(self) -> Mask:
        """Where it is (I, J, K)."""

    @property
    def grid(self) -> Grid:
        """The grid of all of them."""


@dataclass(frozen=True, eq=False)
class Case:
    """An annotated case as `standardise` wrote it; arrays (I, J, K) on `grid`, labels 0, 1 NCR,
    2 ED, 3 ET."""

    images: dict[str, Image]
    labels: Labels
    brain: Mask
    grid: Grid


def load_case(results: Path, subject: str, label: str, modalities: list[str]) -> Case:
    """Read a standardised annotated case. Raises `InputError` for a missing or unfit file, or one
    without a tumour."""
    files = bank.case_files(results / f"sub-{subject}" / "anat", subject, label)
    grid = load_grid(files["dseg"])
    labels = load_on(files["dseg"], grid, labels=True)
    if not labels.any():
        raise InputError(
            f"{files['dseg']}: holds no tumour; leave this case out of the training split"
        )
    images = {m: load_on(str(files["image"]).format(m), grid) for m in modalities}
    return Case(images, labels, load_on(files["brain"], grid, labels=True) > 0, grid)


def replaced(host: Brain, where: Mask, images: dict[str, Image], labels: Labels) -> Mixed:
    """The host's images and labels with those given (I, J, K) in the voxels `where`. Intensities
    are kept within what the host's file holds without moving its other voxels."""
    mixed = {}
    for modality, image in host.images.items():
        limit = 32767 * lattice(image)
        mixed[modality] = np.where(where, np.clip(images[modality], -limit, limit), image)
    return mixed, np.where(where, labels, host.labels)


def write(sidecar: Path, mixed: Mixed, grid: Grid, record: dict[str, Any]) -> None:
    """Write a sample: a volume per modality, the label map, and then the sidecar."""
    images, labels = mixed
    for modality, image in images.items():
        save(samples.image(sidecar, modality), image, grid.affine)
    save(samples.dseg(sidecar), labels, grid.affine)
    sums = samples.checksums(sidecar, list(images))
    stage.write_json(sidecar, {**record, "volumes_sha256": sums, "tumorfab": __version__})


def inputs(results: Path, subject: str, label: str, modalities: list[str]) -> dict[str, str]:
    """SHA-256 of the images and the label map of a case, by file name."""
    files = bank.case_files(results / f"sub-{subject}" / "anat", subject, label)
    paths = [*(Path(str(files["image"]).format(m)) for m in modalities), files["dseg"]]
    return {path.name: sha256(path) for path in paths}


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """The options that all baselines have."""
    found = argparse.ArgumentParser(prog=f"tumorfab {name}", description=description)
    found.add_argument(
        "--case",
        nargs=2,
        action="append",
        required=True,
        metavar=("SUBJECT", "LICENCE"),
        help="a training case and its licence; repeat for each",
    )
    found.add_argument("--results", type=Path, required=True, help="folder with sub-*/anat")
    found.add_argument("--draws", type=int, required=True, help="number of samples of a host")
    found.add_argument("--label", required=True, help="label of the analysis space")
    found.add_argument("--modality", nargs="+", required=True)
    found.add_argument("--seed", type=int, required=True, help="the study's seed")
    return found


def run(
    name: str,
    stream: str,
    sample: Callable[[np.random.Generator, Case, Case], Draw],
    apply: Callable[[Case, Case, Draw], Mixed],
    args: argparse.Namespace,
) -> None:
    """Make all samples of one host: each with another training case as the donor. `name` is that
    of the arm; arms of one `stream` draw the same. Raises `InputError` where the host is not one of
    the training cases, or the only one."""
    licences = dict(args.case)
    if args.host not in licences:
        raise InputError(f"--host: {args.host} is no training case of this run; give one of --case")
    others = [subject for subject in licences if subject != args.host]
    if not others:
        raise InputError("--case: one training case has no other to mix with; give two or more")
    where = args.label, args.modality
    host = load_case(args.results, args.host, *where)
    for number in stage.progress(range(args.draws), f"{name} samples in sub-{args.host}"):
        rng = stage.rng(args.seed, stream, args.host, number)
        subject = others[rng.integers(len(others))]
        donor = load_case(args.results, subject, *where)
        if not host.grid.matches(donor.grid):
            raise InputError(f"sub-{subject}: lies on another grid than sub-{args.host}")
        draw = sample(rng, host, donor)
        used = sorted({args.host, subject})
        record = {
            "method": name,
            "host": args.host,
            "host_tumour": "kept",
            "donors": used,
            "donor": subject,
            "number": number,
            "draw": asdict(draw),
            "seed": args.seed,
            "licence": {"host": licences[args.host], "donors": {d: licences[d] for d in used}},
            "inputs_sha256": {
                k: v for s in used for k, v in inputs(args.results, s, *where).items()
            },
        }
        stem = samples.stem(args.host, args.label, name, number)
        write(args.out / f"{stem}.json", apply(host, donor, draw), host.grid, record)
