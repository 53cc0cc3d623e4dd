"""Does refinement bring coarse tumours nearer to real ones? Measured against patients not seen.

    python -m benchmarks.refinement --results results/my_study --out OUT

takes the coarse samples of one fold of a study (`--fold`, `--k`), trains the refiner on its
training cases once for each of `variants()`, refines the samples, and compares them with the
tumours of all other patients. Training cases against these patients (`real`) set the scale. Writes
`realism.json`
and prints a table. Repeat it with several folds and average.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import wasserstein_distance

from benchmarks import separability, texture
from benchmarks.texture import Tumour
from tumorfab import bank, config, gpu, refine, samples, stage, train_refiner
from tumorfab.contrast import near_tumour, reference
from tumorfab.roi import CLASSES
from tumorfab.volume import load_grid, load_on

# Families of features; every other feature of `texture.features` is of shape, which stays.
FAMILIES = {
    "first order": texture.FIRST_ORDER,
    "co-occurrence": texture.SECOND_ORDER,
    "sharpness": ["sharpness"],
}


def variants(modalities: list[str]) -> dict[str, dict[str, Any]]:
    """Changes of the config section `refiner`, by name."""
    found: dict[str, dict[str, Any]] = {
        "refined": {},
        "no perceptual": {"perceptual": 0.0},
        "no second head": {"classes": 0.0},
        "no content": {"content": 0.0},
    }
    return found | ({"separate modalities": {"separate": True}} if len(modalities) > 1 else {})


def patient(args: argparse.Namespace, subject: str) -> Tumour:
    """The tumours of a real case, in units of its own brain."""
    files = bank.case_files(args.results / f"sub-{subject}" / "anat", subject, args.label)
    grid = load_grid(files["dseg"])
    labels, brain, ventricles = (
        load_on(files[name], grid, labels=True) for name in ("dseg", "brain", "ventricles")
    )
    wm, near = load_on(files["WM"], grid), near_tumour(labels, grid)
    images = {}
    for modality in args.modality:
        image = load_on(str(files["image"]).format(modality), grid)
        images[modality] = reference(image, wm, brain > 0, near).relative(image)
    return Tumour(subject, subject, images, labels, brain > 0, ventricles > 0, grid.spacing)


def synthetic(args: argparse.Namespace, sidecar: Path, generators: dict[str, Any] | None) -> Tumour:
    """A coarse sample, refined by the generator of each modality, or of all ("")."""
    record = stage.read_json(sidecar)
    host = record["host"]
    files = bank.case_files(args.results / f"sub-{host}" / "anat", host, args.label)
    grid = load_grid(files["brain"])
    labels, brain, ventricles = (
        load_on(path, grid, labels=True)
        for path in (samples.dseg(sidecar), files["brain"], files["ventricles"])
    )
    images = {m: load_on(samples.image(sidecar, m), grid) for m in args.modality}
    references, native = record["reference"], samples.references(record)
    for name, generator in (generators or {}).items():
        ours = [name] if name else args.modality
        changed = refine.refine(
            generator, [images[m] for m in ours], labels, [native[m] for m in ours]
        )
        images |= dict(zip(ours, changed, strict=True))
    relative = {m: (image - references[m][0]) / references[m][1] for m, image in images.items()}
    donor = "+".join(record["donors"])
    return Tumour(donor, host, relative, labels, brain > 0, ventricles > 0, grid.spacing)


def trained(
    args: argparse.Namespace,
    train: list[str],
    coarse: list[Path],
    params: dict[str, Any],
    out: Path,
) -> dict[str, Any]:
    """Refiners trained on the coarse samples: one of all modalities (""), or one of each."""
    separate = params.pop("separate", False)
    found = {}
    for name in args.modality if separate else [""]:
        ours = [name] if name else args.modality
        folder = out / name if name else out
        train_refiner.main(
            ["--results", f"{args.results}", "--donor", *train, "--bank", f"{args.results}/bank",
             "--samples", *map(str, coarse), "--label", args.label, "--modality", *ours,
             "--seed", f"{args.seed}", "--threads", f"{args.threads}",
             "--params", json.dumps(params), "--out", f"{folder}"]
        )  # fmt: skip
        with gpu.device(args.threads) as device:
            found[name] = refine.load_generator(folder / "refiner.pt", ours, device)
    return found


def compared(found: list[Tumour], unseen: list[Tumour], seed: int) -> dict[str, float]:
    """Distances of a cohort from unseen patients, by name; less is closer.

    `wasserstein`: of the pooled intensities of a class, in units of the brain's spread; families of
    features: mean absolute difference of the means, in standard deviations between the patients;
    `auc`: a forest's that is to tell them apart by patches (`separability`), without a patient and
    a share of the hosts.
    """
    out: dict[str, float] = {}
    ours, theirs = ([texture.intensities(t) for t in cohort] for cohort in (found, unseen))
    for name in sorted({name for one in theirs for name in one}):
        pools = [[one[name] for one in cohort if name in one] for cohort in (ours, theirs)]
        if all(pools):
            out[f"wasserstein {name}"] = float(
                wasserstein_distance(*(np.concatenate(pool) for pool in pools))
            )
    tables = [pd.DataFrame([texture.features(t) for t in cohort]) for cohort in (found, unseen)]
    spread = tables[1].std()
    gap = ((tables[0].mean() - tables[1].mean()) / spread[spread > 0]).abs()
    for family, measures in FAMILIES.items():
        for place in (*CLASSES.values(), "WT", "TC"):
            keep = [n for n in gap.index if f" {place} " in n and n.split()[-1] in measures]
            if len(value := gap[keep].dropna()):
                out[f"{family} {place}"] = float(value.mean())
    out |= {f"auc {zone}": value for zone, value in _aucs(found, unseen, seed)}
    return out


def _aucs(found: list[Tumour], unseen: list[Tumour], seed: int) -> Iterator[tuple[str, float]]:
    group = np.array([*range(len(unseen)), *(i % len(unseen) for i in range(len(found)))])
    tables = [
        [separability.patches(t, stage.rng(seed, "patches", t.donor, t.host)) for t in cohort]
        for cohort in (unseen, found)
    ]
    for zone in ("boundary", "inside", "outside", "all but far"):
        values = separability.aucs(*tables, group.astype(np.int32), zone)
        if len(values):
            yield zone, float(values.mean())


def summary(distances: dict[str, dict[str, float]]) -> pd.DataFrame:
    """One row per metric, one column per cohort; the mean over metrics of the ratio to coarse."""
    table = pd.DataFrame(distances)
    ratio = table.drop(columns="coarse").div(table["coarse"], axis=0).mean()
    return pd.concat([table, pd.DataFrame({"mean of ratios to coarse": ratio}).T])


def cases(results: Path, fold: int, k: int) -> tuple[list[str], list[str]]:
    """Training cases of a set of samples, and all other patients."""
    subjects = pd.read_csv(results / "cohort" / "subjects.tsv", sep="\t", dtype=str)
    every = subjects.loc[subjects["cohort"] == "annotated", "subject"].tolist()
    made = sorted((results / f"fold-{fold}_k-{k}").glob("sub-*/anat/*_desc-coarse*.json"))
    used = sorted({donor for sidecar in made for donor in stage.read_json(sidecar)["donors"]})
    return used, [case for case in every if case not in used]


def main() -> None:
    """Train, refine, compare, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="results folder of the study")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--label", default="analysis", help="label of the analysis space")
    parser.add_argument("--modality", nargs="+", default=["T1w"])
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--params", type=json.loads, default={}, help="changes of `refiner`, JSON")
    parser.add_argument("--only", nargs="+", help="these variants")
    args = parser.parse_args()
    train, unseen = cases(args.results, args.fold, args.k)
    found = args.results / f"fold-{args.fold}_k-{args.k}"
    sidecars = sorted(found.glob("sub-*/anat/*_desc-coarse*.json"))
    patients = [patient(args, case) for case in unseen]
    distances = {
        "real": compared([patient(args, case) for case in train], patients, args.seed),
        "coarse": compared([synthetic(args, s, None) for s in sidecars], patients, args.seed),
    }
    seconds: dict[str, float] = {}
    settings = config.validated({})["refiner"] | args.params
    for name, changes in variants(args.modality).items():
        if args.only and name not in args.only:
            continue
        start = time.perf_counter()
        folder = args.out / name.replace(" ", "_")
        generators = trained(args, train, sidecars, settings | changes, folder)
        seconds[name] = time.perf_counter() - start
        refined = [synthetic(args, sidecar, generators) for sidecar in sidecars]
        distances[name] = compared(refined, patients, args.seed)
    record = {
        "distances": distances,
        "n": {"real": len(train), "synthetic": len(sidecars), "unseen": len(unseen)},
        "unseen": unseen,
        "training_seconds": seconds,
        "refiner": settings,
    }
    stage.write_json(args.out / "realism.json", record)
    print(summary(distances).round(3).to_string())


if __name__ == "__main__":
    stage.run(lambda argv: main())
