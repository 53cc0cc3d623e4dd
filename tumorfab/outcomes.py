"""What the runs of a study left behind, read and checked: scores, histories, rejected samples."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tumorfab import gate
from tumorfab.metrics import REGIONS
from tumorfab.score import COLUMNS, RUN
from tumorfab.stage import InputError, read_json

_RUN_NAME = re.compile(r"arm-(\w+)_k-(\d+)_n-(\d+)_fold-(\d+)_seed-(\d+)")
_NUMBER = re.compile(r"desc-coarse(\d+)$")


def read_scores(paths: Sequence[Path], arms: list[str]) -> pd.DataFrame:
    """All rows of the score files by arm as in `arms`, then k, n, fold, seed, case and region.

    Raises `InputError` for missing columns, an arm that is not in `arms`, a row that occurs twice,
    or runs of one fold that were scored on different cases.
    """
    tables = [read_csv(path, COLUMNS) for path in paths]
    scores = pd.concat(tables, ignore_index=True)[COLUMNS].astype({"case": str})
    for path, table in zip(paths, tables, strict=True):
        if unknown := sorted(set(table["arm"]) - set(arms)):
            raise InputError(f"{path}: arm {', '.join(unknown)} is not in study.arms; delete it")
    if scores.duplicated([*RUN, "case", "region"]).any():
        raise InputError(
            f"{paths[0]}: a score occurs twice in the files given; give each file once"
        )
    tested = scores.groupby(RUN)["case"].agg(frozenset)
    for _, same in tested.groupby(level="fold"):
        if same.nunique() > 1:
            run = " ".join(map(str, same.index[same != same.iloc[0]][0]))
            raise InputError(
                f"scores: {run} was scored on other cases than the rest; score all again"
            )
    order = {name: rank for rank, name in enumerate([*arms, *REGIONS])}
    return scores.sort_values(
        [*RUN, "case", "region"], key=lambda c: c.map(order) if c.name in ("arm", "region") else c
    ).reset_index(drop=True)


def read_csv(path: Path, columns: list[str]) -> pd.DataFrame:
    """A CSV table that has `columns`; an empty cell is missing. Raises `InputError` otherwise."""
    try:
        table = pd.read_csv(
            path, dtype={"case": str, "arm": str}, na_values=[""], keep_default_na=False
        )
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError):
        raise InputError(f"{path}: not a CSV table; delete it and run again") from None
    if missing := [column for column in columns if column not in table]:
        raise InputError(f"{path}: lacks the columns {', '.join(missing)}; delete it and run again")
    return table


def runs(folders: Iterable[Path]) -> dict[tuple[Any, ...], Path]:
    """The folders of runs by (arm, k, n, fold, seed). Raises `InputError` for any other name."""
    found: dict[tuple[Any, ...], Path] = {}
    for folder in folders:
        match = _RUN_NAME.fullmatch(folder.name)
        if not match:
            raise InputError(f"{folder}: is not named arm-A_k-K_n-N_fold-F_seed-S")
        found[match[1], *(int(part) for part in match.groups()[1:])] = folder
    return found


def rejections(sets: Iterable[Path], draws: int) -> dict[str, Any]:
    """How many coarse `samples` lie in the folders of `sets`, the draws that were thrown away for
    them and what had to be given up, each as (reason, count), the most frequent first.

    Samples numbered `draws` or higher are of an earlier, larger study and do not count.
    """
    rejected: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    count = 0
    for folder in sets:
        for path in folder.glob("sub-*/anat/*_desc-coarse*.json"):
            number = _NUMBER.search(path.stem)
            if number is None or int(number[1]) >= draws:
                continue
            record = read_json(path)
            count += 1
            rejected.update(record.get("rejected_draws", {}))
            refused.update(record.get("refused", []))
    return {
        "samples": count,
        "rejected": sorted(rejected.items(), key=lambda item: (-item[1], item[0])),
        "refused": sorted(refused.items(), key=lambda item: (-item[1], item[0])),
    }


def gated(paths: Sequence[Path]) -> dict[str, Any]:
    """What the quality gate decided on the refined samples of all sets: how many it `accepted` and
    `rejected`, and the `reasons`, each as (reason, samples), the most frequent first."""
    if not paths:
        return {}
    counts = pd.concat([gate.summary(path) for path in paths]).groupby("what")["samples"].sum()
    accepted, rejected = counts.pop("accepted"), counts.pop("rejected")
    reasons = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    return {"accepted": int(accepted), "rejected": int(rejected), "reasons": reasons}
