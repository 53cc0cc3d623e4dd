"""Quality gate: which samples are accepted, and for each that is not, why, in words.

A band and not a floor. What only says that a sample is hard is no reason: of the learned scores the
lowest few of the batch are rejected, and no level is asked for. Intensities and boundaries may be
as far from the real training cases as these are from each other. Copies of training tumours go.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tumorfab import bank, judge, stage
from tumorfab.contrast import tissue_relative
from tumorfab.stage import InputError
from tumorfab.volume import load_grid, load_on

# Columns of a table of scores (`appraise`) before the measures of `judge`.
SCORES = ["agreement", "realism", "nearest", "dice", "correlation"]
LEARNED = {
    "agreement": "the network trained on real cases sees another tumour",
    "realism": "unreal to the discriminator",
}
# What a measure of `judge` is called when it is too high and too low.
WORDS = {
    "mean": ("too bright", "too dark"),
    "spread": ("too varied", "too uniform"),
    "grain": ("too grainy", "too smooth"),
    "edge": ("boundary too sharp", "boundary too blurred"),
}


def band(real: Sequence[dict[str, float]], tolerance: float) -> dict[str, float]:
    """The largest allowed gap (`judge.gaps`) by measure: `tolerance` times that of the real case
    that is farthest from the others.

    Where the few real cases happen to agree in a measure, or but one of them has it, it is as wide
    as in half of the measures, and at least one spread wide. A gap that is as large as gaps can be
    is never allowed.
    """
    left_out = [judge.gaps(case, [*real[:i], *real[i + 1 :]]) for i, case in enumerate(real)]
    farthest = {
        name: max((gaps[name] for gaps in left_out if name in gaps), default=0.0)
        for name in sorted({name for case in real for name in case})
    }
    known = [gap for gap in farthest.values() if gap]
    typical = max(float(np.median(known)), 1.0) if known else judge.FARTHEST
    return {
        name: min(tolerance * max(gap, typical), judge.FARTHEST) for name, gap in farthest.items()
    }


def lowest(scores: pd.Series, share: float) -> float:
    """The score below which at most `share` of the scores lie; those that are missing are none."""
    known = np.sort(scores.dropna().to_numpy(float))
    return float(known[int(share * len(known))]) if len(known) and share < 1 else np.inf


def decide(
    scores: pd.DataFrame, real: Sequence[dict[str, float]], params: dict[str, Any]
) -> pd.DataFrame:
    """The table of the gate: `scores` with the columns `verdict` (accept or reject), `reasons` and
    `band`, the largest gap to the `real` cases' measures over what is allowed, in front.

    `params` is the config section `gate`. A sample without a tumour has no scores and is accepted.
    """
    limits = band(real, params["tolerance"])
    least = {name: lowest(scores[name], params["lowest"]) for name in LEARNED}
    reasons, used = [], []
    for row in scores.to_dict("records"):
        found = {name: row[name] for name in limits if name in row and pd.notna(row[name])}
        gaps = judge.gaps(found, real)
        reasons.append(
            [
                f"{what}: {name} {row[name]:.2f}, among the lowest of the batch"
                for name, what in LEARNED.items()
                if row[name] < least[name]
            ]
            + [
                f"{fault(name, found[name], real)}: {gap:.1f} spreads from real cases, "
                f"{limits[name]:.1f} allowed"
                for name, gap in gaps.items()
                if gap >= limits[name]
            ]
            + _copied(row, params)
        )
        used.append(max((gap / limits[name] for name, gap in gaps.items()), default=np.nan))
    front = pd.DataFrame(
        {
            "sample": scores["sample"],
            "verdict": ["reject" if found else "accept" for found in reasons],
            "reasons": ["; ".join(found) for found in reasons],
            "band": used,
        }
    )
    return front.join(scores.drop(columns="sample"))


def fault(measure: str, value: float, real: Sequence[dict[str, float]]) -> str:
    """What is wrong with a measure that is too far from the `real` ones: `T1w ED too bright`."""
    where, _, what = measure.rpartition(" ")
    mean = np.mean([case[measure] for case in real if measure in case])
    return f"{where} {WORDS[what][0 if value > mean else 1]}"


def _copied(row: dict[Any, Any], params: dict[str, Any]) -> list[str]:
    if not (
        row["dice"] >= params["copy_dice"] and row["correlation"] >= params["copy_correlation"]
    ):
        return []
    return [
        f"copy of a training tumour: {row['nearest']}, Dice {row['dice']:.2f}, "
        f"correlation {row['correlation']:.2f}"
    ]


def summary(table: Path) -> pd.DataFrame:
    """How many samples were accepted and rejected, then how many for each reason, the most frequent
    first: columns `what` and `samples`. A sample can have several reasons."""
    judged = read(table)
    counts = Counter(
        reason.partition(":")[0]
        for reasons in judged["reasons"].dropna()
        for reason in reasons.split("; ")
    )
    verdicts = judged["verdict"].value_counts()
    rows = [("accepted", verdicts.get("accept", 0)), ("rejected", verdicts.get("reject", 0))]
    rows += sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return pd.DataFrame(rows, columns=["what", "samples"])


def read(path: Path) -> pd.DataFrame:
    """A table of the gate or of scores. Raises `InputError` when it is missing or not one."""
    try:
        table = pd.read_csv(path, sep="\t", dtype={"sample": str, "nearest": str})
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError):
        raise InputError(f"{path}: not a table; delete it and run again") from None
    if missing := [name for name in ("sample", *SCORES) if name not in table]:
        raise InputError(f"{path}: lacks the column {missing[0]}; delete it and run again")
    return table


def write(path: Path, table: pd.DataFrame) -> None:
    """Write a table as TSV; what is not known is empty."""
    stage.write_text(
        path, table.to_csv(sep="\t", index=False, float_format="%.6g", lineterminator="\n")
    )


def real_measures(
    subject: str, results: Path, folder: Path, label: str, modalities: list[str]
) -> dict[str, float]:
    """Measures of a training case's tumour; `folder` holds its ROIs, which know its reference. The
    tissue around is not among them: it is the host's, and differs between scanners and places."""
    files = bank.case_files(results / f"sub-{subject}" / "anat", subject, label)
    reference = stage.read_json(folder / f"sub-{subject}_rois.json")["reference"]
    grid = load_grid(files["dseg"])
    labels = load_on(files["dseg"], grid, labels=True)
    where = judge.window(labels, grid.spacing)
    images = [load_on(str(files["image"]).format(m), grid)[where] for m in modalities]
    relative = tissue_relative(images, [reference[m] for m in modalities])
    found = judge.measures(relative, modalities, labels[where], grid.spacing)
    return {name: value for name, value in found.items() if judge.AROUND not in name.split()}


def main(argv: list[str] | None = None) -> None:
    """Command line of the stage: one decision on all samples of a kind."""
    parser = argparse.ArgumentParser(prog="tumorfab gate", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--scores", type=Path, nargs="+", required=True, help="TSV of every shard, of appraise"
    )
    parser.add_argument("--donor", nargs="+", required=True, help="training cases")
    parser.add_argument("--results", type=Path, required=True, help="folder with their sub-*/anat")
    parser.add_argument("--bank", type=Path, required=True, help="folder of their ROI bank")
    parser.add_argument("--label", required=True, help="label of the analysis space")
    parser.add_argument("--modality", nargs="+", required=True)
    parser.add_argument(
        "--params", type=json.loads, required=True, help="config section `gate`, JSON"
    )
    parser.add_argument("--out", type=Path, required=True, help="TSV to write")
    args = parser.parse_args(argv)
    real = [
        real_measures(donor, args.results, args.bank, args.label, args.modality)
        for donor in args.donor
    ]
    scores = pd.concat([read(path) for path in args.scores], ignore_index=True)
    write(args.out, decide(scores.sort_values("sample", ignore_index=True), real, args.params))


if __name__ == "__main__":
    stage.run(main)
