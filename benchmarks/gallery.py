"""Coarse samples of a finished study on one picture: host, sample, label, displacement in mm.

python -m benchmarks.gallery --results results --label analysis --out docs/samples.png
"""

import argparse
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap
from numpy.typing import NDArray

from tumorfab import bank, place, samples, stage
from tumorfab.draw import Draw
from tumorfab.figures import LABEL_COLOURS
from tumorfab.host import Host, load_host
from tumorfab.views import View, window
from tumorfab.volume import load_on

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLUMNS = ("host", "sample", "label", "displacement, mm")
ACROSS = 3  # samples in a row


def displacement(host: Host, rois: bank.Bank, draw: Draw, params: dict) -> NDArray[np.float32]:
    """How far (mm) the tissue at each voxel has come: three images of the coordinates are displaced
    as the host's are."""
    axes = np.indices(host.grid.shape, np.float32) * host.grid.spacing[:, None, None, None]
    ramps = {name: np.asarray(axis, np.float32) for name, axis in zip("xyz", axes, strict=True)}
    moved = place.apply(replace(host, images=ramps), rois, replace(draw, tumour_free=True), params)
    return np.sqrt(sum((moved.images[name] - ramps[name]) ** 2 for name in ramps))


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="results folder of the study")
    parser.add_argument("--label", default="analysis", help="label of the analysis space")
    parser.add_argument("--modality", default="T1w")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    sidecars = sorted(args.results.glob("fold-*/sub-*/anat/*_desc-coarse*.json"))
    chosen = [sidecars[i * len(sidecars) // args.count] for i in range(args.count)]
    rows = -(-args.count // ACROSS)
    figure, axes = plt.subplots(
        rows, 4 * ACROSS, figsize=(4 * ACROSS * 1.3, rows * 1.6), layout="constrained"
    )
    for ax in axes.flat:
        ax.axis("off")
    colours = ListedColormap([LABEL_COLOURS[value] for value in (1, 2, 3)])
    for index, sidecar in enumerate(chosen):
        record = stage.read_json(sidecar)
        subject = record["host"]
        anat = args.results / f"sub-{subject}" / "anat"
        host = load_host(subject, anat, args.label, [args.modality])
        rois = bank.load(args.results / "bank", record["donors"])
        moved = displacement(host, rois, Draw.read(record["draw"]), record["params"])
        image = load_on(samples.image(sidecar, args.modality), host.grid)
        labels = load_on(samples.dseg(sidecar), host.grid, labels=True)
        view = View.through(np.isin(labels, (1, 3)), host.brain, host.grid.affine)
        healthy = host.images[args.modality]
        low, high = window(healthy[host.brain])
        row = axes[index // ACROSS, 4 * (index % ACROSS) : 4 * (index % ACROSS) + 4]
        for ax, title in zip(row, COLUMNS, strict=True):
            if index < ACROSS:
                ax.set_title(title, fontsize=7)
        for ax, picture in zip(row, (healthy, image, image), strict=False):
            shown = np.where(view.of(host.brain), view.of(picture), low)
            ax.imshow(shown, cmap="gray", vmin=low, vmax=high, aspect=view.aspect)
        plane = np.ma.masked_equal(view.of(labels), 0)
        row[2].imshow(plane, cmap=colours, vmin=1, vmax=3, alpha=0.6, aspect=view.aspect)
        last = row[3].imshow(view.of(moved), cmap="magma", vmin=0, vmax=8, aspect=view.aspect)
    figure.colorbar(last, ax=axes, shrink=0.4, location="bottom", pad=0.01)
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
