"""Which planted faults does preprocessing notice? Writes a table as Markdown.

    python -m benchmarks.planted_failures --data ../shared/data/healthy_ixi_t1_2mm --subjects 8

`--data` is a BIDS folder of whole heads with `*_T1w.nii.gz` and `*_desc-brain_mask.nii.gz`.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
from scipy import ndimage

from tumorfab import config, metrics, preprocess, stage, volume
from tumorfab.volume import Volume

Fault = Callable[[Volume, np.ndarray, np.random.Generator], Volume]
GOOD_DICE = 0.93


def turned(degrees: float) -> Fault:
    """The header says that the head lies otherwise than it does."""

    def apply(scan: Volume, mask: np.ndarray, rng: np.random.Generator) -> Volume:
        angle = np.deg2rad(degrees)
        turn = np.eye(4)
        turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        return Volume(scan.data, turn @ scan.affine)

    return apply


def flipped(world_axis: int) -> Fault:
    """The data run against the header along one anatomical axis."""

    def apply(scan: Volume, mask: np.ndarray, rng: np.random.Generator) -> Volume:
        axis = int(np.abs(scan.affine[world_axis, :3]).argmax())
        return Volume(np.flip(scan.data, axis).copy(), scan.affine)

    return apply


def cropped(share: float) -> Fault:
    """The upper `share` of the brain lies outside the field of view."""

    def apply(scan: Volume, mask: np.ndarray, rng: np.random.Generator) -> Volume:
        axis = int(np.abs(scan.affine[2, :3]).argmax())
        where = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        up = scan.affine[2, axis] > 0
        cut = (
            int(where[0] + share * np.ptp(where))
            if not up
            else int(where[-1] - share * np.ptp(where))
        )
        keep = slice(cut, None) if not up else slice(0, cut)
        at = [slice(None)] * 3
        at[axis] = keep
        affine = scan.affine.copy()
        affine[:3, 3] += affine[:3, axis] * (keep.start or 0)
        return Volume(scan.data[tuple(at)], affine)

    return apply


def inverted(scan: Volume, mask: np.ndarray, rng: np.random.Generator) -> Volume:
    """Bright for dark inside the head, as if another contrast were called T1w."""
    top = float(np.percentile(scan.data[mask], 99.5))
    head = ndimage.binary_fill_holes(scan.data > 0.15 * top)
    return Volume(np.where(head, np.clip(top - scan.data, 0, top), scan.data), scan.affine)


def biased(scan: Volume, mask: np.ndarray, rng: np.random.Generator) -> Volume:
    """Twelve times brighter at one end than at the other."""
    ramp = np.linspace(-1.25, 1.25, scan.data.shape[0])[:, None, None]
    return Volume((scan.data * np.exp(ramp)).astype(np.float32), scan.affine)


def noisy(scan: Volume, mask: np.ndarray, rng: np.random.Generator) -> Volume:
    """Noise as large as the spread of the brain's intensities."""
    spread = np.subtract(*np.percentile(scan.data[mask], (75, 25))) / 1.349
    parts = rng.normal(0, spread, (2, *scan.data.shape))
    return Volume(np.hypot(scan.data + parts[0], parts[1]).astype(np.float32), scan.affine)


def empty_slices(scan: Volume, mask: np.ndarray, rng: np.random.Generator) -> Volume:
    """Three slices in the brain are lost."""
    axis = int(rng.integers(3))
    where = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
    start = int(rng.integers(where[len(where) // 4], where[3 * len(where) // 4]))
    data = scan.data.copy()
    at = [slice(None)] * 3
    at[axis] = slice(start, start + 3)
    data[tuple(at)] = 0
    return Volume(data, scan.affine)


def respaced(factors: tuple[float, float, float]) -> Fault:
    """The header's spacing is wrong by these factors along I, J, K."""

    def apply(scan: Volume, mask: np.ndarray, rng: np.random.Generator) -> Volume:
        return Volume(scan.data, scan.affine @ np.diag([*factors, 1.0]))

    return apply


def unchanged(scan: Volume, mask: np.ndarray, rng: np.random.Generator) -> Volume:
    """No fault: what is failed or flagged here is a false alarm."""
    return scan


FAULTS: dict[str, Fault] = {
    "none": unchanged,
    "header turned by 90 degrees": turned(90),
    "header turned by 180 degrees": turned(180),
    "upside down": flipped(2),
    "back to front": flipped(1),
    "left for right": flipped(0),
    "upper 15 % of the brain cropped": cropped(0.15),
    "upper 40 % of the brain cropped": cropped(0.4),
    "contrast inverted": inverted,
    "twelvefold bias": biased,
    "noise as large as the contrast": noisy,
    "three empty slices": empty_slices,
    "spacing doubled along one axis": respaced((1.0, 2.0, 1.0)),
    "spacing 1.5 times too large": respaced((1.5, 1.5, 1.5)),
    "spacing in cm for mm": respaced((0.1, 0.1, 0.1)),
}


def outcome(job: tuple[Path, str]) -> tuple[str, str, str]:
    """(fault, what became of it, why) for one scan."""
    path, fault = job
    scan = volume.load(path)
    mask_path = path.with_name(path.name.replace("_T1w", "_desc-brain_mask"))
    mask = volume.load_labels(mask_path).data > 0
    spoiled = FAULTS[fault](scan, mask, stage.rng(0, fault, path.name))
    params = config.validated({})["preprocess"]
    try:
        done = preprocess.preprocess_native({"T1w": (path, spoiled)}, "registration", params)
    except stage.InputError as error:
        return fault, "failed", str(error).partition(": ")[2]
    if done.evidence["flags"]:
        return fault, "flagged", done.evidence["flags"][0]
    if done.mask.shape != mask.shape:
        return fault, "passed", ""
    truth = FAULTS[fault](Volume(mask.astype(np.float32), scan.affine), mask, stage.rng(0))
    brain = (
        truth.data > 0.5 if fault in ("upside down", "back to front", "left for right") else mask
    )
    dice = metrics.dice(done.mask, brain)
    return fault, "passed, mask right" if dice >= GOOD_DICE else "passed", ""


def main() -> None:
    """Plant every fault in every scan and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    scans = sorted(args.data.glob("sub-*/anat/*_T1w.nii.gz"))[: args.subjects]
    with ProcessPoolExecutor(args.processes) as pool:
        results = list(
            stage.progress(
                pool.map(outcome, product(scans, FAULTS)), "faults", len(scans) * len(FAULTS)
            )
        )
    kinds = ["failed", "flagged", "passed, mask right", "passed"]
    print(f"| Fault, in {len(scans)} scans | {' | '.join(kinds)} | said most often |")
    print("|---|" + "---|" * (len(kinds) + 1))
    for fault in FAULTS:
        counts = Counter(what for name, what, _ in results if name == fault)
        reasons = Counter(
            why.partition(" is ")[0].partition(";")[0]
            for name, _, why in results
            if name == fault and why
        )
        said = reasons.most_common(1)[0][0] if reasons else ""
        print(f"| {fault} | {' | '.join(str(counts[kind]) for kind in kinds)} | {said} |")


if __name__ == "__main__":
    main()
