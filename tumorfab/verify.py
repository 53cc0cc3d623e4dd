"""Check a release: every checksum, header, label map and link between its parts, in parallel.

Checksums say whether a file is the one that was released. The rest is checked against itself, so
that files which were exchanged together with their checksums are found as well.
"""

import argparse
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from tumorfab import datasets, licences, manifest, privacy, stage
from tumorfab.draw import Draw
from tumorfab.files import below, sha256, threaded
from tumorfab.manifest import Sample
from tumorfab.release import SUMS
from tumorfab.stage import InputError
from tumorfab.volume import Grid, Labels, load, load_labels

# The centre of a core lies in its label's box, or as far outside (mm) as a warp can push it.
SITE_MM = 10.0
HEX = 64  # digits of a SHA-256


def listed(folder: Path) -> dict[str, str]:
    """The release's own list: path to SHA-256. Raises `InputError` where it has none."""
    path = folder / SUMS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file; name the folder of a release") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not text; get the release again") from None
    found = {}
    for number, line in enumerate(lines, 1):
        digest, blank, name = line.partition("  ")
        if not blank or len(digest) != HEX or name in found:
            raise InputError(f"{path}: line {number} is no checksum and path; get it again")
        found[name] = digest
    return found


def files_changed(folder: Path, sums: dict[str, str], threads: int) -> list[str]:
    """What is missing, extra or other than listed. Hard links are read once."""
    there = set(below(folder)) - {SUMS}
    problems = [f"{path}: missing" for path in sorted(set(sums) - there)]
    problems += [f"{path}: not part of the release" for path in sorted(there - set(sums))]
    present = sorted(there & set(sums))
    problems += [f"{p}: is a symbolic link" for p in present if (folder / p).is_symlink()]
    inodes: dict[tuple[int, int], list[str]] = defaultdict(list)
    for path in present:
        stat = (folder / path).stat()
        inodes[stat.st_dev, stat.st_ino].append(path)
    groups = list(inodes.values())
    digests = threaded(lambda paths: sha256(folder / paths[0]), groups, threads)
    for paths, digest in zip(groups, digests, strict=True):
        problems += [f"{p}: its content has changed" for p in paths if sums[p] != digest]
    return problems


def sample_problems(folder: Path, row: dict[str, Any], sums: dict[str, str]) -> list[str]:
    """What is wrong with one sample, given its row of the manifest."""
    name = str(row["sample"])
    sample = Sample(str(row["kind"]), str(row["host"]), int(row["number"]))
    modalities = manifest.modalities(row)
    paths = {what: str(row[what]) for what in (*modalities, "dseg", "sidecar")}
    if absent := [p for p in paths.values() if p not in sums or not (folder / p).is_file()]:
        return [f"{manifest.CSV}: {name}: {absent[0]} is not there"]
    try:
        record = stage.read_json(folder / paths["sidecar"])
        labels = load_labels(folder / paths["dseg"])
        problems = _label_problems(paths["dseg"], labels.data, labels.grid, record)
        for modality in modalities:
            problems += _image_problems(folder, paths[modality], labels.grid)
        problems += [f"{paths['dseg']}: header holds {place}"
                     for place in privacy.header_text(folder / paths["dseg"])]  # fmt: skip
        voxel = labels.grid.voxel_volume
        expected = manifest.row(sample, record, labels.data, voxel, paths, sums)
    except InputError as error:
        return [str(error).replace(f"{folder}{os.sep}", "")]
    except (KeyError, TypeError, ValueError) as error:
        return [f"{paths['sidecar']}: is no sidecar of a sample ({type(error).__name__}: {error})"]
    edited = [c for c in row if expected.get(c) != row[c]]
    problems += [f"{manifest.CSV}: {name}: {c} does not follow from its files" for c in edited]
    for what, others in sample.views(modalities).items():
        problems += [
            f"{other}: is not the {what} of {name}"
            for other in others
            if sums.get(other) != row[f"{what}_sha256"]
        ]
    return problems


def _image_problems(folder: Path, path: str, grid: Grid) -> list[str]:
    problems = [f"{path}: header holds {p}" for p in privacy.header_text(folder / path)]
    image = load(folder / path)
    if not image.grid.matches(grid):
        return [*problems, f"{path}: is on another grid than its label map"]
    if not np.isfinite(image.data).all():
        problems.append(f"{path}: holds NaN or infinite voxels")
    if np.count_nonzero(image.data) * grid.voxel_volume / 1000 > privacy.MOST_BRAIN_ML:
        problems.append(f"{path}: shows more than a brain; it may show a face")
    return problems


def _label_problems(path: str, labels: Labels, grid: Grid, record: dict[str, Any]) -> list[str]:
    """Whether a label map is that of its sidecar: classes, tumour or none, and where."""
    allowed = {0, *manifest.LABELS.values()}
    if foreign := sorted(set(np.unique(labels).tolist()) - allowed):
        return [f"{path}: holds label {foreign[0]}, which has no meaning"]
    draw = Draw.read(record["draw"])
    kept = record["host_tumour"] == "kept"  # the patient's own tumour is labelled too
    sites = [] if draw.tumour_free else [t.pose.site for t in draw.tumours]
    if not labels.any():
        return [f"{path}: is empty, but a tumour was placed"] if sites else []
    if not sites:
        return [] if kept else [f"{path}: holds a tumour, but none was placed"]
    voxels = np.argwhere(labels > 0)
    margin = SITE_MM / grid.spacing
    low, high = voxels.min(0) - margin, voxels.max(0) + margin
    inside = all((low <= site).all() and (site <= high).all() for site in np.array(sites))
    return [] if inside else [f"{path}: is not where its sidecar placed the tumour"]


def release_problems(folder: Path, rows: list[dict[str, Any]], sums: dict[str, str]) -> list[str]:
    """What is wrong between samples, and with what the release says of itself."""
    by_id = {row["sample"]: row for row in rows}
    problems = []
    if len(by_id) != len(rows):
        problems.append(f"{manifest.CSV}: a sample is listed twice")
    for row in rows:
        if row["kind"] != "tf":
            continue
        coarse = by_id.get(Sample("coarse", row["host"], row["number"]).id)
        if coarse and any(coarse[c] != row[c] for c in ("dseg_sha256", "parameters", "donors")):
            problems.append(f"{row['sidecar']}: is not refined from {coarse['sample']}")
    known = {row[what] for row in rows for what in (*manifest.modalities(row), "dseg", "sidecar")}
    volumes = {p for p in sums if p.endswith(".nii.gz") and p.startswith("bids/sub-")}
    problems += [f"{p}: belongs to no sample" for p in sorted(volumes - known)]
    try:
        told = stage.read_json(folder / "bids" / "dataset_description.json")["License"]
        if not told.startswith("internal"):
            whose = [
                (row["sample"], text)
                for row in rows
                for text in (row["licence_host"], *filter(None, row["licence_donors"].split(";")))
            ]
            if told != licences.combine(whose).name:
                problems.append(
                    "bids/dataset_description.json: the licence is not that of the scans"
                )
    except (InputError, KeyError, AttributeError) as error:
        problems.append(f"bids/dataset_description.json: {error}".replace(f"{folder}{os.sep}", ""))
    for kind in sorted({row["kind"] for row in rows}):
        own = [Sample(kind, r["host"], r["number"]) for r in rows if r["kind"] == kind]
        path = f"nnunet/{manifest.nnunet_name(kind)}/splits_final.json"
        folds = datasets.splits(own)
        if folds and (path not in sums or stage.read_json(folder / path) != folds):
            problems.append(f"{path}: does not split the samples by host")
    return problems


def verify(folder: Path, threads: int) -> list[str]:
    """Everything that is wrong with a release, one line each; none where it is as released."""
    sums = listed(folder)
    problems = files_changed(folder, sums, threads)
    try:
        rows, agree = manifest.read(folder)
    except InputError as error:
        return [*problems, str(error).replace(f"{folder}{os.sep}", "")]
    if not agree:
        problems.append(f"{manifest.CSV}: differs from {manifest.PARQUET}")
    try:
        for found in threaded(lambda row: sample_problems(folder, row, sums), rows, threads):
            problems += found
        problems += release_problems(folder, rows, sums)
    except InputError as error:
        problems.append(str(error).replace(f"{folder}{os.sep}", ""))
    except (KeyError, TypeError, ValueError) as error:
        problems.append(f"{manifest.PARQUET}: is no manifest of a release ({error!r})")
    return list(dict.fromkeys(problems))


def main(argv: list[str] | None = None) -> None:
    """Command line: prints every problem, and ends with status 1 where there is one."""
    parser = argparse.ArgumentParser(prog="tumorfab verify", description=__doc__.splitlines()[0])
    parser.add_argument("release", type=Path, help="folder of the release")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args(argv)
    problems = verify(args.release, args.threads)
    for problem in problems:
        print(problem)
    if problems:
        raise InputError(f"{args.release}: {len(problems)} problem(s), listed above; get it again")
    print(f"{args.release}: as released; its {SUMS} has SHA-256 {sha256(args.release / SUMS)}")


if __name__ == "__main__":
    stage.run(main)
