"""Statistics of a study: what the scores of its cases say about its arms.

The unit is the patient. A difference to `real` is taken within the same fold, seed and case, then
averaged over folds and seeds: what is left is one number per patient, and patients are what is
resampled, tested and counted. Repeated trainings make that number less noisy; they are no cases.
"""

from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from tumorfab.metrics import REGIONS
from tumorfab.stage import InputError, rng

MEAN = "mean"
SHOWN = [*REGIONS, MEAN]
GROUP = ["arm", "k", "n"]
RESAMPLES = 10_000
BETTER = 0.02  # the difference for which the number of cases is given: 2 points of Dice
ALPHA, POWER = 0.05, 0.8

Values = NDArray[np.float64]


def with_mean(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The column `metric` as `value` for every run, case and region, and for the region `mean`: the
    mean of a case's three regions. Rows without a value are left out."""
    run = [*GROUP, "fold", "seed", "case"]
    rows = scores[[*run, "region", metric]].rename(columns={metric: "value"}).dropna()
    means = rows.groupby(run, sort=False)["value"].mean()
    return pd.concat([rows, means.reset_index().assign(region=MEAN)], ignore_index=True)


def per_case(scores: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """`value` per arm, k, n, case and region (WT, TC, ET and their mean), averaged over folds and
    seeds."""
    rows = with_mean(scores, metric)
    return rows.groupby([*GROUP, "case", "region"], sort=False)["value"].mean().reset_index()


def bootstrap(values: Values, generator: np.random.Generator) -> tuple[float, float]:
    """95 % percentile interval of the mean of (n,) values over resamples of the values."""
    means = values[generator.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def wilcoxon(differences: Values) -> float:
    """Two-sided p of the signed-rank test of (n,) paired differences; 1 where all are 0.

    Exact without ties and zeros up to 50 cases and with them up to 13, else the normal
    approximation (scipy's rule). Values that differ by rounding alone are ties.
    """
    rounded = np.round(differences, 12)
    return float(stats.wilcoxon(rounded).pvalue) if rounded.any() else 1.0


def holm(p: Values) -> Values:
    """Holm's adjustment of (n,) p values, in their order."""
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(steps, 1)
    return adjusted


def rank_biserial(differences: Values) -> float:
    """Rank sum in favour minus rank sum against, over their sum: -1 to 1, and 0 where all are 0."""
    rounded = np.round(differences, 12)
    ranks = stats.rankdata(np.abs(rounded[rounded != 0]))
    return float(ranks @ np.sign(rounded[rounded != 0]) / ranks.sum()) if len(ranks) else 0.0


def cases_needed(sd: float, difference: float = BETTER) -> int | None:
    """Cases at which a paired t test (two-sided, 5 %) sees `difference` with 80 % power, where `sd`
    is that of the paired differences; None where the sd is 0 and says nothing."""
    if not sd > 0:
        return None
    effect = difference / sd
    n = max(2, int((stats.norm.isf(ALPHA / 2) - stats.norm.isf(POWER)) ** 2 / effect**2))
    while True:  # the normal approximation is a little below: a few steps
        critical, shift = stats.t.isf(ALPHA / 2, n - 1), effect * np.sqrt(n)
        if stats.nct.sf(critical, n - 1, shift) >= POWER:  # the other tail is nothing at 80 %
            return n
        n += 1


def paired(rows: pd.DataFrame, real: pd.DataFrame) -> Values:
    """Mean difference of each case over the folds and seeds that it was scored in, by case.

    Both tables have fold, seed, case and value. Raises `InputError` where a score of one arm has no
    partner in the other.
    """
    pair = ["fold", "seed", "case"]
    both = rows.merge(real, on=pair, how="outer", suffixes=("", "_real"), indicator=True)
    alone = both[both["_merge"] != "both"]
    if len(alone):
        where = ", ".join(f"{name} {alone.iloc[0][name]}" for name in pair)
        raise InputError(f"scores: {where} was scored in one of two arms only; score all again")
    both["difference"] = both["value"] - both["value_real"]
    return both.groupby("case")["difference"].mean().to_numpy()


def summarise(scores: pd.DataFrame, seed: int, metric: str = "dice") -> list[dict[str, Any]]:
    """One row per k, region, arm and n: what the tables print.

    `mean`, `sd` and `mean_interval` are over cases; `zeros` counts cases whose value is 0 in every
    run; `between_seeds` is the sd of the cohort's mean from seed to seed. Rows of other arms than
    `real` have `difference` (to `real` of the same k), its `interval`, the Wilcoxon `p`, `p_holm`
    over all comparisons of the same region, the effect sizes `d` (mean over sd of the
    differences) and `rank_biserial`, and `needed`, see `cases_needed`. None is what one case or one
    seed cannot tell.
    """
    values = with_mean(scores, metric)
    rows: list[dict[str, Any]] = []
    for key, part in values.groupby([*GROUP, "region"], sort=False):
        arm, k, n, region = cast(tuple[str, int, int, str], key)
        real = values[(values["arm"] == "real") & (values["k"] == k) & (values["region"] == region)]
        row = {"arm": arm, "k": int(k), "n": int(n), "region": region, "metric": metric}
        names = (metric,) if metric != "dice" else ()
        generator = rng(seed, "report", arm, int(k), int(n), region, *names)
        row |= _compared(part, real if arm != "real" else real[:0], generator)
        rows.append(row | _described(part, generator))
    for region in SHOWN:
        tested = [row for row in rows if row["region"] == region and row["p"] is not None]
        for row, p in zip(tested, holm(np.array([row["p"] for row in tested])), strict=True):
            row["p_holm"] = float(p)
    rank = {region: i for i, region in enumerate(SHOWN)}
    return sorted(rows, key=lambda row: (row["k"], rank[row["region"]]))  # stable: arms keep order


def _described(part: pd.DataFrame, generator: np.random.Generator) -> dict[str, Any]:
    """Mean over cases with its interval, of one arm, k, n and region."""
    cases = part.groupby("case", sort=False)["value"].mean().to_numpy()
    by_seed = part.groupby("seed")["value"].mean()
    several = len(cases) > 1
    return {
        "mean": float(cases.mean()),
        "sd": float(cases.std(ddof=1)) if several else None,
        "mean_interval": bootstrap(cases, generator) if several else None,
        "zeros": int((part.groupby("case")["value"].max() == 0).sum()),
        "cases": len(cases),
        "seeds": len(by_seed),
        "folds": part["fold"].nunique(),
        "between_seeds": float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None,
    }


def _compared(
    part: pd.DataFrame, real: pd.DataFrame, generator: np.random.Generator
) -> dict[str, Any]:
    """The difference to `real`, with what tells how sure it is; all None without `real`."""
    names = ("difference", "interval", "p", "p_holm", "d", "rank_biserial", "needed")
    row: dict[str, Any] = dict.fromkeys(names)
    if not len(real):
        return row
    pair = ["fold", "seed", "case", "value"]
    differences = paired(part[pair], real[pair])
    row["difference"] = float(differences.mean())
    if len(differences) > 1:
        sd = round(float(differences.std(ddof=1)), 12)  # equal but for rounding is equal
        row["interval"] = bootstrap(differences, generator)
        row["p"] = wilcoxon(differences)
        row["d"] = row["difference"] / sd if sd > 0 else None
        row["rank_biserial"] = rank_biserial(differences)
        row["needed"] = cases_needed(sd)
    return row
