"""What TF-GAN does to one sample: host, coarse, refined, and a real case of similar size, in three
planes through the tumour.

python -m benchmarks.refined_gallery --results results --modality T1w T2w --out docs/refined.png
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

from tumorfab import bank, samples, stage
from tumorfab.contrast import near_tumour, reference
from tumorfab.host import load_host, load_patient
from tumorfab.metrics import region_masks
from tumorfab.views import PLANES, View
from tumorfab.volume import Grid, Image, Labels, load_grid, load_on

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLUMNS = ("host", "coarse", "refined", "real case of similar size")
SHOWN = (0.5, 99.7)  # percentiles of the coarse sample's brain: black and white, in all columns


def case(
    results: Path, subject: str, label: str, modality: str
) -> tuple[Image, Labels, Labels, Grid]:
    """A real case: tissue-relative image, labels, brain and grid."""
    files = bank.case_files(results / f"sub-{subject}" / "anat", subject, label)
    grid = load_grid(files["dseg"])
    labels, brain = (load_on(files[name], grid, labels=True) for name in ("dseg", "brain"))
    image = load_on(str(files["image"]).format(modality), grid)
    found = reference(image, load_on(files["WM"], grid), brain > 0, near_tumour(labels, grid))
    return found.relative(image), labels, brain, grid


def sizes(labels: Labels, grid: Grid) -> np.ndarray:
    """Logarithms of the volumes (mm^3) of whole tumour and core."""
    masks = region_masks(labels)
    return np.log([1 + masks[name].sum() * grid.spacing.prod() for name in ("WT", "TC")])


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="results folder of the study")
    parser.add_argument("--label", default="analysis", help="label of the analysis space")
    parser.add_argument("--modality", nargs="+", default=["T1w"])
    parser.add_argument("--sample", type=Path, help="sidecar of a refined sample; else the first")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    refined = args.sample or min(args.results.glob("fold-*/sub-*/anat/*_desc-tf*.json"))
    record = stage.read_json(refined)
    where = record["host"], args.results / f"sub-{record['host']}" / "anat", args.label
    way = record["host_tumour"]
    load = load_host(*where, args.modality) if way == "none" else None
    host = load or load_patient(*where, args.modality, way)
    labels = load_on(samples.dseg(refined), host.grid, labels=True)
    coarse = refined.with_name(refined.name.replace("_desc-tf", "_desc-coarse"))
    subjects = pd.read_csv(args.results / "cohort" / "subjects.tsv", sep="\t", dtype=str)
    real = subjects.loc[subjects["cohort"] == "annotated", "subject"]

    rows = [(modality, plane) for modality in args.modality for plane in PLANES]
    figure, axes = plt.subplots(
        len(rows), 4, figsize=(8, 2.1 * len(rows)), squeeze=False, layout="constrained"
    )
    for ax, title in zip(axes[0], COLUMNS, strict=True):
        ax.set_title(title, fontsize=9)
    for row, (modality, plane) in zip(axes, rows, strict=True):
        centre, scale = record["reference"][modality]
        made = [load_on(samples.image(s, modality), host.grid) for s in (coarse, refined)]
        ours = [(image - centre) / scale for image in (host.images[modality], *made)]
        low, high = np.percentile(ours[1][host.brain], SHOWN)
        cases = [case(args.results, subject, args.label, modality) for subject in real]
        own = sizes(labels, host.grid)
        theirs = min(cases, key=lambda found: np.abs(sizes(found[1], found[3]) - own).sum())
        views = [(image, labels, host.brain, host.grid) for image in ours] + [theirs]
        for column, (ax, (image, tumour, brain, grid)) in enumerate(zip(row, views, strict=True)):
            view = View.through(tumour > 0, brain > 0, grid.affine, plane)
            shown = np.where(view.of(brain > 0), view.of(image), low)
            ax.imshow(shown, cmap="gray", vmin=low, vmax=high, aspect=view.aspect)
            if column:
                ax.contour(view.of(tumour) > 0, [0.5], colors="#f2b705", linewidths=0.5)
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"{modality}, {plane}", fontsize=8)
    figure.savefig(args.out, dpi=90)


if __name__ == "__main__":
    main()
