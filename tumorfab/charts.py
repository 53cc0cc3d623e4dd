"""Charts of the report, as SVG data URIs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tumorfab.views import encoded, style, uri

# Colours that colour-blind readers can tell apart; an arm has the same in every chart.
ARM_COLOURS = {
    "real": "#5b6470", "copypaste": "#b03a5b", "carvemix": "#6b4fa0",
    "carvemix_published": "#a58bd0", "pix2pix": "#2f6fb0", "coarse": "#c2790a", "tf": "#0a7d78",
    "tf_gated": "#3a9d3a", "shuffled": "#9a8f7a",
}  # fmt: skip
CURVE_POINTS = 80
_SHADES = ["#0a7d78", "#c2790a", "#6b4fa0", "#5b6470", "#b03a5b", "#2f6fb0"]
_INK = "#1c2126"
_WIDTH = 9.4

Rows = list[dict[str, Any]]


def colour(arm: str) -> str:
    """The colour of an arm; black for one that has none of its own."""
    return ARM_COLOURS.get(arm, _INK)


def paired(cases: pd.DataFrame, summary: Rows, arms: list[str], regions: Sequence[str]) -> str:
    """One line per test case from arm to arm; one panel per region, one row per (k, n).

    `cases` has the columns arm, k, n, case, region, value, `summary` the rows of
    `stats.summarise`, whose means and intervals stand beside the points; `real` (n 0) is repeated
    in every row of its k. Returns a data URI.
    """
    rows = settings(cases)
    means = {(r["arm"], r["k"], r["n"], r["region"]): r for r in summary}
    with style():
        figure = Figure(figsize=(_WIDTH, 0.5 + 2.9 * len(rows)), layout="constrained")
        grid = figure.subplots(len(rows), len(regions), squeeze=False, sharey=True)
        for axes, (k, n) in zip(grid, rows, strict=True):
            chosen = cases[(cases["k"] == k) & ((cases["n"] == n) | (cases["arm"] == "real"))]
            for panel, region in zip(axes, regions, strict=True):
                table = chosen[chosen["region"] == region].pivot(
                    index="case", columns="arm", values="value"
                )
                table = table[[arm for arm in arms if arm in table]]
                _lines(panel, table)
                for x, arm in enumerate(table):
                    _mean(panel, x + 0.2, means[arm, k, 0 if arm == "real" else n, region])
                panel.set_title(f"{region}, K = {k}, N = {n}" if n else f"{region}, K = {k}")
            axes[0].set_ylabel("Dice")
        return uri(encoded(figure, "svg"), "svg")


def settings(cases: pd.DataFrame) -> list[tuple[int, int]]:
    """Every (k, n) of the arms with synthetic samples; those of `real` where it is alone."""
    made = cases.loc[cases["arm"] != "real", ["k", "n"]]
    chosen = cases[["k", "n"]] if made.empty else made
    return sorted(set(chosen.itertuples(index=False, name=None)))


def _lines(axes: Axes, table: pd.DataFrame) -> None:
    x = np.arange(table.shape[1])
    for values in table.to_numpy():
        axes.plot(x, values, color="#9aa3ad", linewidth=0.9, alpha=0.7, zorder=2)
    for position, arm in zip(x, map(str, table), strict=True):
        axes.plot(
            np.full(len(table), position), table[arm], "o", markersize=5, alpha=0.8,
            color=colour(arm), markeredgecolor="white", markeredgewidth=0.6, zorder=3,
        )  # fmt: skip
    turn = 40 if len(x) > 4 else 0
    axes.set_xticks(x, table.columns, rotation=turn, ha="right" if turn else "center")
    axes.set_xlim(-0.4, len(x) - 0.5)
    axes.set_ylim(-0.05, 1.05)
    axes.grid(visible=False, axis="x")


def _mean(axes: Axes, x: float, row: dict[str, Any]) -> None:
    low, high = row["mean_interval"] or (row["mean"], row["mean"])
    axes.errorbar(
        x, row["mean"], yerr=[[row["mean"] - low], [high - row["mean"]]], fmt="_", markersize=9,
        markeredgewidth=2, elinewidth=1.2, color=_INK, zorder=4,
    )  # fmt: skip


def differences(summary: Rows, region: str) -> str:
    """Difference to `real` of every arm with its interval; one panel per (k, n). Returns a data
    URI, or "" where no arm has an interval."""
    rows = [row for row in summary if row["region"] == region and row["interval"]]
    if not rows:
        return ""
    panels = sorted({(row["k"], row["n"]) for row in rows})
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    most = max(sum((row["k"], row["n"]) == panel for row in rows) for panel in panels)
    with style():
        figure = Figure(figsize=(_WIDTH, down * (0.75 + 0.27 * most)), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False, sharex=True).ravel()
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for axes, (k, n) in zip(grid, panels, strict=False):
            shown = [row for row in rows if (row["k"], row["n"]) == (k, n)]
            axes.axvline(0, color=colour("real"), linewidth=1.2)
            for y, row in enumerate(shown):
                low, high = row["interval"]
                middle = row["difference"]
                axes.errorbar(
                    middle, y, xerr=[[middle - low], [high - middle]], fmt="o", markersize=5,
                    elinewidth=1.6, capsize=2.5, color=colour(row["arm"]),
                )  # fmt: skip
            axes.set_yticks(range(len(shown)), [row["arm"] for row in shown])
            axes.set_ylim(len(shown) - 0.4, -0.6)
            axes.grid(visible=False, axis="y")
            axes.set_title(f"K = {k}, N = {n}")
            axes.set_xlabel("Dice, arm minus real")
        return uri(encoded(figure, "svg"), "svg")


def sweeps(summary: Rows, region: str) -> str:
    """Dice against K (at the largest N) and against N (at the largest K), with intervals; only what
    has more than one value. Returns a data URI, "" where neither has."""
    rows = [row for row in summary if row["region"] == region]
    most = {name: max(row[name] for row in rows) for name in ("k", "n")}
    panels = [
        (name, other, title)
        for name, other, title in (
            ("k", "n", "real training cases, K"),
            ("n", "k", "synthetic samples per real case, N"),
        )
        if len({row[name] for row in rows if row["arm"] != "real" or name == "k"}) > 1
    ]
    if not panels:
        return ""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    with style():
        figure = Figure(figsize=(_WIDTH, 3.3), layout="constrained")
        for place, (name, other, title) in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), place + 1)
            for shift, arm in enumerate(arms):
                mine = [
                    row
                    for row in rows
                    if row["arm"] == arm and (row[other] == most[other] or arm == "real")
                ]
                if name == "n":
                    mine = [row for row in mine if row["k"] == most["k"]]
                _sweep(axes, mine, name, shift - (len(arms) - 1) / 2)
            values = sorted({row[name] for row in rows})
            axes.set_xticks(values, [str(value) for value in values])
            axes.set_xlabel(f"{title} ({'N' if other == 'n' else 'K'} = {most[other]})")
        figure.axes[0].set_ylabel("Dice, mean of the regions")
        lines = [Line2D([], [], color=colour(arm), marker="o", label=arm) for arm in arms]
        figure.legend(handles=lines, loc="outside upper right", ncols=len(arms))
        return uri(encoded(figure, "svg"), "svg")


def _sweep(axes: Axes, rows: Rows, name: str, shift: float) -> None:
    """One arm's line; the arms stand a little beside each other so that their bars can be told."""
    if not rows:
        return
    rows = sorted(rows, key=lambda row: row[name])
    x = np.array([row[name] for row in rows]) + 0.06 * shift
    mean = np.array([row["mean"] for row in rows])
    ends = np.array([row["mean_interval"] or (row["mean"], row["mean"]) for row in rows])
    axes.errorbar(
        x, mean, yerr=[mean - ends[:, 0], ends[:, 1] - mean], marker="o", markersize=4.5,
        linewidth=1.4, elinewidth=1, capsize=2, color=colour(rows[0]["arm"]),
    )  # fmt: skip


def curves(
    histories: Sequence[tuple[str, pd.DataFrame]], panels: dict[str, str], across: int
) -> str:
    """Columns of training histories over steps: one panel per column, `across` in a row.

    `histories`: (name, table with the column step); lines of one name share a colour and a legend
    entry. `panels`: column to title; columns without a value anywhere are left out. Returns a data
    URI.
    """
    panels = {c: t for c, t in panels.items() if any(h[c].notna().any() for _, h in histories)}
    names = list(dict.fromkeys(name for name, _ in histories))
    colours = {n: ARM_COLOURS.get(n, _SHADES[i % len(_SHADES)]) for i, n in enumerate(names)}
    down = -(-len(panels) // across)
    with style():
        figure = Figure(figsize=(_WIDTH, 0.5 + 2.2 * down), layout="constrained")
        for place, (column, title) in enumerate(panels.items()):
            axes = figure.add_subplot(down, min(across, len(panels)), place + 1)
            for name, history in histories:
                known = history[["step", column]].dropna()
                if len(known) > CURVE_POINTS:
                    known = known.groupby(np.arange(len(known)) * CURVE_POINTS // len(known)).mean()
                marker = "o" if len(known) <= 12 else None
                axes.plot(known["step"], known[column], color=colours[name], linewidth=1.3,
                          marker=marker, markersize=4, alpha=0.85)  # fmt: skip
            axes.set_title(title)
            axes.set_xlabel("step")
        if len(names) > 1:
            lines = [Line2D([], [], color=colours[name], label=name) for name in names]
            figure.legend(handles=lines, loc="outside upper right", ncols=len(names))
        return uri(encoded(figure, "svg"), "svg")
