"""Synthetic samples on disk: a sidecar (.json) and, beside it, the volumes that it describes."""

import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from tumorfab.files import sha256
from tumorfab.stage import InputError, read_json

# How the samples of an arm are called in file names; arms that are not here have none of their own.
KINDS = {
    "coarse": "coarse",
    "shuffled": "coarse",
    "tf": "tf",
    "tf_gated": "tf",
    "copypaste": "copypaste",
    "carvemix": "carvemix",
    "carvemix_published": "carvemixpublished",
    "pix2pix": "pix2pix",
}


def stem(host: str, space: str, arm: str, number: int) -> str:
    """How the names of all files of one sample of an arm begin."""
    return f"sub-{host}_space-{space}_desc-{KINDS[arm]}{number:03d}"


def image(sidecar: Path, modality: str) -> Path:
    """The sample's image of one modality."""
    return sidecar.with_name(f"{sidecar.stem}_{modality}.nii.gz")


def dseg(sidecar: Path) -> Path:
    """The sample's label map."""
    return sidecar.with_name(f"{sidecar.stem}_dseg.nii.gz")


def checksums(sidecar: Path, modalities: list[str]) -> dict[str, str]:
    """SHA-256 of the sample's volumes by file name: with it in the sidecar, a stage that depends on
    the sidecar depends on them."""
    files = [*(image(sidecar, m) for m in modalities), dseg(sidecar)]
    return {path.name: sha256(path) for path in files}


def refined(sidecar: Path) -> Path:
    """The sidecar of the refined sample that is made from this coarse one."""
    return sidecar.with_name(sidecar.name.replace("_desc-coarse", "_desc-tf"))


def contrasts(record: dict[str, Any], modalities: Sequence[str]) -> list[float]:
    """By what factor (`place.contrast`) the tumours of a coarse or refined sample differ from white
    matter more than their donors' do, per modality. With several tumours, on average."""
    drawn = [t.get("contrast", {}) for t in record["draw"]["tumours"]]
    return [geometric_mean([d.get(m, 1.0) for d in drawn] or [1.0]) for m in modalities]


def accepted(table: Path, sidecars: Sequence[Path]) -> list[Path]:
    """Those of the samples that the quality gate accepted, in their order; `table` is the gate's.
    Raises `InputError` for a sample that the table lacks, and where none is left."""
    with open(table, encoding="utf-8", newline="") as handle:
        verdicts = {row["sample"]: row["verdict"] for row in csv.DictReader(handle, delimiter="\t")}
    for sidecar in sidecars:
        if sidecar.stem not in verdicts:
            raise InputError(f"{table}: lacks {sidecar.stem}; delete it and run again")
    kept = [sidecar for sidecar in sidecars if verdicts[sidecar.stem] == "accept"]
    if sidecars and not kept:
        raise InputError(
            f"{table}: no sample is accepted; its column reasons says why; "
            "train the refiner longer, or raise gate.tolerance"
        )
    return kept


def read(sidecar: Path, donors: list[str]) -> dict[str, Any]:
    """The sidecar's record. Raises `InputError` when anything of it comes from another case than
    the `donors`: the training cases of the run that asks."""
    record: dict[str, Any] = read_json(sidecar)
    if foreign := sorted(set(record["donors"]) - set(donors)):
        raise InputError(
            f"{sidecar}: its donor {foreign[0]} is not a training case of this run; "
            "delete the sample and run again"
        )
    return record
