"""Quality of preprocessing: one table and one page of all subjects, those to look at first.

What fails outright stops in `preprocess`. Here stands what passed and yet differs from its cohort.
"""

import argparse
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorfab import __version__, mosaic, stage, view
from tumorfab.ingest import read_subjects
from tumorfab.page import render
from tumorfab.stage import InputError
from tumorfab.views import uri

MIN_COHORT = 8  # subjects; of fewer no outlier can be told
MAX_Z = 3.5  # Iglewicz and Hoaglin 1993
MOST_EMBEDDED = 50  # pictures in the page; of more it would be too large to open
FIXED = ["subject", "cohort", "flags"]
ANALYSIS = "analysis."  # begins the name of a number that was measured in the analysis space


@dataclass(frozen=True)
class Metric:
    """A column of the page. `{}` in `name` stands for the modality or tissue; a number that is not
    `judged` never flags."""

    name: str
    unit: str
    meaning: str
    judged: bool = True


# By the path of a number in the sidecars; * is a modality or tissue. The order is the page's.
KNOWN = {
    "brain_volume_ml": Metric("Brain", "ml", "Volume of the brain mask, sulcal CSF included."),
    "correlation_with_template": Metric(
        "Agreement", "0 to 1", "Multiple correlation of the brain with the template's tissue maps."
    ),
    "dice_with_template_mask": Metric(
        "Dice of masks", "0 to 1", "Dice of the brain mask with the template's, as registered."
    ),
    "template_brain_outside_view": Metric(
        "Outside view", "0 to 1", "Share of the template's brain outside the field of view."
    ),
    "gain": Metric("Gain", "", "What registration added to the agreement over its start."),
    "stretch": Metric("Stretch", "ratio", "Largest over smallest stretch of the template's axes."),
    "mirror_dice": Metric("Symmetry", "0 to 1", "Dice of the brain mask with its mirror image."),
    "empty_slices": Metric("Empty slices", "", "Slices without signal where the brain is."),
    "noise": Metric("Noise", "ratio", "Noise in white matter over the brain's contrast."),
    "white_minus_grey": Metric("WM - GM", "", "White minus grey matter over the brain's contrast."),
    "csf_minus_grey": Metric("CSF - GM", "", "CSF minus grey matter over the brain's contrast."),
    "bias_range": Metric("Bias", "ratio", "Highest over lowest bias of the first modality."),
    "coregistration.*.aligned": Metric(
        "{} follows", "0 to 1", "How well the modality follows the first one in the brain."
    ),
    "coregistration.*.displaced": Metric(
        "{} displaced", "0 to 1", "The same at best when it is moved away: should be far lower."
    ),
    "coregistration.*.mirrored": Metric(
        "{} mirrored", "0 to 1", "The same with left and right swapped: should be lower."
    ),
    "bias_field.*": Metric(
        "{} bias", "ratio", "Highest over lowest intensity bias that was removed in the brain."
    ),
    "analysis.brain_volume_ml": Metric(
        "Brain on grid", "ml", "Volume of the brain mask in the analysis space."
    ),
    "analysis.dice_with_template_mask": Metric(
        "Dice on grid", "0 to 1", "Dice of brain and template mask in the analysis space."
    ),
    "analysis.ventricles_ml": Metric("Ventricles", "ml", "Volume of the lateral ventricles."),
    "analysis.tissue_volume_ml.*": Metric("{}", "ml", "Volume of the tissue's posterior."),
    # Not judged: the units are the scanner's, and normalisation divides by them.
    "analysis.intensity.*.centre": Metric(
        "{} centre", "scanner", "Median intensity of the brain before normalisation.", False
    ),
    "analysis.intensity.*.scale": Metric(
        "{} scale", "scanner", "Interquartile range / 1.349 of it: 1 in the images.", False
    ),
}
_UNITS = {"ml": "ml", "mm": "mm", "deg": "°"}


def scalars(record: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a sidecar by their dotted path; texts, lists and truth values are left out."""
    found: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            found |= scalars(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[prefix + key] = float(value)
    return found


def evidence(native: dict[str, Any], analysis: dict[str, Any]) -> dict[str, float]:
    """The numbers of a subject's two sidecars. The range of a bias is its highest over lowest."""
    bias = {m: high / low for m, (low, high) in native.get("bias_field", {}).items()}
    return scalars({**native, "bias_field": bias}) | scalars(analysis, ANALYSIS)


def described(column: str) -> Metric:
    """Name, unit and meaning of a number; for one that is not known, what its path tells."""
    for pattern, metric in KNOWN.items():
        match = re.fullmatch(re.escape(pattern).replace(r"\*", r"([^.]+)"), column)
        if match:
            return replace(metric, name=metric.name.format(*match.groups()))
    words = column.removeprefix(ANALYSIS).replace(".", " ").split("_")
    unit = _UNITS.get(words[-1], "")
    return Metric(" ".join(words[:-1] if unit else words), unit, f"{column} of the sidecar.")


def _rank(column: str) -> tuple[bool, int, str]:
    """Native before analysis space, known before unknown, then by name."""
    patterns = [re.escape(pattern).replace(r"\*", r"[^.]+") for pattern in KNOWN]
    place = next((i for i, p in enumerate(patterns) if re.fullmatch(p, column)), len(patterns))
    return column.startswith(ANALYSIS), place, column


def robust_z(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of (n,) values from their median, in robust standard deviations; NaN stays NaN.

    The deviation is the median absolute one x 1.4826, or where half of the values are equal the
    mean absolute one x 1.2533. All 0 with fewer than `MIN_COHORT` values.
    """
    known = values[np.isfinite(values)]
    if len(known) < MIN_COHORT:
        return np.where(np.isfinite(values), 0.0, np.nan)
    away = values - np.median(known)
    away[np.abs(away) < 1e-9 * np.abs(known).max()] = 0  # rounding is no deviation
    size = np.abs(away[np.isfinite(away)])
    spread = 1.4826 * np.median(size) or 1.2533 * size.mean() or 1.0
    return np.asarray(away / spread)


def read(subjects: pd.DataFrame, results: Path, label: str) -> pd.DataFrame:
    """One row per subject: subject, cohort, flags (those of its sidecars), then their numbers.

    Raises `InputError` for a sidecar that is missing or broken.
    """
    rows = []
    for subject, cohort in zip(subjects["subject"], subjects["cohort"], strict=True):
        stem = f"{results}/sub-{subject}/anat/sub-{subject}"
        records = [
            stage.read_json(f"{stem}{space}_desc-preproc.json") for space in ("", f"_space-{label}")
        ]
        flags = [flag for record in records for flag in record.get("flags", [])]
        rows.append({"subject": subject, "cohort": cohort, "flags": flags, **evidence(*records)})
    table = pd.DataFrame(rows)
    return table[[*FIXED, *sorted(set(table.columns) - set(FIXED), key=_rank)]]


def numbers(table: pd.DataFrame) -> list[str]:
    """The columns of a table of `read` that hold numbers."""
    return [str(column) for column in table.columns[len(FIXED) :]]


def z_scores(table: pd.DataFrame) -> pd.DataFrame:
    """`robust_z` of every number of a table of `read` that can flag, each cohort by itself."""
    judged = [column for column in numbers(table) if described(column).judged]
    return table.groupby("cohort")[judged].transform(lambda part: robust_z(part.to_numpy()))


def flagged(table: pd.DataFrame, z: pd.DataFrame) -> pd.DataFrame:
    """A table of `read` with its outliers added to `flags`; most flags first, then by name."""
    added = [
        [
            f"{described(c).name} {shown(row[c], decimals(table[c]))} (z {distances[c]:+.1f})"
            for c in map(str, z)
            if abs(distances[c]) > MAX_Z
        ]
        for row, distances in zip(table.to_dict("records"), z.to_dict("records"), strict=True)
    ]
    flags = [old + new for old, new in zip(table["flags"], added, strict=True)]
    keys = list(zip([-len(found) for found in flags], table["subject"], strict=True))
    order = sorted(range(len(table)), key=keys.__getitem__)
    return table.assign(flags=flags).iloc[order]


def decimals(column: pd.Series) -> int:
    """How many decimals the page prints of all numbers of a column."""
    largest = column.abs().max()
    return 0 if largest >= 100 else 1 if largest >= 10 else 2 if largest > 1 else 3


def shown(value: float, places: int) -> str:
    """A number as the page prints it."""
    return f"{value:,.{places}f}" if np.isfinite(value) else "n/a"


def html(table: pd.DataFrame, z: pd.DataFrame, results: Path, out: Path) -> str:
    """The page of a table of `flagged`, for the folder `out`.

    Raises `InputError` when a picture is missing.
    """
    columns = {column: described(column) for column in numbers(table)}
    far = (z.abs() > MAX_Z).reindex(index=table.index, columns=list(columns), fill_value=False)
    places = {column: decimals(table[column]) for column in columns}
    embed = len(table) <= MOST_EMBEDDED
    rows = [
        {
            **{name: row[name] for name in FIXED},
            "cells": [(shown(row[c], places[c]), row[c], out_of_line[c]) for c in columns],
            "picture": _picture(mosaic.picture(results, row["subject"]), out, embed),
        }
        for row, out_of_line in zip(table.to_dict("records"), far.to_dict("records"), strict=True)
    ]
    return render(
        "qc.html.j2",
        version=__version__,
        columns=list(columns.values()),
        native=sum(not column.startswith(ANALYSIS) for column in columns),
        rows=rows,
        cohorts=table["cohort"].value_counts().sort_index().to_dict(),
        embed=embed,
        least=MIN_COHORT,
        max_z=MAX_Z,
    )


def _picture(file: Path, page: Path, embed: bool) -> str:
    """The address of a picture: the picture itself, or its place relative to the page's folder."""
    if not file.is_file():
        raise InputError(f"{file}: no such file; run the stage mosaic")
    if embed:
        return uri(file.read_bytes(), "png")
    return quote(Path(os.path.relpath(file, page)).as_posix())


def main(argv: list[str] | None = None) -> None:
    """Tabulate the quality of preprocessing of all subjects and make their page."""
    parser = argparse.ArgumentParser(prog="tumorfab.qc", description=main.__doc__)
    parser.add_argument("--subjects", type=Path, required=True, help="subjects.tsv of ingest")
    parser.add_argument("--results", type=Path, required=True, help="results folder of the study")
    parser.add_argument("--label", required=True, help="BIDS label of the analysis space")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder: index.html, viewer.html, metrics.tsv"
    )
    args = parser.parse_args(argv)
    table = read(read_subjects(args.subjects), args.results, args.label)
    z = z_scores(table)
    table = flagged(table, z)
    content = html(table, z, args.results, args.out)
    lines = table.assign(flags=table["flags"].map("; ".join)).to_csv(
        sep="\t", index=False, float_format="%.6g", na_rep="n/a", lineterminator="\n"
    )
    stage.write_text(args.out / "metrics.tsv", lines)
    stage.write_text(args.out / "viewer.html", view.page())
    stage.write_text(args.out / "index.html", content)


if __name__ == "__main__":
    stage.run(main)
