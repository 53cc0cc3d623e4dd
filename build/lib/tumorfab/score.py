"""Dice of a segmentation against the annotation, per case and region. Conventions live here.

Regions follow BraTS: WT (1, 2, 3), TC (1, 3), ET (3). Libraries differ on empty regions; ours:
both empty is 1 (nothing to find, nothing claimed), only one empty is 0 (missed or invented).
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorfab.stage import run, write_text
from tumorfab.volume import Labels, load_grid, load_on

REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
RUN = ["arm", "k", "n", "fold", "seed"]
COLUMNS = [*RUN, "case", "region", "dice", "volume_ml", "predicted_ml"]


def region_masks(labels: Labels) -> dict[str, NDArray[np.bool_]]:
    """Nested binary masks of a label map (0, 1 NCR, 2 ED, 3 ET), by region name."""
    return {name: np.isin(labels, values) for name, values in REGIONS.items()}


def dice(predicted: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    """Dice coefficient of two masks; 1 when both are empty, 0 when one is."""
    total = int(predicted.sum()) + int(reference.sum())
    return 2 * int((predicted & reference).sum()) / total if total else 1.0


def case_scores(
    predicted: Labels, reference: Labels, voxel_mm3: float
) -> list[dict[str, float | str]]:
    """One row per region: Dice and the volumes (ml) of annotation and prediction."""
    ours, truth = region_masks(predicted), region_masks(reference)
    return [
        {
            "region": name,
            "dice": dice(ours[name], truth[name]),
            "volume_ml": float(truth[name].sum() * voxel_mm3 / 1000),
            "predicted_ml": float(ours[name].sum() * voxel_mm3 / 1000),
        }
        for name in REGIONS
    ]


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
        for row in case_scores(masks[0], masks[1], grid.voxel_volume):
            rows.append({**{name: getattr(args, name) for name in RUN}, "case": subject, **row})
    table = pd.DataFrame(rows, columns=COLUMNS)
    write_text(args.out, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


if __name__ == "__main__":
    run(main)
