"""What the quality gate and the reviewer said of samples: tables with one row per sample.

Both have the columns `sample` and `verdict` (accept or reject). The reviewer's (`review`) names a
sidecar by its path below the results and has a `note`; the gate's (`gate`), one for each kind of
sample, by its stem, and has `reasons` and scores.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from tumorfab.stage import InputError
from tumorfab.volume import first_line

Key = tuple[str, str, int]  # host, kind and number of a sample
_SAMPLE = re.compile(r"sub-([A-Za-z0-9]+)_(?:space-[A-Za-z0-9]+_)?desc-(coarse|tf)(\d+)")
REASON = {"gate": "reasons", "review": "note"}


@dataclass(frozen=True)
class Verdicts:
    """Rows by sample, without the sample; `excluded` lists what is left out: sample, by, reason."""

    gate: dict[Key, dict[str, Any]] = field(default_factory=dict)
    review: dict[Key, dict[str, Any]] = field(default_factory=dict)
    excluded: list[dict[str, str]] = field(default_factory=list)

    @property
    def rejected(self) -> set[Key]:
        """The samples that either rejects."""
        rows = (*self.gate.items(), *self.review.items())
        return {key for key, row in rows if row["verdict"] == "reject"}


def key(sidecar: Path) -> Key:
    """Host, kind and number of the sample whose sidecar this is. Raises `InputError` for another
    name."""
    found = _SAMPLE.fullmatch(sidecar.name.removesuffix(".json"))
    if not found:
        raise InputError(f"{sidecar}: no name of a sample, such as sub-X_space-S_desc-tf000")
    return found[1], found[2], int(found[3])


def read(gates: list[Path], review: Path | None, hosts: list[str], folder: str) -> Verdicts:
    """The gate's tables and the reviewer's, where there are any, on the samples in `folder`. Raises
    `InputError` that names file and line."""
    gated = {s: row for path in gates for s, row in _read(path, hosts, folder).items()}
    reviewed = _read(review, hosts, folder) if review is not None else {}
    # Who looked, and when, is nobody's business.
    told: dict[Key, dict[str, Any]] = {
        sample: {"verdict": row["verdict"], "note": row.get("note", "")}
        for sample, row in reviewed.items()
    }
    return Verdicts(gated, told)


def _read(path: Path, hosts: list[str], folder: str) -> dict[Key, dict[str, Any]]:
    try:
        separator = "\t" if path.suffix == ".tsv" else ","
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable table ({first_line(error)})") from None
    if missing := [c for c in ("sample", "verdict") if c not in table.columns]:
        raise InputError(f"{path}: no column {missing[0]}; sample and verdict are needed")
    found: dict[Key, dict[str, Any]] = {}
    for line, row in enumerate(table.to_dict("records"), 2):
        cells = {str(name): str(value) for name, value in row.items()}
        name = Path(cells.pop("sample"))
        if len(name.parts) > 1 and name.parts[0] != folder:
            continue  # a sample of another set, which is not released
        try:
            sample = key(name)
        except InputError as error:
            raise InputError(f"{path}: line {line}: {error}") from None
        if sample[0] not in hosts:
            raise InputError(f"{path}: line {line}: {sample[0]} is no subject of this study")
        if cells["verdict"] not in ("accept", "reject"):
            raise InputError(
                f"{path}: line {line}: verdict is {cells['verdict']!r}, not accept or reject"
            )
        found[sample] = cells
    return found


def excluded(held: Verdicts, sidecars: list[Path]) -> list[dict[str, str]]:
    """Who rejected which of these samples, and why."""
    rows = []
    for sidecar in sidecars:
        for by, table in (("gate", held.gate), ("review", held.review)):
            row = table.get(key(sidecar), {})
            if row.get("verdict") == "reject":
                reason = row.get(REASON[by], "")
                rows.append({"sample": sidecar.stem, "by": by, "reason": reason})
    return rows
