"""Which step of TF-Aug helps on real, unseen patients? The same network, trained on the same cases,
with samples that lack one step each.

    python -m benchmarks.ablation --results results/my_study --out OUT [--only real coarse ...]

takes a study's standardised scans, halves its annotated cases at random, and for each half, each
of `variants()` and each repetition makes one sample in every host, trains the downstream network
and segments the other half. Writes `ablation.csv`, a row per case and region, as it goes: a run
that was cut off goes on. Prints mean Dice and the ratio of predicted to annotated volume.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tumorfab import bank, config, metrics, place, segment, stage
from tumorfab.volume import load_grid, load_on


def variants() -> dict[str, dict[str, Any] | None]:
    """Changes of the config section `place`, by name; None trains without samples."""
    return {
        "real": None,
        "coarse": {},
        "no mass effect": {"mass_effect": [0.0, 0.0]},
        "donor's oedema": {"oedema": "donor"},
        "one donor": {"partner": 0.0, "look": 0.0},
        "shape as it is": {"partner": 0.0, "warp_mm": 0.0, "grow_mm": [0.0, 0.0]},
        "some tumour-free": {"tumour_free": 0.25},
    }


def samples(
    args: argparse.Namespace, name: str, changes: dict[str, Any], fold: int, donors: list[str]
) -> list[Path]:
    """Sidecars of one sample in every host."""
    params = config.validated({})["place"] | changes
    found = []
    for anat in sorted(args.results.glob("sub-*/anat")):
        host = anat.parent.name.removeprefix("sub-")
        if host in args.hosts:
            out = args.out / name.replace(" ", "_") / f"fold-{fold}" / f"sub-{host}"
            if not list(out.glob("*.json")):
                place.main(
                    ["--host", host, "--anat", f"{anat}", "--bank", f"{args.out}/bank",
                     "--donor", *donors, "--draws", "1", "--label", args.label,
                     "--modality", *args.modality, "--seed", f"{args.seed}",
                     "--params", json.dumps(params), "--out", f"{out}"]
                )  # fmt: skip
            found += sorted(out.glob("*.json"))
    return found


def scores(
    args: argparse.Namespace, sidecars: list[Path], train: list[str], test: list[str], repeat: int
) -> pd.DataFrame:
    """Dice and volume ratio of one training, a row per test case and region."""
    run = args.out / "run"
    segment.main(
        ["--results", f"{args.results}", "--train", *train, "--test", *test,
         "--samples", *map(str, sidecars), "--label", args.label, "--modality", *args.modality,
         "--seed", f"{args.seed}", "--repeat", f"{repeat}", "--threads", f"{args.threads}",
         "--params", json.dumps(args.params), "--out", f"{run}"]
    )  # fmt: skip
    rows = []
    for case in test:
        dseg = bank.case_files(args.results / f"sub-{case}" / "anat", case, args.label)["dseg"]
        grid = load_grid(dseg)
        theirs = metrics.region_masks(load_on(dseg, grid, labels=True))
        path = run / f"sub-{case}_space-{args.label}_desc-pred_dseg.nii.gz"
        ours = metrics.region_masks(load_on(path, grid, labels=True))
        for region, truth in theirs.items():
            found = int(np.count_nonzero(ours[region]))
            both, size = int(np.count_nonzero(ours[region] & truth)), int(np.count_nonzero(truth))
            dice = 2 * both / (found + size) if found + size else 1.0
            row = {"case": case, "region": region, "dice": dice}
            rows.append(row | {"volume_ratio": found / max(size, 1)})
    return pd.DataFrame(rows)


def main() -> None:
    """Make, train, segment, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="results folder of the study")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--label", default="analysis", help="label of the analysis space")
    parser.add_argument("--modality", nargs="+", default=["T1w"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--params", type=json.loads, default={}, help="changes of `segment`, JSON")
    parser.add_argument("--only", nargs="+", default=list(variants()), help="these variants")
    args = parser.parse_args()
    args.params = config.validated({})["segment"] | args.params
    table = pd.read_csv(args.results / "cohort" / "subjects.tsv", sep="\t", dtype=str)
    args.hosts = set(table.loc[table["cohort"] == "healthy", "subject"])
    cases = table.loc[table["cohort"] == "annotated", "subject"].tolist()
    named = [part for case in cases for part in ("--case", case, "unknown")]
    bank.main([*named, "--results", f"{args.results}", "--label", args.label,
               "--modality", *args.modality, "--out", f"{args.out}/bank"])  # fmt: skip
    order = stage.rng(args.seed, "halves").permutation(len(cases))
    halves = [[cases[i] for i in order[part::2]] for part in (0, 1)]
    path = args.out / "ablation.csv"
    found = pd.read_csv(path, dtype={"case": str}) if path.exists() else pd.DataFrame()
    for repeat in range(args.repeats):
        for fold, (train, test) in enumerate((halves, halves[::-1])):
            for name in args.only:
                key = {"variant": name, "fold": fold, "repeat": repeat}
                if len(found) and (found[list(key)] == pd.Series(key)).all(axis=1).any():
                    continue
                changes = variants()[name]
                made = [] if changes is None else samples(args, name, changes, fold, train)
                rows = scores(args, made, train, test, repeat).assign(**key)
                found = pd.concat([found, rows], ignore_index=True)
                stage.write_text(path, found.to_csv(index=False))
    mean = found.groupby(["variant", "region"], sort=False)[["dice", "volume_ratio"]].mean()
    print(mean.round(3).unstack("region").to_string())


if __name__ == "__main__":
    stage.run(lambda argv: main())
