"""Do synthetic tumours carry the labels that they say? Asked of networks that saw real cases only.

    python -m benchmarks.fidelity --results results/study_4mod_2mm --refined OUT

after `benchmarks.refinement`, whose refiners in `OUT` are used. In every fold a segmentor
is trained on the real training cases alone. Its Dice on the patients who were left out is its
cross-validated Dice; that on the fold's coarse and refined samples should lie in the same band.
Writes `fidelity.csv` to `OUT` and prints means and ranges over folds.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import refinement
from tumorfab import bank, checkpoint, config, gpu, metrics, refine, samples, segment, stage
from tumorfab.networks import settled
from tumorfab.plan import Fold
from tumorfab.volume import Image, Labels, load_grid, load_on


def fold_rows(args: argparse.Namespace, number: int, fold: Fold) -> Iterator[dict[str, Any]]:
    """Dice by region of the left-out patients and of the fold's samples, a row each."""
    out = args.refined / f"fold-{number}"
    segment.main(
        ["--results", f"{args.results}", "--train", *fold.train, "--test", *fold.test,
         "--label", args.label, "--modality", *args.modality, "--seed", f"{args.seed}",
         "--threads", f"{args.threads}", "--params", json.dumps(args.segment),
         "--out", f"{out / 'segmentor'}"]
    )  # fmt: skip
    left_out = [
        bank.case_files(args.results / f"sub-{subject}" / "anat", subject, args.label)
        for subject in fold.test
    ]
    grid = load_grid(left_out[0]["dseg"])
    with gpu.device(args.threads) as device:
        path = out / "segmentor" / "model.pt"
        content = checkpoint.load_model(path, "segmentor", args.modality, grid.spacing)
        network = segment.new_network(len(args.modality), content["channels"])
        network.load_state_dict(content["weights"])
        network = settled(network, device)
        generator = refine.load_generator(
            out / "refined" / "refiner.pt", args.modality, grid.spacing, device
        )

        def row(kind: str, name: str, images: list[Image], labels: Labels) -> dict[str, Any]:
            brain = np.stack([segment.standardised(image) for image in images])
            found = segment.predict(network, brain, args.segment["patch"])
            dice = metrics.region_dice(found, labels)
            return {"fold": number, "kind": kind, "case": name} | dice

        def loaded(paths: list[Path]) -> list[Image]:
            return [load_on(path, grid) for path in paths]

        for subject, files in zip(fold.test, left_out, strict=True):
            truth = load_on(files["dseg"], grid, labels=True)
            own = loaded([Path(str(files["image"]).format(m)) for m in args.modality])
            yield row("real", subject, own, truth)
        for sidecar in refinement.coarse_samples(args, number, fold)[:: refinement.EVERY]:
            record = stage.read_json(sidecar)
            labels = load_on(samples.dseg(sidecar), grid, labels=True)
            images = loaded([samples.image(sidecar, m) for m in args.modality])
            yield row("coarse", sidecar.stem, images, labels)
            pairs = [record["reference"][m] for m in args.modality]
            contrasts = samples.contrasts(record, args.modality)
            changed = refine.refine(generator, images, labels, pairs, contrasts, grid.spacing)
            yield row("refined", sidecar.stem, changed, labels)


def main() -> None:
    """Train, segment, score; then write and print."""
    parser = refinement.arguments(__doc__.splitlines()[0], "segment")
    parser.add_argument("--refined", type=Path, required=True, help="--out of the refinement")
    args = parser.parse_args()
    args.segment = config.validated({})["segment"] | args.params
    tables = []
    for number, fold in enumerate(refinement.read_folds(args.results)):
        kept = args.refined / f"fold-{number}" / "fidelity.csv"
        if args.fold is not None and number not in args.fold:
            continue
        if not kept.exists():
            table = pd.DataFrame(fold_rows(args, number, fold))
            stage.write_text(kept, table.to_csv(index=False))
        tables.append(pd.read_csv(kept))
    if args.fold is not None:
        return
    table = pd.concat(tables)
    stage.write_text(args.refined / "fidelity.csv", table.to_csv(index=False))
    by_fold = table.groupby(["kind", "fold"])[list(metrics.REGIONS)].mean()
    print(by_fold.groupby("kind").agg(["mean", "std", "min", "max"]).round(3).to_string())


if __name__ == "__main__":
    stage.run(lambda argv: main())
