"""The tables of the report: cells, headings, and the sentences that must stand below them.

No mean stands alone: with it goes its interval, or the word that one case has none.
"""

import textwrap
from typing import Any

import numpy as np
import pandas as pd

from tumorfab.stage import rng
from tumorfab.stats import BETTER, MEAN, RESAMPLES, bootstrap, per_case

Rows = list[dict[str, Any]]

HEADINGS = ["N", "Dice, mean [95 %]", "Dice = 0", "Between seeds", "Difference to real [95 %]",
            "p", "p, Holm", "Effect d", f"Cases for +{BETTER:g}"]  # fmt: skip
# Beside Dice: title, decimals.
OTHERS = {
    "hd95_mm": ("HD95 (mm)", 1),
    "nsd_2mm": ("NSD at 2 mm", 3),
    "lesion_dice": ("Lesion-wise Dice", 3),
}
ARMS = {
    "real": "the K annotated cases",
    "copypaste": "the same, and K x N of them with another case's tumour pasted in (TumorCP-like)",
    "carvemix": "the same, and K x N pairs mixed along the lesion's boundary (CarveMix)",
    "carvemix_published": "as carvemix, with the distance of the published script",
    "pix2pix": "the same, and K x N healthy scans with tumours painted by a paired 3D Pix2Pix",
    "coarse": "the same, and K x N coarse samples: a real tumour, moved, turned, deformed and "
    "grown into a brain (TF-Aug)",
    "tf": "the same, and K x N of those coarse samples after the refiner (TF-GAN)",
    "tf_gated": "as tf, without the samples that the quality gate rejects",
    "shuffled": "as coarse, each sample with the labels of another: a control, must not help",
}


def with_interval(value: float, interval: tuple[float, float] | None, form: str) -> str:
    """`value` and its interval in the format `form`; one case has none and says so."""
    if interval is None:
        return f"{value:{form}} (one case: no interval)"
    return f"{value:{form}} [{interval[0]:{form}}, {interval[1]:{form}}]"


def probability(p: float | None) -> str:
    """A p value to three decimals."""
    return "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def cells(row: dict[str, Any]) -> list[str]:
    """The printed columns of a row of Dice, after region and arm; see `HEADINGS`."""
    compared = row["difference"] is not None
    return [
        str(row["n"]) if row["n"] else "-",
        with_interval(row["mean"], row["mean_interval"], ".3f"),
        f"{row['zeros']} of {row['cases']}",
        "-" if row["between_seeds"] is None else f"± {row['between_seeds']:.3f}",
        with_interval(row["difference"], row["interval"], "+.3f") if compared else "-",
        probability(row["p"]),
        probability(row["p_holm"]),
        "-" if row["d"] is None else f"{row['d']:+.2f}",
        "-" if row["needed"] is None else f"{row['needed']:,}",
    ]


def other_cells(row: dict[str, Any]) -> list[str]:
    """Mean and difference to real of another metric than Dice."""
    decimals = OTHERS[row["metric"]][1]
    compared = row["difference"] is not None
    return [
        with_interval(row["mean"], row["mean_interval"], f".{decimals}f"),
        with_interval(row["difference"], row["interval"], f"+.{decimals}f") if compared else "-",
    ]


def text_table(summary: Rows, notes: list[str]) -> str:
    """The summary of Dice as plain text, one block per k."""
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
    """What a reader of the table must know, in one sentence or two each."""
    cases, seeds, folds = (scores[name].nunique() for name in ("case", "seed", "fold"))
    found = [
        f"{_plural(cases, 'test case')}, {_plural(folds, 'fold')}, {_plural(seeds, 'training')} of "
        "each arm and fold. Each case is first averaged over them; intervals, tests and numbers of "
        "cases are over cases.",
        f"Intervals: 95 %, bootstrap over cases ({RESAMPLES:,} resamples). "
        + (
            "The chance of the split is not in them."
            if folds == 1
            else "Cases of one fold share their training cases; that they are alike is not in them."
        ),
        "Difference: arm minus real at the same K, paired by fold, seed and case. p: Wilcoxon's "
        "signed-rank test, two-sided; Holm: adjusted for all arms, K and N of the region. Effect "
        "d: mean over standard deviation of the differences.",
        f"Cases for +{BETTER:g}: with how many a paired t test sees that difference with 80 % "
        "power, if differences spread as they do here.",
    ]
    if cases < 6:
        found.append(f"With {cases} cases no p value can be below {2 / 2**cases:g}.")
    absent = scores[scores["volume_ml"] == 0].groupby("region", sort=False)["case"].nunique()
    found += [
        f"{count} of {cases} test cases have no annotated {region}: there Dice is 1 if none is "
        "predicted and 0 otherwise."
        for region, count in absent.items()
    ]
    if config["healthy"]["source"] == "demo":
        found.append("The cohort is a PHANTOM: these figures say nothing about patients.")
    return found


def verdicts(summary: Rows) -> list[str]:
    """What the intervals of the difference say, mean of the regions: a sentence per outcome."""
    named: dict[str, list[str]] = {
        "lies above 0, in favour of the synthetic samples": [],
        "lies below 0: the synthetic samples did harm": [],
        "holds 0: no difference to real is shown": [],
    }
    for row in summary:
        if row["region"] == MEAN and row["interval"]:
            low, high = row["interval"]
            place = 0 if low > 0 else 1 if high < 0 else 2
            who = f"{row['arm']} (K = {row['k']}, N = {row['n']})"
            named[list(named)[place]].append(who)
    return [
        f"Mean of the regions, in this study: the interval {outcome}, for {', '.join(who)}."
        for outcome, who in named.items()
        if who
    ]


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def exposures(config: dict[str, Any]) -> Rows:
    """Per arm: how many patches of real and of synthetic cases the network is trained on."""
    params = config["segment"]
    rows = []
    for arm in config["study"]["arms"]:
        made = 0 if arm == "real" else round(params["batch"] * params["synthetic_share"])
        real, steps = params["batch"] - made, params["steps"]
        what = ARMS.get(arm, "the same, and K x N synthetic samples")
        rows.append({"arm": arm, "what": what, "real": steps * real, "synthetic": steps * made})
    return rows


def flat(rows: Rows) -> pd.DataFrame:
    """Summary rows as a table: each interval in two columns."""
    table = pd.DataFrame(rows)
    for name in ("mean_interval", "interval"):
        ends = [value or (None, None) for value in table[name]]
        stem = name.removesuffix("interval").rstrip("_") or "difference"
        table[f"{stem}_low"], table[f"{stem}_high"] = zip(*ends, strict=True)
    return table.drop(columns=["mean_interval", "interval"])


def largest(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores at the largest k, and there at the largest n of each arm."""
    at = scores[scores["k"] == scores["k"].max()]
    return at[at["n"] == at.groupby("arm")["n"].transform("max")]


def by_volume(scores: pd.DataFrame, seed: int) -> Rows:
    """Sensitivity for WT by tumour size: the cases in up to three groups of about equal number.

    One row per group: `low` and `high` (ml), `cases`, and `arms`: each arm's mean, its interval.
    """
    scores = largest(scores[(scores["region"] == "WT") & (scores["volume_ml"] > 0)])
    volumes = scores.drop_duplicates("case").set_index("case")["volume_ml"].sort_values()
    if volumes.empty:
        return []
    values = per_case(scores, "sensitivity")
    values = values[values["region"] == "WT"]
    rows = []
    for group in np.array_split(volumes.index, min(3, max(1, len(volumes) // 2))):
        arms = {}
        for arm in scores["arm"].drop_duplicates():
            mine = values[(values["arm"] == arm) & values["case"].isin(group)]["value"].to_numpy()
            generator = rng(seed, "report", "volume", arm, str(group[0]))
            interval = bootstrap(mine, generator) if len(mine) > 1 else None
            arms[arm] = with_interval(float(mine.mean()), interval, ".2f")
        ends = volumes[group]
        rows.append({"low": ends.min(), "high": ends.max(), "cases": len(group), "arms": arms})
    return rows


def lesions(scores: pd.DataFrame) -> Rows:
    """Lesions (of WT) that are judged, found and false, counted over all trainings of each arm."""
    columns = ["lesions", "lesions_found", "lesions_false"]
    counted = largest(scores[scores["region"] == "WT"]).groupby("arm", sort=False)[columns].sum()
    return [
        {"arm": str(arm), **{str(name): int(value) for name, value in row.items()}}
        for arm, row in counted.iterrows()
    ]
