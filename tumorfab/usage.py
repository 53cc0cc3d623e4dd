"""What a study took: the benchmark files that Snakemake writes beside the results, by rule."""

from pathlib import Path
from typing import Any

import pandas as pd


def used(results: Path) -> list[dict[str, Any]]:
    """One row per rule: `jobs`, `hours` (of all jobs one after the other), `cpu_hours`,
    `gpu_hours` (of jobs whose log says that they leased a card) and `peak_gb`; then their sum.

    Empty where no benchmark was written. What Snakemake did not measure (a job too short for it)
    counts 0. The report's own file is left out: it is that of the run before.
    """
    rows = []
    for path in sorted((results / "benchmarks").rglob("*.tsv")):
        rule = path.relative_to(results / "benchmarks").with_suffix("").parts[0]
        if rule != "report":
            rows.append({"rule": rule, **_job(path, results)})
    if not rows:
        return []
    table = pd.DataFrame(rows)
    by_rule = table.groupby("rule").agg(
        jobs=("s", "size"), s=("s", "sum"), cpu=("cpu", "sum"), gpu=("gpu", "sum"),
        peak=("peak", "max"),
    )  # fmt: skip
    by_rule = by_rule.sort_values("s", ascending=False)
    total = by_rule.sum()
    total["peak"] = by_rule["peak"].max()
    by_rule.loc["all"] = total
    return [
        {"rule": str(rule), "jobs": int(row["jobs"]), "hours": row["s"] / 3600,
         "cpu_hours": row["cpu"] / 3600, "gpu_hours": row["gpu"] / 3600,
         "peak_gb": row["peak"] / 1024}
        for rule, row in by_rule.iterrows()
    ]  # fmt: skip


def _job(path: Path, results: Path) -> dict[str, float]:
    """Seconds, CPU seconds, seconds on a card and peak memory (MB) of a job; its repetitions, if it
    was repeated, add up."""
    table = pd.read_csv(path, sep="\t")
    found = {
        name: pd.to_numeric(table[name], errors="coerce").fillna(0)
        for name in ("s", "cpu_time", "max_rss")
    }
    seconds = float(found["s"].sum())
    log = results / "logs" / path.relative_to(results / "benchmarks").with_suffix(".log")
    on_card = log.exists() and "leased GPU" in log.read_text(encoding="utf-8", errors="replace")
    return {
        "s": seconds,
        "cpu": float(found["cpu_time"].sum()),
        "gpu": seconds if on_card else 0.0,
        "peak": float(found["max_rss"].max()),
    }
