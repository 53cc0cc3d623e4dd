"""Dice of a segmentation against the annotation, per case and region (`metrics.py`)."""

import argparse
from pathlib import Path

import pandas as pd

from tumorfab.metrics import case_scores
from tumorfab.stage import run, write_text
from tumorfab.volume import load_grid, load_on

RUN = ["arm", "k", "n", "fold", "seed"]
COLUMNS = [*RUN, "case", "region", "dice", "volume_ml", "predicted_ml"]


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
