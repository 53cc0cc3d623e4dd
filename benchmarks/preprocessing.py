"""Brain extraction, tissue maps and registration against published masks and labels.

    python -m benchmarks.preprocessing --data ../shared/data

prints a Markdown table: Dice and seconds per scan on one core. Cohorts that are not below `--data`
are left out.
"""

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from tumorfab import (
    config,
    metrics,
    mni152,
    preprocess,
    register,
    stage,
    standardise,
    tissue,
    volume,
)
from tumorfab.volume import Volume

IXI, OASIS = "healthy_ixi_t1_2mm", "healthy_oasis_t1_1mm_stripped"
TCGA = "wholehead_tcga_fg_6692"


def head(job: tuple[Path, float]) -> tuple[float, float]:
    """(Dice with the published mask, seconds) of one whole head, on voxels of `spacing` mm."""
    path, spacing = job
    params = config.validated({})["preprocess"]
    scan = volume.load(path)
    truth = volume.load_labels(path.with_name(path.name.replace("_T1w", "_desc-brain_mask")))
    known = truth.data > 0
    if spacing:
        grid = scan.grid.coarsened(spacing)
        known = volume.resample(Volume(known.astype(np.uint8), truth.affine), grid, labels=True) > 0
        scan = Volume(volume.resample(scan, grid), grid.affine)
    start = time.perf_counter()
    try:
        done = preprocess.preprocess_native({"T1w": (path, scan)}, "registration", params)
    except stage.InputError as error:
        print(error)
        return 0.0, time.perf_counter() - start
    return metrics.dice(done.mask, known), time.perf_counter() - start


def oasis(folder: Path) -> Iterator[tuple[str, dict[str, float], float]]:
    """(scan, Dice by tissue, seconds) for stripped brains with tissue labels."""
    params = config.validated({})["preprocess"]
    for path in sorted(folder.glob("*_SS.nii.gz")):
        scan = volume.load(path)
        truth = volume.load_labels(path.with_name(path.name.replace("_SS", "_tissues")))
        start = time.perf_counter()
        done = preprocess.preprocess_native({"T1w": (path, scan)}, "none", params)
        back = sitk.AffineTransform(done.transforms["T1w"].GetInverse())
        mni = mni152.template()
        priors = np.stack(
            [
                volume.resample(Volume(prior, mni.t1.affine), scan.grid, back)
                for prior in (mni.csf, mni.gm, mni.wm)
            ]
        )
        image, _ = standardise.normalise(done.images["T1w"].image.data, done.mask)
        found = tissue.posteriors(image, done.mask, np.clip(priors, 0, 1), scan.grid.spacing)
        seconds = time.perf_counter() - start
        best = np.where(done.mask, 1 + found.argmax(0), 0)
        scores = {
            name: metrics.dice(best == value, truth.data == value)
            for value, name in enumerate(tissue.CLASSES, 1)
        }
        yield path.name, scores, seconds


def tcga(folder: Path) -> dict[str, float]:
    """One patient's whole head, T1w and T1c, against a published preprocessing of the T1c."""
    atlas, known = (volume.load(folder / f"atlas_bet_t1c{end}.nii.gz") for end in ("", "_mask"))
    names = {"T1w": "t1", "T1c": "t1c"}
    paths = {m: folder / f"TCGA-FG-6692_{name}.nii.gz" for m, name in names.items()}
    images = {m: (path, volume.load(path)) for m, path in paths.items()}
    start = time.perf_counter()
    done = preprocess.preprocess_native(images, "registration", config.validated({})["preprocess"])
    seconds = time.perf_counter() - start
    corrected, mask = done.images["T1c"].image, known.data > 0
    t1c_to_t1 = register.compose(
        sitk.AffineTransform(done.transforms["T1c"].GetInverse()), done.transforms["T1w"]
    )
    share = Volume(done.mask.astype(np.float32), done.images["T1w"].image.affine)
    brain_in_t1c = volume.resample(share, corrected.grid, t1c_to_t1) > 0.5
    # The published volume lies in SRI24 by a transform that was not published: find it rigidly.
    centres = register.moments(Volume(mask, known.affine), Volume(brain_in_t1c, corrected.affine))
    rigid = sitk.AffineTransform(3)
    rigid.SetTranslation(centres.GetTranslation())
    # Slices of 5.5 mm: correlation prefers blurred poses, information at 1 mm does not.
    levels = (*register.LEVELS_MM, 1.0)
    found = register.linear(atlas, corrected, mask, rigid, register.INFORMATION, ("rigid",), levels)
    there = volume.resample(share, known.grid, register.compose(found.transform, t1c_to_t1)) > 0.5
    image = volume.resample(corrected, known.grid, found.transform)
    inside = mask & there
    return {
        "Dice with the HD-BET mask": metrics.dice(there, mask),
        "correlation with the published volume": float(
            np.corrcoef(image[inside], atlas.data[inside])[0, 1]
        ),
        "seconds": seconds,
    }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--subjects", type=int, default=4, help="scans repeated on a 1 mm grid")
    parser.add_argument("--processes", type=int, default=2, help="each on one core")
    args = parser.parse_args()
    print(
        "| Cohort | n | Dice, median | worst | seconds, median | most |\n|---|---|---|---|---|---|"
    )
    heads = sorted((args.data / IXI).glob("sub-*/anat/*_T1w.nii.gz"))
    with ProcessPoolExecutor(args.processes) as pool:
        for spacing, paths in ((0.0, heads), (1.0, heads[: args.subjects])):
            rows = list(pool.map(head, [(path, spacing) for path in paths]))
            if rows:
                scores, seconds = np.array(rows).T
                print(
                    f"| {IXI}, {spacing or 2:g} mm | {len(rows)} | {np.median(scores):.3f} "
                    f"| {scores.min():.3f} | {np.median(seconds):.1f} | {seconds.max():.1f} |",
                    flush=True,
                )
    scans = list(oasis(args.data / OASIS))
    for name in tissue.CLASSES if scans else ():
        scores = np.array([found[name] for _, found, _ in scans])
        seconds = np.array([taken for _, _, taken in scans])
        print(
            f"| {OASIS}, {name} | {len(scans)} | {np.median(scores):.3f} "
            f"| {scores.min():.3f} | {np.median(seconds):.1f} | {seconds.max():.1f} |"
        )
    if (args.data / TCGA).is_dir():
        print()
        for what, value in tcga(args.data / TCGA).items():
            print(f"{TCGA}: {what} {value:.3f}")


if __name__ == "__main__":
    main()
