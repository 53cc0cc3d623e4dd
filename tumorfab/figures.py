"""Pictures of the report: charts as SVG, slices as PNG, both as data URIs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from tumorfab import samples, stage
from tumorfab.bank import case_files
from tumorfab.views import LABEL_COLOURS, View, encoded, style, uri, window
from tumorfab.volume import Image, Labels, load_grid, load_on

# Colours that colour-blind readers can tell apart, also over grey images.
ARM_COLOURS = {
    "real": "#5b6470",
    "copypaste": "#6b4fa0",
    "carvemix": "#2f6fb0",
    "carvemix_published": "#5c9fd6",
    "pix2pix": "#b03a5b",
    "coarse": "#c2790a",
    "tf": "#0a7d78",
}
OUTLINE = "#ffffff"
_TILE_INCHES = 1.9
CURVE_POINTS = 80
_SHADES = ["#0a7d78", "#c2790a", "#6b4fa0", "#5b6470", "#b03a5b", "#2f6fb0"]


def paired(cases: pd.DataFrame, arms: list[str], regions: Sequence[str]) -> str:
    """One line per test case from arm to arm; one panel per region, one row per (k, n).

    `cases` has the columns arm, k, n, case, region, dice; `real` (n 0) is repeated in every row of
    its k. Returns a data URI.
    """
    settings = cases.loc[cases["arm"] != "real", ["k", "n"]]
    if settings.empty:
        settings = cases[["k", "n"]]
    rows = sorted(set(settings.itertuples(index=False, name=None)))
    with style():
        figure = Figure(figsize=(9.4, 0.5 + 2.7 * len(rows)), layout="constrained")
        grid = figure.subplots(len(rows), len(regions), squeeze=False, sharey=True)
        for axes, (k, n) in zip(grid, rows, strict=True):
            chosen = cases[(cases["k"] == k) & ((cases["n"] == n) | (cases["arm"] == "real"))]
            for panel, region in zip(axes, regions, strict=True):
                _paired_panel(panel, chosen[chosen["region"] == region], arms)
                panel.set_title(f"{region}, K = {k}, N = {n}" if n else f"{region}, K = {k}")
            axes[0].set_ylabel("Dice")
        return uri(encoded(figure, "svg"), "svg")


def _paired_panel(axes: Axes, cases: pd.DataFrame, arms: list[str]) -> None:
    table = cases.pivot(index="case", columns="arm", values="dice")
    table = table[[arm for arm in arms if arm in table]]
    x = np.arange(table.shape[1])
    for values in table.to_numpy():
        axes.plot(x, values, color="#9aa3ad", linewidth=0.9, alpha=0.7, zorder=2)
    for position, arm in zip(x, map(str, table), strict=True):
        axes.plot(
            np.full(len(table), position), table[arm], "o", markersize=5, alpha=0.8,
            color=ARM_COLOURS[arm], markeredgecolor="white", markeredgewidth=0.6, zorder=3,
        )  # fmt: skip
        spread = float(table[arm].std(ddof=1)) if len(table) > 1 else 0.0
        axes.errorbar(
            position + 0.2, table[arm].mean(), yerr=spread, fmt="_", markersize=11,
            markeredgewidth=2, elinewidth=1.2, color="#1c2126", zorder=4,
        )  # fmt: skip
    axes.set_xticks(x, table.columns)
    axes.set_xlim(-0.4, len(x) - 0.5)
    axes.set_ylim(-0.05, 1.05)
    axes.grid(visible=False, axis="x")


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
        figure = Figure(figsize=(9.4, 0.5 + 2.2 * down), layout="constrained")
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


@dataclass(frozen=True, eq=False)
class Tile:
    """One (I, J, K) image of a strip with what is drawn over it."""

    title: str
    image: Image
    labels: Labels | None = None
    outline: NDArray[np.bool_] | None = None


def strip(tiles: Sequence[Tile], view: View) -> str:
    """The same slice of several images side by side, with one grey window for all.

    Black to white are the 0.5 to 99.5 percentiles of the non-zero voxels of all slices. Returns a
    data URI.
    """
    planes = [view.of(tile.image) for tile in tiles]
    low, high = window(np.concatenate([plane.ravel() for plane in planes]))
    rows, columns = planes[0].shape
    height = _TILE_INCHES * rows * view.aspect / columns
    title = 0.24
    with style():
        figure = Figure(figsize=(_TILE_INCHES * len(tiles), height + title))
        for position, (tile, plane) in enumerate(zip(tiles, planes, strict=True)):
            share = height / (height + title)
            axes = figure.add_axes(
                (position / len(tiles) + 0.003, 0, 1 / len(tiles) - 0.006, share)
            )
            picture = np.where(plane == 0, low, plane)
            axes.imshow(
                picture, cmap="gray", vmin=low, vmax=high, aspect=view.aspect,
                interpolation="bilinear",
            )  # fmt: skip
            _overlay(axes, tile, view)
            axes.set_title(tile.title, pad=4, fontsize=8.5)
            axes.set_axis_off()
            if position == 0:
                _sides(axes)
        return uri(encoded(figure, "png"), "png")


def _overlay(axes: Axes, tile: Tile, view: View) -> None:
    if tile.labels is not None:
        plane = view.of(tile.labels)
        colours = np.zeros((*plane.shape, 4))
        for value, colour in LABEL_COLOURS.items():
            colours[plane == value] = to_rgba(colour, 0.6)
        axes.imshow(colours, aspect=view.aspect, interpolation="nearest")
    if tile.outline is not None:
        plane = view.of(tile.outline)
        if plane.any() and not plane.all():
            axes.contour(plane.astype(float), levels=[0.5], colors=OUTLINE, linewidths=0.9)


def _sides(axes: Axes) -> None:
    for x, letter in ((0.03, "R"), (0.97, "L")):
        axes.text(
            x, 0.04, letter, transform=axes.transAxes, color="white", fontsize=8, ha="center",
            va="center",
        )  # fmt: skip


def sample_strip(sidecar: Path, config: dict[str, Any]) -> dict[str, str]:
    """`picture` and `caption` of a synthetic sample: host, coarse, refined if it exists, labels."""
    record, modality = stage.read_json(sidecar), config["modalities"][0]
    host = record["host"]
    grid = load_grid(samples.dseg(sidecar))
    labels = load_on(samples.dseg(sidecar), grid, labels=True)
    files = case_files(
        Path(config["results"]) / f"sub-{host}" / "anat", host, config["space"]["label"]
    )
    healthy = load_on(str(files["image"]).format(modality), grid)
    coarse = load_on(samples.image(sidecar, modality), grid)
    tiles = [Tile(f"host, {modality}", healthy), Tile("coarse (TF-Aug)", coarse)]
    refined = samples.image(samples.refined(sidecar), modality)
    if refined.exists():
        tiles.append(Tile("refined (TF-GAN)", load_on(refined, grid)))
    tiles.append(Tile("labels", tiles[-1].image, labels))
    view = View.through(labels > 0, healthy != 0, grid.affine)
    volume = (labels > 0).sum() * grid.voxel_volume / 1000
    what = f"a tumour from {' and '.join(record['donors'])}, {volume:.1f} ml"
    what = what if labels.any() else "no tumour"
    caption = f"Host {host}, sample {record['number']}: {what}."
    return {"picture": strip(tiles, view), "caption": caption}


def prediction_strip(case: str, predicted: dict[str, Path], config: dict[str, Any]) -> str:
    """A test case: image, annotation, and per title of `predicted` the segmentation at that path.

    The annotated whole tumour is outlined on every segmentation. Returns a data URI.
    """
    modality = config["modalities"][0]
    files = case_files(
        Path(config["results"]) / f"sub-{case}" / "anat", case, config["space"]["label"]
    )
    grid = load_grid(files["dseg"])
    image = load_on(str(files["image"]).format(modality), grid)
    truth = load_on(files["dseg"], grid, labels=True)
    tiles = [Tile(modality, image), Tile("annotation", image, truth, truth > 0)]
    for title, path in predicted.items():
        tiles.append(Tile(title, image, load_on(path, grid, labels=True), truth > 0))
    return strip(tiles, View.through(truth > 0, image != 0, grid.affine))
