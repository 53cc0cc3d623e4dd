"""A release's table: one row per sample, and the names that a sample has in every view of it.

A row follows from the sample's sidecar and files alone, so that whoever has a release can make its
table again and see whether it was edited.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from tumorfab import stage
from tumorfab.sources import BRATS_2023
from tumorfab.stage import InputError

BRATS_ENDING = {modality: ending for ending, modality in BRATS_2023.items()} | {"dseg": "seg"}
# nnU-Net asks for a number below 1000 that no other dataset of the user has.
NNUNET_NUMBER = {"coarse": 501, "tf": 502}
LABELS = {"NCR": 1, "ED": 2, "ET": 3}
CSV, PARQUET = "manifest.csv", "manifest.parquet"


@dataclass(frozen=True)
class Sample:
    """A released sample: `kind` coarse or tf, the `host` as the release calls it, the `number` of
    the sample in it."""

    kind: str
    host: str
    number: int

    @property
    def id(self) -> str:
        """Its name in manifest and views."""
        return f"{self.host}_{self.kind}{self.number:03d}"

    def bids(self, space: str, what: str) -> str:
        """Its file in the BIDS view; `what` is a modality or dseg, with the extension left out."""
        suffix = "T1w" if what == "T1c" else what
        contrast = "_ce-gadolinium" if what == "T1c" else ""
        stem = f"sub-{self.host}{contrast}_space-{space}_desc-{self.kind}{self.number:03d}"
        return f"bids/sub-{self.host}/anat/{stem}_{suffix}"

    def views(self, channels: list[str]) -> dict[str, list[str]]:
        """Its other names: those in the nnU-Net and the BraTS view, by modality and dseg."""
        folder = f"nnunet/{nnunet_name(self.kind)}"
        brats = f"brats/{self.kind}/{self.id}/{self.id}"
        found = {
            modality: [
                f"{folder}/imagesTr/{self.id}_{channel:04d}.nii.gz",
                f"{brats}-{BRATS_ENDING[modality]}.nii.gz",
            ]
            for channel, modality in enumerate(channels)
        }
        labels = [f"{folder}/labelsTr/{self.id}.nii.gz", f"{brats}-{BRATS_ENDING['dseg']}.nii.gz"]
        return found | {"dseg": labels}


def nnunet_name(kind: str) -> str:
    """Folder of a kind's nnU-Net dataset."""
    return f"Dataset{NNUNET_NUMBER[kind]}_tumorfab{kind.capitalize()}"


def row(
    sample: Sample,
    record: Mapping[str, Any],
    labels: NDArray[np.uint8],
    voxel_mm3: float,
    files: Mapping[str, str],
    sums: Mapping[str, str],
) -> dict[str, Any]:
    """A sample's row. `record` is its released sidecar, `labels` (I, J, K) its label map, `files`
    modality, dseg and sidecar to path, `sums` path to SHA-256."""
    draw, licence = record["draw"], record["licence"]
    tumours = draw["tumours"]
    found: dict[str, Any] = {
        "sample": sample.id,
        "kind": sample.kind,
        "host": sample.host,
        "host_tumour": record["host_tumour"],
        "donors": ";".join(record["donors"]),
        "rois": ";".join(t["roi"] for t in tumours),
        "tumour_free": bool(draw["tumour_free"] or not tumours),
        "site_mni_mm": _json(record["site_mni_mm"]),
        **{
            f"{name.lower()}_ml": round(float((labels == value).sum() * voxel_mm3 / 1000), 6)
            for name, value in LABELS.items()
        },
        "parameters": _json(draw),
        "settings": _json(record["params"]),
        "seed": int(record["seed"]),
        "number": sample.number,
        "checks": _json(record["checks"]),
        "gate": _json(record["gate"]),
        "review": _json(record["review"]),
        "licence_host": licence["host"],
        "licence_donors": ";".join(licence["donors"][d] for d in record["donors"]),
        "tumorfab": record["tumorfab"],
        "refiner_sha256": record.get("refiner_sha256", ""),
        "inputs_sha256": _json(record["inputs_sha256"]),
    }
    for what, path in files.items():
        found[what], found[f"{what}_sha256"] = path, sums[path]
    return found


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def modalities(row: Mapping[str, Any]) -> list[str]:
    """The modalities of a release, in its order, from any row."""
    return [column for column in row if column in BRATS_2023.values()]


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write the table twice: manifest.csv for people, manifest.parquet for programs."""
    stage.write_text(folder / CSV, pd.DataFrame(rows).to_csv(index=False))
    with stage.atomic(folder / PARQUET) as temporary:
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), temporary)


def read(folder: Path) -> tuple[list[dict[str, Any]], bool]:
    """The rows, and whether both files hold the same ones. Raises `InputError` for a missing or
    broken file."""
    try:
        table = pyarrow.parquet.read_table(folder / PARQUET)
        text = (folder / CSV).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{error.filename or folder / PARQUET}: no such file") from None
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise InputError(
            f"{folder}: its manifest cannot be read ({type(error).__name__})"
        ) from None
    rows: list[dict[str, Any]] = table.to_pylist()
    expected = io.StringIO()
    pd.DataFrame(rows).to_csv(expected, index=False)
    return rows, expected.getvalue() == text
