"""Public data sets by name: fetch them once into a cache, in a layout that `sources.py` reads.

- IXI becomes a BIDS folder: `IXI012-HH-1211-T1.nii.gz` is
  `sub-IXI012HH1211/anat/sub-IXI012HH1211_T1w.nii.gz`.
- Task 1 of the Medical Segmentation Decathlon becomes a folder of cases with BraTS 2023 names: its
  4D images are cut into one file per modality, its labels brought to 1 NCR, 2 ED, 3 ET.

An archive is done when `<archive>.json` stands beside the subjects; then nothing is asked of the
network. No name inside an archive ever becomes a path.
"""

import argparse
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from tumorfab.config import validated
from tumorfab.download import obtain
from tumorfab.public import DATASETS, Archive, cached
from tumorfab.sources import BRATS_2023
from tumorfab.stage import TEMPORARY, InputError, atomic, progress, read_json, run, write_json

_IXI_FILE = re.compile(r"(IXI[0-9]+-[A-Za-z]+-[0-9]+)-T[12]\.nii\.gz")
# What the Decathlon's dataset.json calls them (lower case) and what they are here.
_MSD_MODALITY = {"flair": "FLAIR", "t1w": "T1w", "t1gd": "T1c", "t2w": "T2w"}
_MSD_LABEL = {"background": 0, "non-enhancing tumor": 1, "edema": 2, "enhancing tumour": 3}


def fetch_cohorts(config: dict[str, Any]) -> None:
    """Have every data set that a study names in its cache. Raises `InputError` as `fetch` does."""
    for cohort in ("healthy", "annotated"):
        if config[cohort]["source"] in DATASETS:
            fetch(config[cohort]["source"], config["cache"], config["modalities"])


def fetch(name: str, cache: str, modalities: list[str]) -> None:
    """Have `modalities` of a data set in the cache; what is there is not fetched again.

    Raises `InputError` when a file cannot be fetched, read or written. Calling again goes on.
    """
    root = cached(cache, name)
    needed = DATASETS[name].needed(modalities)
    try:
        if not all(_record(root, archive).exists() for archive in needed):
            with _alone(root, name):
                for archive in needed:
                    if not _record(root, archive).exists():
                        _add(name, archive, root)
    except OSError as error:
        what = error.strerror or error
        raise InputError(
            f"{error.filename or root}: {what}; make room or set cache to another folder, and run "
            "again"
        ) from None
    if DATASETS[name].layout == "bids":
        _tell_complete(name, root, modalities)


def _record(root: Path, archive: Archive) -> Path:
    return root / f"{archive.name}.json"


@contextmanager
def _alone(root: Path, name: str) -> Iterator[None]:
    """Hold a data set's folder; what a killed run left half-written is removed."""
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _say(f"{name}: another run is fetching into {root}; waiting for it")
        lock.acquire()
    try:
        for leftover in root.rglob(f"{TEMPORARY}*"):
            leftover.unlink()
        yield
    finally:
        lock.release()


def _add(name: str, archive: Archive, root: Path) -> None:
    licence, terms = DATASETS[name].licence, DATASETS[name].terms
    _say(f"{name}: fetching {archive.url} into {root} ({licence}, see {terms})")
    path = root / archive.name
    obtain(archive.url, path, archive.md5)
    try:
        with tarfile.open(path) as tar:
            if DATASETS[name].layout == "bids":
                _unpack_ixi(tar, root, archive)
            else:
                _unpack_msd(tar, root)
    except (tarfile.TarError, EOFError) as error:
        raise InputError(
            f"{path}: not a readable tar archive ({error}); delete it and run again"
        ) from None
    source = {"url": archive.url, "md5": archive.md5, "licence": licence, "terms": terms}
    write_json(_record(root, archive), source)
    path.unlink()


def _tell_complete(name: str, root: Path, modalities: list[str]) -> None:
    """Not every volunteer has every modality; `sources.py` leaves those out."""
    have = [{path.parts[-3] for path in root.glob(f"sub-*/anat/*_{m}.nii.gz")} for m in modalities]
    complete, some = set.intersection(*have), set.union(*have)
    lacking = len(some) - len(complete)
    left_out = f"; {lacking} left out that lack one of {', '.join(modalities)}" if lacking else ""
    _say(f"{name}: {len(complete)} subjects in {root}{left_out}")


def _unpack_ixi(tar: tarfile.TarFile, root: Path, archive: Archive) -> None:
    (modality,) = archive.modalities
    for member in progress(tar.getmembers(), f"unpacking {archive.name}"):
        match = _IXI_FILE.fullmatch(PurePosixPath(member.name).name)
        if match and member.isfile():
            label = f"sub-{match[1].replace('-', '')}"
            path = root / label / "anat" / f"{label}_{modality}.nii.gz"
            if not path.exists():  # else an earlier run was interrupted after it
                _extract(tar, member, path)


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    source = tar.extractfile(member)
    assert source is not None  # so for a member that is no file
    with atomic(path) as temporary, temporary.open("wb") as target:
        shutil.copyfileobj(source, target)


def _unpack_msd(tar: tarfile.TarFile, root: Path) -> None:
    """Cases with labels; the archive's test cases have none."""
    files = {}
    for member in tar.getmembers():
        path = PurePosixPath(member.name)
        if member.isfile() and not path.name.startswith("."):  # macOS adds `._` files
            files[f"{path.parent.name}/{path.name}"] = member
    names = [PurePosixPath(n).name for n in sorted(files) if n.startswith("labelsTr/")]
    with tempfile.TemporaryDirectory() as scratch:
        about, image, seg = (Path(scratch, n) for n in ("dataset.json", "i.nii.gz", "s.nii.gz"))
        for described in (member for n, member in files.items() if n.endswith("/dataset.json")):
            _extract(tar, described, about)
        modalities, labels = read_description(about)
        for name in progress(names, "unpacking cases"):
            case = name.removesuffix(".nii.gz")
            if (root / case / f"{case}-seg.nii.gz").exists():  # which is written last
                continue
            _extract(tar, files[f"imagesTr/{name}"], image)
            _extract(tar, files[f"labelsTr/{name}"], seg)
            split_case(image, seg, modalities, labels, root / case / case)


def read_description(path: Path) -> tuple[list[str], dict[int, int]]:
    """The modality of each channel, and our value for each label, from a Decathlon dataset.json.

    Raises `InputError` when the file is missing or has a name that is not known here.
    """
    about = read_json(path)
    try:
        channels = sorted(about["modality"].items(), key=lambda item: int(item[0]))
        modalities = [_MSD_MODALITY[name.lower()] for _, name in channels]
        labels = {int(value): _MSD_LABEL[name.lower()] for value, name in about["labels"].items()}
    except KeyError as error:
        raise InputError(
            f"{path.name}: {error} is not known; the archive is not that of Task 1"
        ) from None
    return modalities, labels


def split_case(
    image: Path, seg: Path, modalities: list[str], labels: dict[int, int], stem: Path
) -> None:
    """Write a case as `<stem>-t1n.nii.gz` and so on, and last `<stem>-seg.nii.gz`.

    `image` is 4D with one channel for each of `modalities`; `labels` maps values of `seg` to ours.
    Raises `InputError` when a file does not fit that.
    """
    from tumorfab import volume  # slow to import, and the workflow needs none

    endings = {modality: ending for ending, modality in BRATS_2023.items()}
    channels = volume.load_channels(image)
    if len(channels) != len(modalities):
        raise InputError(f"{stem.name}: has {len(channels)} channels, not {len(modalities)}")
    annotation = volume.load_labels(seg)
    try:
        mapped = relabelled(annotation.data, labels)
    except KeyError as error:
        raise InputError(f"{stem.name}: has label {error}, which dataset.json does not") from None
    for modality, channel in zip(modalities, channels, strict=True):
        volume.save(f"{stem}-{endings[modality]}.nii.gz", channel.data, channel.affine)
    volume.save(f"{stem}-seg.nii.gz", mapped, annotation.affine)


def relabelled(data: NDArray[np.uint8], labels: dict[int, int]) -> NDArray[np.uint8]:
    """A label map with each value replaced as `labels` says. Raises `KeyError` on any other."""
    table = np.zeros(256, np.uint8)
    for value in np.unique(data).tolist():
        table[value] = labels[value]
    return table[data]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _read_config(path: str) -> dict[str, Any]:
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable YAML file ({reason})") from None
    if not isinstance(config, dict):
        raise InputError(f"{path}: holds no keys; see docs/configuration.md")
    return validated(config)


def main(argv: list[str] | None = None) -> None:
    """Command line: a study's configuration in, a filled cache out."""
    parser = argparse.ArgumentParser(
        prog="tumorfab.fetch", description="Fetch the public data sets that a study names."
    )
    parser.add_argument("--configfile", required=True, help="the study, as for snakemake")
    args = parser.parse_args(argv)
    config = _read_config(args.configfile)
    if not {config["healthy"]["source"], config["annotated"]["source"]} & set(DATASETS):
        raise InputError(
            f"{args.configfile}: neither healthy.source nor annotated.source is one of "
            f"{', '.join(DATASETS)}; nothing to fetch"
        )
    fetch_cohorts(config)


if __name__ == "__main__":
    run(main)
