"""How real do coarse synthetic tumours look? Measured against real ones, patient by patient.

    python -m benchmarks.realism --data ../shared/data --out FOLDER

prepares the study's scans with its own workflow (kept in `--out`, so that a second run starts
there), makes one synthetic tumour for each of `pairs` with each of `variants()`, and writes to
`--out`: `tumours.csv`, the measures of every tumour; `features.csv` and `intensities.csv`, the
comparisons; `realism.json`, these and the classifier's. Tables are printed as Markdown.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks import cohorts, separability, texture
from benchmarks.study import STUDY, Study, load, prepared, real_tumour
from benchmarks.texture import Tumour
from tumorfab import bank, config, place, stage
from tumorfab.bank import Bank
from tumorfab.draw import MisfitError
from tumorfab.host import Host
from tumorfab.stage import InputError
from tumorfab.stats import bootstrap


def variants() -> dict[str, dict[str, Any]]:
    """Settings of the `place` section by name, each with one step of the synthesis more."""
    defaults = config.validated({})["place"] | {"site_mni_mm": [], "tries": 500}
    params = defaults | {"contrast": [1.0, 1.0]}
    steps = {"edge_mm": 0.0, "oedema": "donor", "mass_effect": [0.0, 0.0]}
    return {
        "pasted": params | steps,
        "+ seam treatment": params | {key: steps[key] for key in ("oedema", "mass_effect")},
        "+ infiltrative oedema": params | {"mass_effect": steps["mass_effect"]},
        "+ mass effect": params,
        "+ contrast": defaults,
    }


def synthesise(host: Host, rois: Bank, params: dict[str, Any], seed: int) -> Tumour:
    """One synthetic tumour in `host`, whose donor is the first of `rois`, with its largest tumour.

    Raises `InputError` when no draw fits.
    """
    name, about = next(iter(rois.about.items()))
    rng = stage.rng(seed, "realism", host.subject, name)
    try:
        made = place.make(rng, host, rois, params | {"donor": name}).made
    except MisfitError as reason:
        raise InputError(f"{name} in sub-{host.subject}: {reason}; try another --seed") from None
    relative = {m: made.references[m].relative(image) for m, image in made.images.items()}
    place_ = made.brain, made.ventricles, made.grid.spacing
    return Tumour(about["donor"], host.subject, relative, made.labels, *place_)


def pairs(hosts: list[str], cases: list[str]) -> list[tuple[str, str]]:
    """(host, donor) such that every host and every case is in one, hosts that are cases with their
    own tumour; few of them hang together, so that a donor with its hosts can be left out."""
    donors = sorted(cases, key=lambda case: hosts.index(case) if case in hosts else len(hosts))
    count = max(len(hosts), len(donors))
    return [(hosts[i % len(hosts)], donors[i % len(donors)]) for i in range(count)]


def synthetic_tumour(
    study: Study, params: dict[str, Any], seed: int, pair: tuple[str, str]
) -> Tumour:
    """A tumour of a donor in a host; `pair` is (host, donor)."""
    host, donor = pair
    return synthesise(load(study, host), bank.load(study.out / "bank", [donor]), params, seed)


@dataclass(frozen=True, eq=False)
class Measured:
    """Everything that is kept of one tumour."""

    donor: str
    host: str
    features: dict[str, float]
    intensities: dict[str, NDArray[np.float64]]
    patches: pd.DataFrame


def measured(tumour: Tumour, seed: int) -> Measured:
    """All measures of one tumour."""
    rng = stage.rng(seed, "patches", tumour.donor, tumour.host)
    return Measured(
        tumour.donor,
        tumour.host,
        texture.features(tumour),
        texture.intensities(tumour),
        separability.patches(tumour, rng),
    )


def compare(real: list[Measured], made: dict[str, list[Measured]], seed: int) -> dict[str, Any]:
    """`features` and `intensities` (tables with a column `variant`) and `auc`, by variant and zone:
    mean over groups of donors and hosts, with a 95 % interval over groups."""
    features, intensities, auc = [], [], {}
    table = _features(real)
    samples = [(r.donor, r.intensities) for r in real]
    for variant, tumours in stage.progress(made.items(), "comparison"):
        features.append(cohorts.differences(table, _features(tumours)).assign(variant=variant))
        theirs = [(t.donor, t.intensities) for t in tumours]
        intensities.append(cohorts.distances(samples, theirs).assign(variant=variant))
        everything = [*real, *tumours]
        group = separability.groups([t.donor for t in everything], [t.host for t in everything])
        patches = [t.patches for t in real], [t.patches for t in tumours]
        auc[variant] = {
            zone: _interval(separability.aucs(*patches, group, zone), seed, variant, zone)
            for zone in separability.ZONES
        }
    tables = {"features": pd.concat(features), "intensities": pd.concat(intensities)}
    return {name: table.rename_axis("name") for name, table in tables.items()} | {"auc": auc}


def _features(tumours: list[Measured]) -> pd.DataFrame:
    return pd.DataFrame([t.features for t in tumours], index=[t.donor for t in tumours])


def _interval(values: NDArray[np.float64], seed: int, *what: str) -> dict[str, Any]:
    low, high = bootstrap(values, stage.rng(seed, "auc", *what))
    return {"mean": float(values.mean()), "low": low, "high": high, "groups": values.tolist()}


def printed(found: dict[str, Any]) -> str:
    """The three tables as Markdown; bold where synthetic tumours differ by more than patients."""
    auc = pd.DataFrame(
        {
            zone: {
                v: "{mean:.2f} ({low:.2f}, {high:.2f})".format(**z[zone])
                for v, z in found["auc"].items()
            }
            for zone in separability.ZONES
        }
    )
    parts = ["AUC of real against synthetic patches", _markdown(auc)]
    for name, column in (("features", "difference"), ("intensities", "synthetic")):
        table = found[name]
        variants = list(dict.fromkeys(table["variant"]))
        usual = table.groupby("name", sort=False)["patients"].first()
        shown = pd.DataFrame({"between patients": usual.map("{:.2f}".format)})
        for variant in variants:
            value = table.loc[table["variant"] == variant, column].reindex(usual.index)
            text = value.map("{:.2f}".format)
            shown[variant] = text.mask(value.abs() > usual, "**" + text + "**")
        parts += [f"{name}: {column}", _markdown(shown)]
    return "\n\n".join(parts)


def _markdown(table: pd.DataFrame) -> str:
    lines = [["", *table.columns], ["---"] * (1 + len(table.columns))]
    lines += [[str(row[0]), *row[1:]] for row in table.itertuples()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(
    out: Path,
    real: list[Measured],
    made: dict[str, list[Measured]],
    found: dict[str, Any],
    seed: int,
) -> None:
    """The measures of every tumour and what `compare` found, as CSV and JSON."""
    rows = [
        {"variant": variant, "donor": t.donor, "host": t.host} | t.features
        for variant, tumours in {"real": real, **made}.items()
        for t in tumours
    ]
    stage.write_text(out / "tumours.csv", pd.DataFrame(rows).to_csv(index=False))
    record = {"auc": found["auc"], "variants": variants(), "seed": seed}
    for name in ("features", "intensities"):
        stage.write_text(out / f"{name}.csv", found[name].to_csv())
        record[name] = found[name].reset_index().to_dict("records")
    stage.write_json(out / "realism.json", record)


def main() -> None:
    """Prepare, make, measure, compare, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the study's cohorts")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--study", type=Path, default=STUDY, help="its scans, modalities and grid")
    parser.add_argument(
        "--patients", action="store_true", help="hosts are the healed patients; four modalities"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    study = prepared(args.study, args.data, out, args.patients, args.processes)
    with ProcessPoolExecutor(args.processes) as pool:
        hosts = study.hosts
        if study.patients:
            fit = pool.map(partial(_heals, study), hosts)
            hosts = [host for host, heals in zip(hosts, fit, strict=True) if heals]
        found = pool.map(partial(_measured_real, study, args.seed), study.cases)
        real = list(stage.progress(found, "real tumours", len(study.cases)))
        made, jobs = {}, pairs(hosts, study.cases)
        for variant, params in variants().items():
            found = pool.map(partial(_measured_synthetic, study, args.seed, params), jobs)
            made[variant] = list(stage.progress(found, variant, len(jobs)))
    result = compare(real, made, args.seed)
    write(out, real, made, result, args.seed)
    print(printed(result))


def _measured_real(study: Study, seed: int, case: str) -> Measured:
    return measured(real_tumour(study, case), seed)


def _measured_synthetic(
    study: Study, seed: int, params: dict[str, Any], pair: tuple[str, str]
) -> Measured:
    return measured(synthetic_tumour(study, params, seed, pair), seed)


def _heals(study: Study, patient: str) -> bool:
    return not load(study, patient).labels.any()


if __name__ == "__main__":
    stage.run(lambda argv: main())
