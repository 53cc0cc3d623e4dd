"""Report of a study: every score in one CSV, a table for the terminal, one self-contained page.

All three are made from the same rows; the same inputs give the same bytes.
"""

import argparse
import json
import platform
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from tumorfab import __version__, figures, stage, views
from tumorfab.ingest import read_subjects
from tumorfab.metrics import REGIONS
from tumorfab.page import render
from tumorfab.score import COLUMNS, RUN
from tumorfab.stage import InputError
from tumorfab.stats import GROUP, RESAMPLES, per_case, summarise

MOST_SAMPLES = 8
REFINER_LOSSES = ["encoder", "discriminator", "adversarial", "classes", "perceptual", "content"]
PACKAGES = [
    "numpy", "scipy", "pandas", "SimpleITK", "nibabel", "nilearn", "torch", "monai", "matplotlib",
    "snakemake",
]  # fmt: skip
CURVES = {"loss": "Training loss", "validation_dice": "Validation Dice, mean of regions"}
_RUN_NAME = re.compile(r"arm-(\w+)_k-(\d+)_n-(\d+)_fold-(\d+)_seed-(\d+)")


def read_scores(paths: Sequence[Path], arms: list[str]) -> pd.DataFrame:
    """All rows of the score files by arm as in `arms`, then k, n, fold, seed, case and region.

    Raises `InputError` for missing columns, an arm that is not in `arms`, a row that occurs twice,
    or arms that were scored on different cases.
    """
    tables = [_read_csv(path, COLUMNS) for path in paths]
    scores = pd.concat(tables, ignore_index=True)[COLUMNS].astype({"case": str})
    for path, table in zip(paths, tables, strict=True):
        if unknown := sorted(set(table["arm"]) - set(arms)):
            raise InputError(f"{path}: arm {', '.join(unknown)} is not in study.arms; delete it")
    if scores.duplicated([*RUN, "case", "region"]).any():
        raise InputError(
            f"{paths[0]}: a score occurs twice in the files given; give each file once"
        )
    tested = scores.groupby(GROUP)["case"].agg(frozenset)
    if tested.nunique() > 1:
        run = " ".join(map(str, tested.index[tested != tested.iloc[0]][0]))
        raise InputError(f"scores: {run} was scored on other cases than the rest; score all again")
    order = {name: rank for rank, name in enumerate([*arms, *REGIONS])}
    return scores.sort_values(
        [*RUN, "case", "region"], key=lambda c: c.map(order) if c.name in ("arm", "region") else c
    ).reset_index(drop=True)


def cells(row: dict[str, Any]) -> list[str]:
    """The printed columns of a summary row, after region and arm; see `HEADINGS`."""
    several = row["cases"] > 1
    difference = "" if row["difference"] is None else f"{row['difference']:+.3f}"
    if row["interval"]:
        difference += " [{:+.3f}, {:+.3f}]".format(*row["interval"])
    elif difference:
        difference += " (one case: no interval)"
    return [
        str(row["n"]) if row["n"] else "-",
        f"{row['mean']:.3f} ± {row['sd']:.3f}" if several else f"{row['mean']:.3f} (one case)",
        f"{row['zeros']} of {row['cases']}",
        str(row["cases"]),
        str(row["seeds"]),
        difference or "-",
    ]


HEADINGS = ["N", "Dice, mean ± sd", "Dice = 0", "Cases", "Seeds", "Difference to real [95 %]"]


def text_table(summary: list[dict[str, Any]], notes: list[str]) -> str:
    """The summary as plain text, one block per k."""
    lines = ["Dice on the test cases"]
    for k in sorted({row["k"] for row in summary}):
        rows = [row for row in summary if row["k"] == k]
        table = [["Region", "Arm", *HEADINGS]]
        table += [[row["region"], row["arm"], *cells(row)] for row in rows]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines += ["", f"K = {k} real training cases", ""]
        for index, line in enumerate(table):
            if index and line[0] != table[index - 1][0]:
                lines.append("-" * (sum(widths) + 2 * len(widths) - 2))
            padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
            lines.append("  ".join(padded).rstrip())
    wrapped = [line for note in notes for line in textwrap.wrap(note, 88)]
    return "\n".join([*lines, "", *wrapped]) + "\n"


def notes(scores: pd.DataFrame, config: dict[str, Any]) -> list[str]:
    """What a reader of the table must know, in one sentence each."""
    found = [
        "Mean and sd are over test cases; each case is first averaged over its seeds.",
        "Difference: mean over cases of arm minus real at the same K, with a 95 % bootstrap "
        f"interval over cases ({RESAMPLES:,} resamples); the chance of training and of the split "
        "is not in it.",
    ]
    absent = scores[scores["volume_ml"] == 0].groupby("region", sort=False)["case"].nunique()
    found += [
        f"{count} of {scores['case'].nunique()} test cases have no annotated {region}: there Dice "
        "is 1 if none is predicted and 0 otherwise."
        for region, count in absent.items()
    ]
    if config["healthy"]["source"] == "demo":
        found.append("The cohort is a PHANTOM: these figures say nothing about patients.")
    return found


def exposures(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Per arm: how many patches of real and of synthetic cases the network is trained on."""
    params = config["segment"]
    rows = []
    for arm in config["study"]["arms"]:
        made = 0 if arm == "real" else round(params["batch"] * params["synthetic_share"])
        real = params["batch"] - made
        rows.append(
            {"arm": arm, "real": params["steps"] * real, "synthetic": params["steps"] * made}
        )
    return rows


def chosen_cases(cases: pd.DataFrame) -> list[tuple[str, str]]:
    """(name, case) of the best, the median and the worst case by WT Dice, fewer if there are fewer.

    `cases` are the rows of one arm, k and n. Ties go by the case's name; of an even
    number the lower of the two middle cases is the median.
    """
    ordered = cases[cases["region"] == "WT"].sort_values(["dice", "case"])["case"].tolist()
    places = {"best": len(ordered) - 1, "median": (len(ordered) - 1) // 2, "worst": 0}
    if len(ordered) < 3:
        del places["median"]
    if len(ordered) < 2:
        return [("only", ordered[0])]
    return [(name, ordered[place]) for name, place in places.items()]


def predictions(
    scores: pd.DataFrame, runs: dict[tuple[Any, ...], Path], config: dict[str, Any]
) -> list[dict[str, str]]:
    """Best, median and worst test case of the last arm, at its largest k and n: picture, caption.

    Each arm is shown by its run with the lowest fold and seed.
    """
    arm, k = scores["arm"].iloc[-1], scores["k"].max()
    n = scores.loc[(scores["arm"] == arm) & (scores["k"] == k), "n"].max()
    shown = scores[(scores["k"] == k) & ((scores["n"] == n) | (scores["arm"] == "real"))]
    setting = f"{arm}, K = {k}" + (f", N = {n}" if n else "")
    strips = []
    for name, case in chosen_cases(per_case(shown[shown["arm"] == arm])):
        rows = shown[(shown["case"] == case) & (shown["region"] == "WT")].drop_duplicates("arm")
        files = {}
        for row in rows.to_dict("records"):
            run = runs.get(tuple(row[column] for column in RUN))
            if run is None:
                raise InputError(
                    f"--runs: lacks the folder of arm {row['arm']}, k {k}, n {row['n']}"
                )
            file = f"sub-{case}_space-{config['space']['label']}_desc-pred_dseg.nii.gz"
            files[f"{row['arm']}: WT {row['dice']:.2f}"] = run / file
        caption = f"{case}: {name} test case of {setting}."
        strips.append(
            {"picture": figures.prediction_strip(case, files, config), "caption": caption}
        )
    return strips


def _read_csv(path: Path, columns: list[str]) -> pd.DataFrame:
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


def _runs(folders: list[Path]) -> dict[tuple[Any, ...], Path]:
    found: dict[tuple[Any, ...], Path] = {}
    for folder in folders:
        match = _RUN_NAME.fullmatch(folder.name)
        if not match:
            raise InputError(f"{folder}: is not named arm-A_k-K_n-N_fold-F_seed-S")
        found[match[1], *(int(part) for part in match.groups()[1:])] = folder
    return found


def _versions() -> dict[str, str]:
    found = {"tumorfab": __version__, "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # a report can be made where the training environment is not installed
    return found


def _spread(items: list[Path], most: int) -> list[Path]:
    """At most `most` items at even steps through the list: not picked by looks."""
    if len(items) <= most:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


def page(args: argparse.Namespace, scores: pd.DataFrame, summary: list[dict[str, Any]]) -> str:
    """The HTML page."""
    config, runs = args.config, _runs(args.runs)
    subjects, skipped = read_subjects(args.subjects), read_subjects(args.skipped)
    histories = [
        (str(run[0]), _read_csv(path / "training.csv", ["step", *CURVES]))
        for run, path in runs.items()
    ]
    refiners = [
        (path.parent.parent.name, _read_csv(path, ["step", *REFINER_LOSSES]))
        for path in args.refiners
    ]
    return render(
        "report.html.j2",
        config=config,
        config_yaml=yaml.safe_dump(config, default_flow_style=None, width=80),
        subjects=subjects.to_dict("records"),
        roles=Counter(subjects["role"]),
        licences={c: sorted(set(part["licence"])) for c, part in subjects.groupby("cohort")},
        skipped=skipped.to_dict("records"),
        exposures=exposures(config),
        summary=summary,
        headings=HEADINGS,
        cells=cells,
        notes=notes(scores, config),
        cases=scores["case"].nunique(),
        seeds=scores["seed"].nunique(),
        paired=figures.paired(per_case(scores), config["study"]["arms"], list(REGIONS)),
        curves=figures.curves(histories, CURVES, 2),
        refiners=figures.curves(refiners, {c: c for c in REFINER_LOSSES}, 3) if refiners else "",
        samples=[
            figures.sample_strip(path, config)
            for path in _spread(sorted(args.samples), MOST_SAMPLES)
        ],
        predictions=predictions(scores, runs, config),
        label_names={name: value for value, name in views.LABEL_NAMES.items()},
        label_colours=views.LABEL_COLOURS,
        points=figures.CURVE_POINTS,
        versions=_versions(),
    )


def main(argv: list[str] | None = None) -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(prog="tumorfab report", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--scores", type=Path, nargs="+", required=True, help="scores.csv of every run"
    )
    parser.add_argument("--subjects", type=Path, required=True, help="subjects.tsv of ingest")
    parser.add_argument("--skipped", type=Path, required=True, help="skipped.tsv of ingest")
    parser.add_argument(
        "--config", type=json.loads, required=True, help="the validated config, JSON"
    )
    parser.add_argument(
        "--samples", type=Path, nargs="*", default=[], help="sidecars (.json) of coarse samples"
    )
    parser.add_argument(
        "--runs", type=Path, nargs="+", required=True, help="folders of the downstream runs"
    )
    parser.add_argument(
        "--refiners", type=Path, nargs="*", default=[], help="training.csv of the refiners"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for dice.csv, table.txt, index.html"
    )
    args = parser.parse_args(argv)

    scores = read_scores(args.scores, args.config["study"]["arms"])
    summary = summarise(scores, args.config["seed"])
    html = page(args, scores, summary)
    table = text_table(summary, notes(scores, args.config))
    csv = scores.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    stage.write_text(args.out / "dice.csv", csv)
    stage.write_text(args.out / "index.html", html)
    stage.write_text(args.out / "table.txt", f"{table}\n{args.out / 'index.html'}\n")


if __name__ == "__main__":
    stage.run(main)
