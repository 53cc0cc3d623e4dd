"""Report of a study: every score in one CSV, a table for the terminal, one self-contained page.

All are made from the same rows; the same inputs give the same bytes. Reading is in `outcomes.py`,
statistics in `stats.py`, words in `tables.py`, charts in `charts.py`, pictures in `figures.py`.
"""

import argparse
import json
import platform
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from tumorfab import __version__, charts, figures, outcomes, stage, tables, usage, views
from tumorfab.ingest import read_subjects
from tumorfab.metrics import REGIONS
from tumorfab.page import render
from tumorfab.score import RUN
from tumorfab.stage import InputError
from tumorfab.stats import MEAN, SHOWN, per_case, summarise

MOST_SAMPLES = 8
REFINER_LOSSES = ["encoder", "discriminator", "adversarial", "classes", "perceptual", "content"]
PACKAGES = [
    "numpy", "scipy", "pandas", "SimpleITK", "nibabel", "nilearn", "torch", "monai",
    "surface-distance", "matplotlib", "snakemake",
]  # fmt: skip
CURVES = {"loss": "Training loss", "validation_dice": "Validation Dice, mean of regions"}


def chosen_cases(cases: pd.DataFrame) -> list[tuple[str, str]]:
    """(name, case) of the best, the median and the worst case by WT Dice, fewer if there are fewer.

    `cases` are the rows of one arm, k and n. Ties go by the case's name; of an even
    number the lower of the two middle cases is the median.
    """
    ordered = cases[cases["region"] == "WT"].sort_values(["value", "case"])["case"].tolist()
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


def results(
    scores: pd.DataFrame, dice: list[dict[str, Any]], others: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """Tables and charts of the scores, for the page."""
    arms = scores["arm"].drop_duplicates().tolist()
    return {
        "summary": dice,
        "verdicts": tables.verdicts(dice),
        "others": [
            {"k": rows[0]["k"], "region": rows[0]["region"], "arm": rows[0]["arm"],
             "n": rows[0]["n"] or "-", "cells": [tables.other_cells(row) for row in rows]}
            for rows in zip(*others.values(), strict=True)
        ],
        "cases": scores["case"].nunique(),
        "seeds": scores["seed"].nunique(),
        "folds": scores["fold"].nunique(),
        "paired": charts.paired(per_case(scores), dice, arms, list(REGIONS)),
        "differences": charts.differences(dice, MEAN),
        "sweeps": charts.sweeps(dice, MEAN),
    }  # fmt: skip


def page(
    args: argparse.Namespace,
    scores: pd.DataFrame,
    dice: list[dict[str, Any]],
    others: dict[str, list[dict[str, Any]]],
) -> str:
    """The HTML page."""
    config, runs = args.config, outcomes.runs(args.runs)
    subjects, skipped = read_subjects(args.subjects), read_subjects(args.skipped)
    histories = [
        (str(run[0]), outcomes.read_csv(path / "training.csv", ["step", *CURVES]))
        for run, path in runs.items()
    ]
    refiners = [
        (path.parent.parent.name, outcomes.read_csv(path, ["step", *REFINER_LOSSES]))
        for path in args.refiners
    ]
    return render(
        "report.html.j2",
        config=config,
        config_yaml=yaml.safe_dump(config, default_flow_style=None, width=80),
        subjects=subjects.to_dict("records"),
        roles=folds(subjects),
        licences={c: sorted(set(part["licence"])) for c, part in subjects.groupby("cohort")},
        skipped=skipped.to_dict("records"),
        exposures=tables.exposures(config),
        headings=tables.HEADINGS,
        cells=tables.cells,
        regions=SHOWN,
        other_titles=[title for title, _ in tables.OTHERS.values()],
        notes=tables.notes(scores, config),
        volumes=tables.by_volume(scores, config["seed"]),
        lesions=tables.lesions(scores),
        curves=charts.curves(histories, CURVES, 2),
        refiners=charts.curves(refiners, {c: c for c in REFINER_LOSSES}, 3) if refiners else "",
        samples=[
            figures.sample_strip(path, config)
            for path in _spread(sorted(args.samples), MOST_SAMPLES)
        ],
        rejections=outcomes.rejections(args.sets, args.draws),
        gated=outcomes.gated(args.gates),
        realism=realism(args.realism),
        predictions=predictions(scores, runs, config),
        label_names={name: value for value, name in views.LABEL_NAMES.items()},
        label_colours=views.LABEL_COLOURS,
        points=charts.CURVE_POINTS,
        used=usage.used(Path(config["results"])),
        versions=_versions(),
        **results(scores, dice, others),
    )


def folds(subjects: pd.DataFrame) -> list[Counter[str]]:
    """Per fold how many subjects have each role; hosts are in every fold."""
    roles = [role.split("/") for role in subjects["role"]]
    count = max(map(len, roles))
    return [Counter(each[fold % len(each)] for each in roles) for fold in range(count)]


def realism(path: Path | None) -> list[dict[str, Any]]:
    """Distances to real tumours by metric: `name`, `real`, `coarse`, `refined` (lower is closer).

    From the `distances` that the benchmark of refinement writes; empty without a file."""
    if path is None:
        return []
    kinds = ("real", "coarse", "refined")
    return [
        {"name": name, **{kind: value.get(kind) for kind in kinds}}
        for name, value in stage.read_json(path).get("distances", {}).items()
    ]


def main(argv: list[str] | None = None) -> None:
    """Command line of the stage."""
    args = _arguments().parse_args(argv)
    scores = outcomes.read_scores(args.scores, args.config["study"]["arms"])
    seed = args.config["seed"]
    dice = summarise(scores, seed)
    others = {metric: summarise(scores, seed, metric) for metric in tables.OTHERS}
    html = page(args, scores, dice, others)
    everything = [*dice, *(row for rows in others.values() for row in rows)]
    written = {
        "dice.csv": _csv(scores),
        "summary.csv": _csv(tables.flat(everything)),
        "index.html": html,
        "table.txt": tables.text_table(dice, tables.notes(scores, args.config))
        + f"\n{args.out / 'index.html'}\n",
    }
    for name, text in written.items():
        stage.write_text(args.out / name, text)


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tumorfab report", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--scores", type=Path, nargs="+", required=True, help="scores.csv of every run")
    add("--subjects", type=Path, required=True, help="subjects.tsv of ingest")
    add("--skipped", type=Path, required=True, help="skipped.tsv of ingest")
    add("--config", type=json.loads, required=True, help="the validated config, JSON")
    add("--samples", type=Path, nargs="*", default=[], help="sidecars of the samples to show")
    add("--sets", type=Path, nargs="*", default=[], help="folders of all samples, fold-F_k-K")
    add("--draws", type=int, default=0, help="samples that each host has in a set")
    add("--runs", type=Path, nargs="+", required=True, help="folders of the downstream runs")
    add("--refiners", type=Path, nargs="*", default=[], help="training.csv of the refiners")
    add("--gates", type=Path, nargs="*", default=[], help="the gate's table of every set")
    add("--realism", type=Path, help="JSON of the benchmark of refinement")
    add("--out", type=Path, required=True, help="folder to write to")
    return parser


if __name__ == "__main__":
    stage.run(main)
