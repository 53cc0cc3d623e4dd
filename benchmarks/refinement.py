"""Does refinement bring coarse tumours nearer to real ones? Measured on patients who were left out.

    python -m benchmarks.refinement --results results/study_t1_2mm --modality T1w --out OUT

takes the coarse samples of a study and in every fold trains the refiner on its training cases, once
for each of `variants()`, refines the samples, and compares coarse and refined ones with the
patients who were left out. The training cases against these (`real`) set the scale. Refiners and
measures are kept in `--out`, so that a second run goes on; when all folds are there, writes
`realism.json` and prints tables.
"""

import argparse
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.stats import wasserstein_distance

from benchmarks import realism, separability, texture
from benchmarks.realism import Measured
from benchmarks.texture import Tumour
from tumorfab import bank, config, gpu, plan, refine, samples, stage, train_refiner
from tumorfab.contrast import near_tumour, reference
from tumorfab.judge import AROUND_MM
from tumorfab.plan import Fold
from tumorfab.roi import CLASSES, signed_distance
from tumorfab.volume import load_grid, load_on

# Families of features and where they are taken; those of shape and site are not the refiner's.
FAMILIES = {
    "first order": (texture.FIRST_ORDER, (*CLASSES.values(), "around")),
    "co-occurrence": (texture.SECOND_ORDER, (*CLASSES.values(), "around")),
    "sharpness": (("sharpness",), ("WT", "TC")),
    "gradient": (("gradient",), ("around",)),
}
ZONES = ("boundary", "inside", "outside", "all but far")
EVERY = 2  # one in so many samples is measured; all are trained on


def variants(modalities: list[str]) -> dict[str, dict[str, Any]]:
    """Changes of the config section `refiner`, by name."""
    found: dict[str, dict[str, Any]] = {
        "refined": {},
        "no perceptual": {"perceptual": 0.0},
        "no second head": {"classes": 0.0},
        "no real/fake head": {"adversarial": 0.0},
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


def synthetic(args: argparse.Namespace, sidecar: Path, generators: dict[str, Any]) -> Tumour:
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
    references = record["reference"]
    for name, generator in generators.items():
        ours = [name] if name else args.modality
        coarse, pairs = [images[m] for m in ours], [references[m] for m in ours]
        contrasts = samples.contrasts(record, ours)
        changed = refine.refine(generator, coarse, labels, pairs, contrasts, grid.spacing)
        images |= dict(zip(ours, changed, strict=True))
    relative = {m: (image - references[m][0]) / references[m][1] for m, image in images.items()}
    donor = "+".join(record["donors"])
    return Tumour(donor, host, relative, labels, brain > 0, ventricles > 0, grid.spacing)


def measured(tumour: Tumour, seed: int) -> Measured:
    """What `realism` measures, and the look of the tissue within 8 mm around the tumour; its
    gradient is in units of that far from it."""
    found = realism.measured(tumour, seed)
    depth = signed_distance(tumour.labels > 0, tumour.spacing)
    safe = ndimage.binary_erosion(tumour.brain, iterations=2)
    around, far = safe & (depth > 0) & (depth < AROUND_MM), texture.distant(tumour)
    features = dict(found.features)
    for modality, image in tumour.images.items():
        look = texture.first_order(image[around]) | texture.cooccurrence(image, around)
        slope = texture.gradient(image, tumour.spacing)
        look["gradient"] = float(np.log(slope[around].mean() / slope[far].mean()))
        features |= {f"{modality} around {name}": value for name, value in look.items()}
    return replace(found, features=features)


def trained(
    args: argparse.Namespace,
    train: list[str],
    coarse: list[Path],
    params: dict[str, Any],
    out: Path,
) -> dict[str, Any]:
    """Refiners trained on the coarse samples, or found in `out`: one of all modalities (""), or
    one of each."""
    separate = params.pop("separate", False)
    found = {}
    for name in args.modality if separate else [""]:
        ours = [name] if name else args.modality
        folder = out / name if name else out
        if not (folder / "refiner.pt").exists():
            train_refiner.main(
                ["--results", f"{args.results}", "--donor", *train,
                 "--bank", f"{args.results}/bank", "--samples", *map(str, coarse),
                 "--label", args.label, "--modality", *ours, "--seed", f"{args.seed}",
                 "--threads", f"{args.threads}", "--params", json.dumps(params),
                 "--out", f"{folder}"]
            )  # fmt: skip
        spacing = load_grid(samples.dseg(coarse[0])).spacing
        with gpu.device(args.threads) as device:
            found[name] = refine.load_generator(folder / "refiner.pt", ours, spacing, device)
    return found


def coarse_samples(args: argparse.Namespace, number: int, fold: Fold) -> list[Path]:
    """Sidecars of the coarse samples that a fold's training cases gave."""
    folder = args.results / f"fold-{number}_k-{len(fold.train)}"
    return sorted(folder.glob("sub-*/anat/*_desc-coarse*.json"))


def lessons(args: argparse.Namespace, number: int, fold: Fold) -> list[Path]:
    """Sidecars of what a fold's refiner learns from; without lessons the study's samples."""
    folder = args.results / f"fold-{number}_k-{len(fold.train)}" / "refiner"
    found = sorted(folder.glob("sub-*/anat/*_desc-coarse*.json"))
    return found or coarse_samples(args, number, fold)


def cohort(args: argparse.Namespace, number: int, fold: Fold, name: str) -> list[Measured]:
    """The samples of a fold, coarse or refined by a variant, measured; from `--out` if there."""
    kept = args.out / f"fold-{number}" / name.replace(" ", "_").replace("/", "_")
    if not (kept / "measured.pkl").exists():
        sidecars, generators = coarse_samples(args, number, fold), {}
        if name != "coarse":
            params = args.refiner | variants(args.modality)[name]
            generators = trained(args, fold.train, lessons(args, number, fold), params, kept)
        tumours = (synthetic(args, sidecar, generators) for sidecar in sidecars[::EVERY])
        found = [measured(tumour, args.seed) for tumour in tumours]
        with stage.atomic(kept / "measured.pkl") as temporary:
            temporary.write_bytes(pickle.dumps(found))
    return list(pickle.loads((kept / "measured.pkl").read_bytes()))


def distances(
    found: list[Measured], train: list[Measured], unseen: list[Measured], spread: pd.Series
) -> dict[str, float]:
    """Distances of a cohort from patients who were left out, by name; less is closer.

    `wasserstein`: of the pooled intensities of a class, in units of the brain's spread; families of
    features: mean absolute `differences`; `auc`: how well a forest that was trained on the
    `train`ing cases and half of the cohort's hosts tells these patients from the other half.
    """
    out: dict[str, float] = {}
    for name in sorted({name for one in unseen for name in one.intensities}):
        pools = [
            [one.intensities[name] for one in cohort if name in one.intensities]
            for cohort in (found, unseen)
        ]
        if all(pools):
            out[f"wasserstein {name}"] = float(wasserstein_distance(*map(np.concatenate, pools)))
    out |= families(differences(found, unseen, spread).abs())
    hosts = sorted({one.host for one in found})
    halves = [[one for one in found if hosts.index(one.host) % 2 == half] for half in (0, 1)]
    real = [*train, *unseen]
    for zone in ZONES:
        # Two rounds: each half of the hosts is asked about once.
        areas: list[float] = []
        for asked, learned in (halves, halves[::-1]):
            made = [*learned, *asked]
            group = np.repeat([1, 0, 1, 0], [len(train), len(unseen), len(learned), len(asked)])
            tables = [one.patches for one in real], [one.patches for one in made]
            areas += separability.aucs(*tables, group.astype(np.int32), zone, asked=[0]).tolist()
        out[f"auc {zone}"] = float(np.mean(areas))
    return out


def differences(found: list[Measured], unseen: list[Measured], spread: pd.Series) -> pd.Series:
    """Mean of a cohort less that of patients who were left out, per feature, with its sign, in
    standard deviations between patients (`spread`)."""
    ours, theirs = (pd.DataFrame([one.features for one in cohort]) for cohort in (found, unseen))
    return ((ours.mean() - theirs.mean()) / spread[spread > 0]).dropna()


def families(features: pd.Series) -> dict[str, float]:
    """Mean of the values of each family of features and place."""
    out = {}
    for family, (measures, places) in FAMILIES.items():
        for place in places:
            keep = [n for n in features.index if f" {place} " in n and n.split()[-1] in measures]
            if keep:
                out[f"{family} {place}"] = float(features[keep].mean())
    return out


def compared(
    real: dict[str, Measured], made: dict[str, list[list[Measured]]], folds: list[Fold]
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """By cohort the `distances`, a row per metric and a column per fold; and the `systematic`
    ones, a row per family and a column per cohort. The cohort `real` are the training cases.

    A distance holds what the few patients who were left out happen to differ by, whatever is
    compared with them. Over folds this cancels where differences are averaged with their sign
    before their size is taken: what is left is systematic, and 0 for the training cases.
    """
    spread = pd.DataFrame([one.features for one in real.values()]).std()
    apart: dict[str, dict[str, dict[str, float]]] = {name: {} for name in ("real", *made)}
    signed: dict[str, list[pd.Series]] = {name: [] for name in made}
    for number, fold in enumerate(folds):
        unseen, train = ([real[case] for case in cases] for cases in (fold.test, fold.train))
        for name, cohorts in made.items():
            apart[name][f"fold {number}"] = distances(cohorts[number], train, unseen, spread)
            signed[name].append(differences(cohorts[number], unseen, spread))
        theirs = distances(train, train, unseen, spread)
        apart["real"][f"fold {number}"] = {k: v for k, v in theirs.items() if "auc" not in k}
    systematic = {n: families(pd.DataFrame(s).mean().abs()) for n, s in signed.items()}
    return {name: pd.DataFrame(columns) for name, columns in apart.items()}, pd.DataFrame(
        systematic
    )


def ratios(found: dict[str, pd.DataFrame], name: str) -> dict[str, Any]:
    """How much farther than coarse samples a cohort is: the geometric mean over metrics of the
    ratio of distances, on the whole and by fold, and how many metrics are nearer on average."""
    table = np.log(found[name] / found["coarse"]).dropna()
    ours, coarse = (found[cohort].loc[table.index].mean(axis=1) for cohort in (name, "coarse"))
    nearer = ours < coarse
    return {
        "ratio": float(np.exp(table.mean().mean())),
        "by_fold": {fold: float(value) for fold, value in np.exp(table.mean()).items()},
        "metrics_nearer": [int(nearer.sum()), len(nearer)],
    }


def arguments(description: str, section: str) -> argparse.ArgumentParser:
    """What benchmarks of the refiner are asked with; `--params` changes a config section."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--results", type=Path, required=True, help="results folder of the study")
    parser.add_argument("--label", default="analysis", help="label of the analysis space")
    parser.add_argument("--modality", nargs="+", default=["T1w", "T1c", "T2w", "FLAIR"])
    parser.add_argument("--fold", nargs="+", type=int, help="measure these folds only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--params", type=json.loads, default={}, help=f"changes of `{section}`, JSON"
    )
    return parser


def read_folds(results: Path) -> list[Fold]:
    """The folds of a study."""
    return plan.folds(pd.read_csv(results / "cohort" / "subjects.tsv", sep="\t", dtype=str))


def main() -> None:
    """Train, refine, measure; then compare, write and print."""
    parser = arguments(__doc__.splitlines()[0], "refiner")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", help="these variants")
    args = parser.parse_args()
    args.refiner = config.validated({})["refiner"] | args.params
    folds = read_folds(args.results)
    names = ["coarse", *(args.only or variants(args.modality))]
    made: dict[str, list[list[Measured]]] = {name: [] for name in names}
    for number, fold in enumerate(folds):
        if args.fold is None or number in args.fold:
            for name in names:
                made[name].append(cohort(args, number, fold, name))
    if args.fold is not None:
        return
    cases = sorted({case for fold in folds for case in (*fold.train, *fold.test)})
    real = {case: measured(patient(args, case), args.seed) for case in cases}
    found, systematic = compared(real, made, folds)
    table = pd.DataFrame({name: values.mean(axis=1) for name, values in found.items()})
    against = {name: ratios(found, name) for name in found if name != "coarse"}
    record = {
        "distances": {metric: row.dropna().to_dict() for metric, row in table.iterrows()},
        "systematic": systematic.T.to_dict(),
        "against_coarse": against,
        "by_fold": {name: values.T.to_dict("index") for name, values in found.items()},
        "n": {
            "folds": len(folds),
            "patients": len(cases),
            "synthetic": sum(map(len, made["coarse"])),
        },
        "refiner": args.refiner,
    }
    stage.write_json(args.out / "realism.json", record)
    print(table.round(3).to_string(), systematic.round(3).to_string(), sep="\n\n")
    print(pd.DataFrame(against).T.to_string())


if __name__ == "__main__":
    stage.run(lambda argv: main())
