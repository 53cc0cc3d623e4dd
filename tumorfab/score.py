"""Metrics of a segmentation against the annotation, per case and region; conventions: `metrics.py`.

No part of it needs torch.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorfab.lesions import lesion_scores
from tumorfab.metrics import dice, region_masks
from tumorfab.stage import run, write_text
from tumorfab.surface import surface_scores
from tumorfab.volume import Labels, load_grid, load_on

RUN = ["arm", "k", "n", "fold", "seed"]
LESIONS = ["lesions", "lesions_found", "lesions_false"]
METRICS = ["dice", "hd95_mm", "nsd_2mm", "lesion_dice", "sensitivity"]
COLUMNS = [*RUN, "case", "region", *METRICS, *LESIONS, "volume_ml", "predicted_ml"]


def region_scores(
    predicted: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: NDArray[np.float64]
) -> dict[str, float]:
    """Every metric of two (I, J, K) masks, and the volumes (ml) of annotation and prediction.

    `spacing` in mm. Sensitivity is the share of annotated voxels that are found, NaN without any.
    """
    ml = float(np.prod(spacing)) / 1000
    annotated = int(reference.sum())
    hd95, nsd = surface_scores(predicted, reference, spacing)
    lesions = lesion_scores(predicted, reference, spacing)
    hit = int((predicted & reference).sum())
    return {
        "dice": dice(predicted, reference),
        "hd95_mm": hd95,
        "nsd_2mm": nsd,
        "lesion_dice": lesions.dice,
        "sensitivity": hit / annotated if annotated else float("nan"),
        "lesions": lesions.judged,
        "lesions_found": lesions.found,
        "lesions_false": lesions.false,
        "volume_ml": annotated * ml,
        "predicted_ml": float(predicted.sum()) * ml,
    }


def case_scores(
    predicted: Labels, reference: Labels, spacing: NDArray[np.float64]
) -> list[dict[str, float | str]]:
    """One row per region of two (I, J, K) label maps; `spacing` in mm."""
    ours, truth = region_masks(predicted), region_masks(reference)
    return [{"region": name, **region_scores(ours[name], truth[name], spacing)} for name in truth]


def main(argv: list[str] | None = None) -> None:
    """Command line of the stage: score every test case of one run."""
    parser = argparse.ArgumentParser(prog="tumorfab score", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--case",
        nargs=3,
        action="append",
        required=True,
        metavar=("SUBJECT", "PREDICTED", "ANNOTATED"),
        help="repeat for each test case",
    )
    for name in RUN:
        parser.add_argument(f"--{name}", required=True, help="of the run, written to every row")
    parser.add_argument("--out", type=Path, required=True, help="CSV to write")
    args = parser.parse_args(argv)
    rows = []
    for subject, predicted, annotated in args.case:
        grid = load_grid(annotated)
        masks = [load_on(path, grid, labels=True) for path in (predicted, annotated)]
        for row in case_scores(masks[0], masks[1], grid.spacing):
            rows.append({**{name: getattr(args, name) for name in RUN}, "case": subject, **row})
    table = pd.DataFrame(rows, columns=COLUMNS)
    write_text(args.out, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


if __name__ == "__main__":
    run(main)
