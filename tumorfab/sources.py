"""The places where subjects come from: BIDS folders, BraTS folders and tables. No scan is opened.

Data sets fetched by name (`fetch.py`) lie in the cache as one of the first two.

- bids: `sub-<label>/[ses-<label>/]anat/*_T1w.nii[.gz]`, likewise T2w and FLAIR; a T1w with a `ce-`
  entity is T1c; the label map is `*_dseg`. All files of a subject come from one session: the first
  in natural order among those that hold the most of what the study needs. Of several files of one
  kind the first by name is taken. The table that ingest writes records what was taken.
- brats: one folder per case; file endings of BraTS 2021 (`_t1 _t1ce _t2 _flair _seg`) or 2023
  (`-t1n -t1c -t2w -t2f -seg`).
- table: a CSV or TSV; `workflow/schemas/table.schema.yaml` describes a row.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import yaml

from tumorfab.public import DATASETS
from tumorfab.stage import InputError

TABLE_SCHEMA = Path(__file__).parent.parent / "workflow" / "schemas" / "table.schema.yaml"

_NIFTI = re.compile(r"\.nii(\.gz)?$")
_BRATS_2021 = {"t1": "T1w", "t1ce": "T1c", "t2": "T2w", "flair": "FLAIR", "seg": "seg"}
BRATS_2023 = {"t1n": "T1w", "t1c": "T1c", "t2w": "T2w", "t2f": "FLAIR"}
_BRATS = _BRATS_2021 | BRATS_2023


@dataclass
class Case:
    """One subject as found; `problems` and `empty` (no tumour labelled) are filled in by checks.

    `files` maps modality (and "seg") to a path; `where` names the folder or row in messages.
    """

    cohort: str
    source_id: str
    where: str
    files: dict[str, str]
    licence: str = ""
    role: str = ""
    problems: list[str] = field(default_factory=list)
    empty: bool = False

    @property
    def subject(self) -> str:
        """The BIDS label: the source's id without what BIDS forbids in one."""
        return re.sub("[^A-Za-z0-9]", "", self.source_id)


def find(cohort: str, section: dict[str, Any], wanted: list[str]) -> list[Case]:
    """The subjects of one cohort by natural order of their id, each with the `wanted` files it has.

    `cohort` is healthy or annotated, `section` its part of the configuration, `wanted` the
    modalities and "seg". Problems of one subject (bad id, missing file) are noted in its
    `problems`. Raises `InputError` when the source as a whole cannot be used.
    """
    root = Path(section["path"])
    source = section["source"]
    layout = source
    if source == "demo":
        layout = "bids" if cohort == "healthy" else "brats"
    elif source in DATASETS:
        layout = DATASETS[source].layout
    if layout == "table":
        cases = _from_table(root, cohort, wanted)
    else:
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; set {cohort}.path")
        search = _from_bids if layout == "bids" else _from_brats
        cases = list(search(root, cohort, wanted))
    if source in DATASETS:  # where a modality is missing, it was not scanned: no fault to mend
        cases = [case for case in cases if not set(wanted) - set(case.files)]
    if not cases:
        raise InputError(f"{root}: holds no subject; set {cohort}.source and {cohort}.path")
    for case in cases:
        case.licence = case.licence or section["licence"]
        case.problems += _case_problems(case, wanted)
    return sorted(cases, key=lambda case: natural(case.subject))


def natural(text: str) -> list[tuple[int, str]]:
    """Sort key by which `run-2` comes before `run-10`."""
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"([0-9]+)", text)]


def read_table(path: Path | str) -> list[dict[str, str]]:
    """Rows of a CSV (or TSV, by its ending), all text, blanks stripped, "" where a cell is empty.

    Raises `InputError` when the file is missing or not a table.
    """
    separator = "\t" if str(path).endswith((".tsv", ".txt")) else ","
    try:
        table = pd.read_csv(
            path,
            sep=separator,
            dtype=str,
            keep_default_na=False,
            index_col=False,
            encoding="utf-8-sig",
        )
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (
        ValueError,
        OSError,
    ) as error:  # pandas' parser errors and bad encodings are ValueErrors
        reason = (str(error).splitlines() or ["unknown"])[0]
        raise InputError(f"{path}: not a readable table ({reason})") from None
    table.columns = table.columns.str.strip()
    return [
        {str(name): str(cell).strip() for name, cell in row.items()}
        for row in table.fillna("").to_dict("records")
    ]


def _case_problems(case: Case, wanted: list[str]) -> list[str]:
    problems = []
    if re.search(r"[/\\]", case.source_id):
        problems.append(
            f"{case.where}: subject id {case.source_id!r} has a path separator; rename it"
        )
    elif not case.subject:
        problems.append(
            f"{case.where}: subject id {case.source_id!r} has no letter or digit; rename it"
        )
    for kind in wanted:
        if kind not in case.files:
            remedy = "" if kind == "seg" else f" or take {kind} out of modalities"
            problems.append(f"{case.where}: has no {kind} file; add it{remedy}")
    return problems


def _from_bids(root: Path, cohort: str, wanted: list[str]) -> Iterator[Case]:
    for folder in _folders(root, "sub-"):
        sessions = [folder, *sorted(_folders(folder, "ses-"), key=lambda path: natural(path.name))]
        found = [_first_of_each(session / "anat", _bids_kind, wanted) for session in sessions]
        files = max(found, key=len)  # the first of those that have the most
        yield Case(cohort, folder.name.removeprefix("sub-"), str(folder), files)


def _from_brats(root: Path, cohort: str, wanted: list[str]) -> Iterator[Case]:
    for folder in _folders(root, ""):
        files = _first_of_each(folder, _brats_kind, wanted)
        yield Case(cohort, folder.name, str(folder), files)


def _folders(root: Path, prefix: str) -> list[Path]:
    return [
        root / entry.name
        for entry in os.scandir(root)
        if entry.name.startswith(prefix) and not entry.name.startswith(".") and entry.is_dir()
    ]


def _first_of_each(
    folder: Path, kind_of: Callable[[str], str], wanted: list[str]
) -> dict[str, str]:
    """The first file by name of each wanted kind in a folder, in the order of `wanted`."""
    names = os.listdir(folder) if folder.is_dir() else []
    images = sorted((name for name in names if _NIFTI.search(name)), key=natural)
    first: dict[str, str] = {}
    for name in images:
        first.setdefault(kind_of(_NIFTI.sub("", name)), str(folder / name))
    return {kind: first[kind] for kind in wanted if kind in first}


def _bids_kind(stem: str) -> str:
    *entities, suffix = stem.split("_")
    if suffix == "dseg":
        return "seg"
    if suffix == "T1w" and any(entity.startswith("ce-") for entity in entities):
        return "T1c"
    return suffix if suffix in ("T1w", "T2w", "FLAIR") else ""


def _brats_kind(stem: str) -> str:
    return _BRATS.get(re.split("[-_]", stem)[-1], "")


def _from_table(path: Path, cohort: str, wanted: list[str]) -> list[Case]:
    rows = read_table(path)
    _validate(path, rows, cohort, wanted)
    return [
        Case(
            cohort,
            row["subject"],
            f"{path}, row {number}",
            {kind: str(path.parent / row[kind]) for kind in wanted if row[kind]},
            row.get("licence", ""),
            row.get("role", ""),
        )
        for number, row in enumerate(rows, start=2)
    ]


def _validate(path: Path, rows: list[dict[str, str]], cohort: str, wanted: list[str]) -> None:
    schema = yaml.safe_load(TABLE_SCHEMA.read_text(encoding="utf-8"))
    schema["required"] += wanted
    if cohort == "healthy":  # a host has neither tumour nor role
        del schema["properties"]["seg"], schema["properties"]["role"]
    validator = jsonschema.Draft202012Validator(schema)
    problems: dict[str, None] = {}  # an ordered set: a column's problem shows in every row
    for number, row in enumerate(rows, start=2):
        for error in validator.iter_errors(row):
            problems[_explain(error, schema, row, number)] = None
    if problems:
        raise InputError(f"{path}: " + "; ".join(problems))


def _explain(
    error: jsonschema.ValidationError, schema: dict[str, Any], row: dict[str, str], number: int
) -> str:
    known = schema["properties"]
    if error.validator == "additionalProperties":
        unknown = [name for name in row if name not in known]
        return f"unknown column {', '.join(unknown)} (known: {', '.join(known)})"
    if error.validator == "required":
        missing = [name for name in schema["required"] if name not in row]
        return f"no column {', '.join(missing)}"
    return f"row {number}, column {error.absolute_path[0]}: {error.message}"
