"""What TF-GAN does to one sample: host, coarse, refined, and a real case of similar size, in three
planes through the tumour.

python -m benchmarks.refined_gallery --results results --modality T1w T2w --out docs/refined.png
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray

from benchmarks import refinement
from benchmarks.texture import Tumour
from tumorfab import samples, stage
from tumorfab.host import load_host, load_patient
from tumorfab.metrics import region_masks
from tumorfab.views import PLANES, View
from tumorfab.volume import load_grid

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLUMNS = ("host", "coarse", "refined", "real case of similar size")
SHOWN = (0.5, 99.7)  # percentiles of the coarse sample's brain: black and white, in all columns


def sizes(tumour: Tumour) -> NDArray[np.float64]:
    """Logarithms of the volumes (mm^3) of whole tumour and core."""
    masks = region_masks(tumour.labels)
    return np.log([1 + masks[name].sum() * tumour.spacing.prod() for name in ("WT", "TC")])


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="results folder of the study")
    parser.add_argument("--label", default="analysis", help="label of the analysis space")
    parser.add_argument("--modality", nargs="+", default=["T1w"])
    parser.add_argument("--sample", type=Path, help="sidecar of a refined sample; else the first")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    sidecar = args.sample or min(args.results.glob("fold-*/sub-*/anat/*_desc-tf*.json"))
    coarse = sidecar.with_name(sidecar.name.replace("_desc-tf", "_desc-coarse"))
    made, refined = (refinement.synthetic(args, path, {}) for path in (coarse, sidecar))
    record, affine = stage.read_json(sidecar), load_grid(samples.dseg(sidecar)).affine
    subject, way = record["host"], record["host_tumour"]
    where = subject, args.results / f"sub-{subject}" / "anat", args.label, args.modality
    host = load_host(*where) if way == "none" else load_patient(*where, way)
    fold = refinement.read_folds(args.results)[0]
    real = [refinement.patient(args, case) for case in (*fold.train, *fold.validation, *fold.test)]
    similar = min(real, key=lambda case: np.abs(sizes(case) - sizes(made)).sum())

    rows = [(modality, plane) for modality in args.modality for plane in PLANES]
    figure, axes = plt.subplots(
        len(rows), 4, figsize=(8, 2.1 * len(rows)), squeeze=False, layout="constrained"
    )
    for ax, title in zip(axes[0], COLUMNS, strict=True):
        ax.set_title(title, fontsize=9)
    for row, (modality, plane) in zip(axes, rows, strict=True):
        healthy = host.references[modality].relative(host.images[modality])
        low, high = np.percentile(made.images[modality][made.brain], SHOWN)
        columns = [(healthy, made)] + [(t.images[modality], t) for t in (made, refined, similar)]
        for ax, (image, tumour) in zip(row, columns, strict=True):
            view = View.through(tumour.labels > 0, tumour.brain, affine, plane)
            shown = np.where(view.of(tumour.brain), view.of(image), low)
            ax.imshow(shown, cmap="gray", vmin=low, vmax=high, aspect=view.aspect)
            if image is not healthy:
                ax.contour(view.of(tumour.labels) > 0, [0.5], colors="#f2b705", linewidths=0.5)
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"{modality}, {plane}", fontsize=8)
    figure.savefig(args.out, dpi=90)


if __name__ == "__main__":
    main()
