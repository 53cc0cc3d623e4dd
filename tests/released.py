"""A released toy study: two hosts with two coarse samples each, and as many that stand for refined
ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import toy

from tumorfab import config, release, samples, stage
from tumorfab.files import below, sha256
from tumorfab.volume import Volume, load, load_labels, save

DRAWS = 2
CONFIG: dict[str, Any] = {"modalities": toy.MODALITIES, "seed": 7}
FOLD = "fold-0_k-2"
LICENCES = {"host": "CC BY-SA 3.0", "donor": "CC BY-SA 4.0"}


def write_study(results: Path) -> Path:
    """The files of a study that a release is made from; returns its folder."""
    hosts, cases = toy.write_cohort(results)
    for host in hosts:
        toy.make_samples(results, anat(results, host), host, draws=DRAWS)
        for sidecar in sorted(anat(results, host).glob("*.json")):
            record = stage.read_json(sidecar)
            donors = dict.fromkeys(record["donors"], LICENCES["donor"])
            record["licence"] = {"host": LICENCES["host"], "donors": donors}
            stage.write_json(sidecar, record)
            refine(sidecar, record)
    rows = [{"subject": h, "cohort": "healthy", "role": "host"} for h in hosts]
    rows += [{"subject": c, "cohort": "annotated", "role": "train"} for c in cases]
    for row in rows:
        row |= {"source_id": f"source-{row['subject']}", "licence": LICENCES["host"], "seg": ""}
        row |= {m: f"scans/{row['subject']}_{m}.nii.gz" for m in toy.MODALITIES}
    write_table(results / "cohort" / "subjects.tsv", rows)
    write_table(results / "qc" / "metrics.tsv", [{"subject": h, "noise": 0.1} for h in hosts])
    write_table(results / "report" / "dice.csv", [{"arm": "tf", "case": "A3", "dice": 0.5}])
    name = f"template_space-{toy.LABEL}_T1w.nii.gz"
    grid = toy.GRID
    save(results / "template" / name, np.ones(grid.shape, np.float32), grid.affine)
    (results / "requirements.lock").write_text("numpy==2.0\n", encoding="utf-8")
    return results


def anat(results: Path, host: str) -> Path:
    """Folder of a host's samples."""
    return results / FOLD / f"sub-{host}" / "anat"


def refine(sidecar: Path, record: dict[str, Any]) -> None:
    """What stands for a refined sample: the coarse one, its tumour a little brighter."""
    refined = samples.refined(sidecar)
    labels = load_labels(samples.dseg(sidecar))
    for modality in toy.MODALITIES:
        image = load(samples.image(sidecar, modality))
        brighter = np.where(labels.data > 0, image.data * 0.9, image.data)
        save(samples.image(refined, modality), brighter, image.affine)
    save(samples.dseg(refined), labels.data, labels.affine)
    stage.write_json(refined, {**record, "coarse": sidecar.stem, "refiner_sha256": "0" * 64})


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    separator = "\t" if path.suffix == ".tsv" else ","
    stage.write_text(path, pd.DataFrame(rows).to_csv(sep=separator, index=False))


def make(results: Path, *options: str, **section: Any) -> Path:
    """Run the release stage; returns the release's folder."""
    study = config.validated({**CONFIG, "release": section})
    release.main(
        ["--results", str(results), "--samples", str(results / FOLD), "--draws", str(DRAWS),
         "--config", json.dumps(study), "--lock", str(results / "requirements.lock"),
         "--out", str(results / "release"), "--archives", str(results / "archives"), *options]
    )  # fmt: skip
    return results / "release"


def contents(folder: Path) -> dict[str, str]:
    """Checksum of every file."""
    return {path: sha256(folder / path) for path in below(folder)}


def reseal(folder: Path) -> None:
    """Write the list of checksums anew, as somebody would who covers an edit up."""
    found = contents(folder)
    found.pop(release.SUMS, None)
    text = "".join(f"{digest}  {path}\n" for path, digest in sorted(found.items()))
    (folder / release.SUMS).write_text(text, encoding="utf-8")


def changed(path: Path, edit: Any) -> None:
    """Write a volume anew after `edit` changed its array in place."""
    labels = path.name.endswith(("dseg.nii.gz", "seg.nii.gz"))
    volume: Volume = (load_labels if labels else load)(path)
    edit(volume.data)
    save(path, volume.data, volume.affine)
