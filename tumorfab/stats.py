"""Statistics of a study: what the scores of its cases say about its arms."""

from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorfab import stage
from tumorfab.metrics import REGIONS

MEAN = "mean"
SHOWN = [*REGIONS, MEAN]
GROUP = ["arm", "k", "n"]
RESAMPLES = 10_000


def per_case(scores: pd.DataFrame) -> pd.DataFrame:
    """Dice per arm, k, n, case and region (WT, TC, ET and their mean), averaged over seeds."""
    regions = scores.groupby([*GROUP, "case", "region"], sort=False)["dice"].mean()
    means = regions.groupby([*GROUP, "case"], sort=False).mean()
    return pd.concat([regions.reset_index(), means.reset_index().assign(region=MEAN)])


def bootstrap(values: NDArray[np.float64], rng: np.random.Generator) -> tuple[float, float]:
    """95 % percentile interval of the mean of (n,) values over resamples of the values."""
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def summarise(scores: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """One row per k, region, arm and n: what the tables print.

    `dice` is mean ± sd over cases; `zeros` counts cases whose Dice is 0 with every seed;
    `difference` is the mean difference to `real` of the same k, paired by case.
    """
    cases = per_case(scores)
    seeds = scores.groupby(GROUP)["seed"].nunique().to_dict()
    rows: list[dict[str, Any]] = []
    for key, part in cases.groupby([*GROUP, "region"], sort=False):
        arm, k, n, region = cast(tuple[str, int, int, str], key)
        values = part.set_index("case")["dice"]
        row = {"arm": arm, "k": int(k), "n": int(n), "region": region, "difference": None}
        row |= {"mean": float(values.mean()), "sd": float(values.std(ddof=1)), "interval": None}
        row |= {"zeros": int((values == 0).sum()), "cases": len(values)}
        row["seeds"] = seeds[arm, k, n]
        real = cases[(cases["arm"] == "real") & (cases["k"] == k) & (cases["region"] == region)]
        if arm != "real" and len(real):
            paired = (values - real.set_index("case")["dice"]).to_numpy()
            row["difference"] = float(paired.mean())
            if len(paired) > 1:
                row["interval"] = bootstrap(
                    paired, stage.rng(seed, "report", arm, int(k), int(n), region)
                )
        rows.append(row)
    rank = {region: i for i, region in enumerate(SHOWN)}
    return sorted(rows, key=lambda row: (row["k"], rank[row["region"]]))  # stable: arms keep order
