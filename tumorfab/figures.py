"""Pictures of the report: slices of cases and samples, as PNG data URIs. Charts: `charts.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tumorfab import samples, stage
from tumorfab.bank import case_files
from tumorfab.views import LABEL_COLOURS, View, encoded, style, uri, window
from tumorfab.volume import Image, Labels, load_grid, load_on

OUTLINE = "#ffffff"
_TILE_INCHES = 1.9


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
