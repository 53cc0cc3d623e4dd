"""A release: the study's synthetic samples as a dataset that others can use, check and rebuild.

Volumes are linked, not copied, three times over: BIDS derivatives, nnU-Net v2 raw, BraTS 2023.
Everything else follows from the samples' sidecars, so equal studies give equal bytes.
"""

import argparse
import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tumorfab import card, datasets, licences, manifest, privacy, samples, stage, verdicts
from tumorfab.bank import case_files
from tumorfab.files import BYTES_PER_GB, below, link, pack, sha256, threaded
from tumorfab.ingest import read_subjects
from tumorfab.manifest import Sample
from tumorfab.public import DATASETS
from tumorfab.stage import InputError
from tumorfab.volume import load_grid, load_on

SUMS = "SHA256SUMS"
KEY = "release_key.tsv"
COLUMNS_OF_IDS = ("case", "subject", "host", "donor")
COLUMNS_OF_PLACES = ("source_id", "T1w", "T1c", "T2w", "FLAIR", "seg")


@dataclass(frozen=True)
class Draft:
    """A sample of the study on its way into the release: its subject's own id, its sidecar and what
    that holds."""

    sample: Sample
    subject: str
    sidecar: Path
    record: dict[str, Any]

    def files(self, modalities: list[str]) -> dict[str, Path]:
        """Its volumes in the study, by modality and dseg."""
        images = {m: samples.image(self.sidecar, m) for m in modalities}
        return images | {"dseg": samples.dseg(self.sidecar)}


@dataclass(frozen=True)
class Study:
    """What a release is made from."""

    results: Path
    folder: Path
    config: dict[str, Any]
    names: dict[str, str]

    @property
    def modalities(self) -> list[str]:
        """The images of a sample."""
        return list(self.config["modalities"])

    @property
    def space(self) -> str:
        """Label of the analysis space."""
        return str(self.config["space"]["label"])

    @property
    def kinds(self) -> list[str]:
        """The kinds of samples that are released: those asked for, or those of the arms."""
        section: list[str] = self.config["release"]["kinds"]
        return section or [k for k in ("coarse", "tf") if k in self.config["study"]["arms"]]


def drafts(study: Study, hosts: list[str], draws: int) -> list[Draft]:
    """Every sample of the study that a release may hold. Raises `InputError` for a missing one."""
    found = []
    for host in hosts:
        for kind in study.kinds:
            for number in range(draws):
                sidecar = study.folder / f"sub-{host}" / "anat"
                sidecar /= f"sub-{host}_space-{study.space}_desc-{kind}{number:03d}.json"
                sample = Sample(kind, study.names[host], number)
                found.append(Draft(sample, host, sidecar, stage.read_json(sidecar)))
    return found


def inspect(draft: Draft, study: Study) -> list[str]:
    """Why a sample may not be released, one line per reason."""
    anat = study.results / f"sub-{draft.subject}" / "anat"
    mask = case_files(anat, draft.subject, study.space)["brain"]
    files = draft.files(study.modalities)
    grid = load_grid(files["dseg"])
    brain = load_on(mask, grid, labels=True) > 0
    found = []
    if brain.sum() * grid.voxel_volume / 1000 > privacy.MOST_BRAIN_ML:
        found.append(f"{mask}: is larger than any brain; the scan may show a face")
    for what, path in files.items():
        found += [f"{path}: header holds {place}" for place in privacy.header_text(path)]
        if outside := privacy.outside(load_on(path, grid, what == "dseg"), brain):
            found.append(f"{path}: {outside} voxels outside the brain are not 0")
    return found


def terms(drafted: list[Draft], internal: bool) -> dict[str, Any]:
    """The release's terms. Raises `InputError` where none allow publication, unless `internal`."""
    whose: dict[str, str] = {}
    for draft in drafted:
        licence = draft.record["licence"]
        whose[f"host {draft.subject}"] = licence["host"]
        whose |= {f"donor {donor}": text for donor, text in licence["donors"].items()}
    try:
        found = licences.combine(whose)
    except InputError as refusal:
        if not internal:
            raise
        return {"licence": "internal use only, not for publication", "licence_url": "",
                "reason": _nameless(refusal)}  # fmt: skip
    text = f"internal use only (else {found.name})" if internal else found.name
    return {"licence": text, "licence_url": "" if internal else found.url, "reason": ""}


def _nameless(refusal: InputError) -> str:
    """Why there are no terms, without the subjects' names: those are for the log."""
    print(refusal, file=sys.stderr, flush=True)
    return "The licences of its sources cannot be combined, or are not known."


def released(draft: Draft, study: Study, held: verdicts.Verdicts) -> dict[str, Any]:
    """The sidecar of a released sample: the study's, its subjects renamed, with the tumours' sites
    in MNI152 and what gate and review said. Raises `InputError` where an id is left in it."""
    about = case_files(draft.sidecar.parent, draft.subject, study.space)["about"].name
    anat = study.results / f"sub-{draft.subject}" / "anat"
    to_mni = np.array(stage.read_json(anat / about)["mni_from_space"])
    affine = load_grid(samples.dseg(draft.sidecar)).affine
    sites = [t["pose"]["site"] for t in draft.record["draw"]["tumours"]]
    record: dict[str, Any] = privacy.renamed(draft.record, study.names)
    record["donors"].sort()
    record |= {
        "Description": f"Label map of a synthetic sample. {datasets.KINDS[draft.sample.kind]}.",
        "SpatialReference": reference(study),
        "site_mni_mm": [[round(v, 2) for v in (to_mni @ affine @ [*s, 1])[:3]] for s in sites],
        "gate": held.gate.get(verdicts.key(draft.sidecar), {}),
        "review": held.review.get(verdicts.key(draft.sidecar), {}),
    }
    hidden = {subject for subject, name in study.names.items() if subject != name}
    if left := privacy.leaks(record, hidden):
        raise InputError(
            f"{draft.sidecar}: would publish the id of a subject in {left[0]!r}; set "
            "release.source_ids, or rename the subject"
        )
    return record


def reference(study: Study) -> str:
    """BIDS URI of the image that the analysis space is aligned with."""
    return f"bids::tpl-{study.space}/anat/tpl-{study.space}_T1w.nii.gz"


def build(out: Path, study: Study, drafted: list[Draft], held: verdicts.Verdicts,
          about: dict[str, Any], lock: Path, threads: int) -> dict[str, str]:  # fmt: skip
    """Write the release's folder; returns the SHA-256 of every file by path."""

    def place(draft: Draft) -> tuple[dict[str, Any], dict[str, str]]:
        sample, sums = draft.sample, {}
        record = released(draft, study, held)
        paths = {w: f"{sample.bids(study.space, w)}.nii.gz" for w in (*study.modalities, "dseg")}
        for what, source in draft.files(study.modalities).items():
            link(source, out / paths[what])
            sums[paths[what]] = sha256(out / paths[what])
            for other in sample.views(study.modalities)[what]:
                link(out / paths[what], out / other)
                sums[other] = sums[paths[what]]
        paths["sidecar"] = f"{sample.bids(study.space, 'dseg')}.json"
        stage.write_json(out / paths["sidecar"], record)
        pointer = "bids::" + paths["sidecar"].removeprefix("bids/")
        for modality in study.modalities:
            told = datasets.image_sidecar(sample.kind, reference(study), pointer)
            stage.write_json(out / f"{sample.bids(study.space, modality)}.json", told)
        sums[paths["sidecar"]] = sha256(out / paths["sidecar"])
        grid = load_grid(out / paths["dseg"])
        labels = load_on(out / paths["dseg"], grid, labels=True)
        return manifest.row(sample, record, labels, grid.voxel_volume, paths, sums), sums

    placed = threaded(place, stage.progress(drafted, "release"), threads)
    rows = [row for row, _ in placed]
    sums = {path: digest for _, found in placed for path, digest in found.items()}
    describe(out, study, drafted, rows, held, about, lock)
    rest = [p for p in below(out) if p not in sums]
    sums |= dict(zip(rest, threaded(lambda p: sha256(out / p), rest, threads), strict=True))
    stage.write_text(out / SUMS, "".join(f"{sums[p]}  {p}\n" for p in sorted(sums)))
    return sums | {SUMS: sha256(out / SUMS)}


def describe(out: Path, study: Study, drafted: list[Draft], rows: list[dict[str, Any]],
             held: verdicts.Verdicts, about: dict[str, Any], lock: Path) -> None:  # fmt: skip
    """Write everything beside the volumes and their sidecars, but the list of checksums."""
    manifest.write(out, rows)
    tables = {p: sha256(out / p) for p in (manifest.CSV, manifest.PARQUET)}
    excluded = [e | {"sample": _name(e["sample"], study)} for e in held.excluded]
    columns = ["sample", "by", "reason"]
    stage.write_text(
        out / "excluded.csv", pd.DataFrame(excluded, columns=columns).to_csv(index=False)
    )
    told = card.card(about, rows, excluded)
    stage.write_text(out / "README.md", told)
    stage.write_text(out / "CITATION.cff", card.citation(about))
    stage.write_json(out / "croissant.json", card.croissant(about, rows[0], tables))
    stage.write_text(out / "config.yaml", card.published(study.config))
    stage.write_text(out / "requirements.lock", lock.read_text(encoding="utf-8"))
    stage.write_json(out / "provenance.json", card.provenance(lock, about["commit"]))
    _reports(out / "reports", study)
    participants = {
        d.sample.host: {
            "participant_id": f"sub-{d.sample.host}",
            "cohort": "healthy" if d.record["host_tumour"] == "none" else "patient",
            "licence": d.record["licence"]["host"],
        }
        for d in drafted
    }
    datasets.write_bids(out / "bids", about, list(participants.values()), told)
    template = f"bids/{reference(study).removeprefix('bids::')}"
    link(study.results / "template" / f"template_space-{study.space}_T1w.nii.gz", out / template)
    stage.write_json(
        out / template.replace(".nii.gz", ".json"),
        {"Description": "MNI152NLin2009aSym on the analysis grid", "SkullStripped": True,
         "SpatialReference": "https://www.bic.mni.mcgill.ca/ServicesAtlases/ICBM152NLin2009"},
    )  # fmt: skip
    for kind in study.kinds:
        own = [d.sample for d in drafted if d.sample.kind == kind]
        if own:
            datasets.write_nnunet(out / "nnunet", kind, own, study.modalities, about)


def _name(stem: str, study: Study) -> str:
    """The release's id of a sample that the study calls by its sidecar's stem."""
    host, kind, number = verdicts.key(Path(stem))
    return Sample(kind, study.names[host], number).id


def _reports(out: Path, study: Study) -> None:
    """The study's tables, its subjects renamed. Pages are pictures and names of single subjects:
    the study's goes out where names may, that of preprocessing, which shows native scans, only
    internally."""
    section = study.config["release"]
    tables = sorted((study.results / "report").glob("*.csv"))
    for path in [*tables, study.results / "qc" / "metrics.tsv"]:
        separator = "\t" if path.suffix == ".tsv" else ","
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
        table = table.drop(columns=[c for c in COLUMNS_OF_PLACES if c in table])
        for column in set(COLUMNS_OF_IDS) & set(table.columns):
            table[column] = table[column].map(lambda cell: study.names.get(cell, cell))
        name = path.name if path in tables else f"qc_{path.name}"
        stage.write_text(out / name, table.to_csv(sep=separator, index=False))
    for page, allowed in (("report", section["source_ids"]), ("qc", section["internal"])):
        source = study.results / page / "index.html"
        if allowed and source.exists():
            stage.write_text(out / f"{page}.html", source.read_text(encoding="utf-8"))


def credits(config: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Whom to credit, and the addresses of the sources that have one."""
    known = [DATASETS[s] for s in (config[c]["source"] for c in ("healthy", "annotated"))
             if s in DATASETS]  # fmt: skip
    own: list[str] = config["release"]["credits"]
    return [*own, *[f"{d.terms} ({d.licence})" for d in known]], [d.terms for d in known]


def main(argv: list[str] | None = None) -> None:
    """Command line of the stage."""
    args = _parser().parse_args(argv)
    config = args.config
    if args.internal:
        config["release"]["internal"] = True
    section = config["release"]
    table = read_subjects(args.results / "cohort" / "subjects.tsv")
    everybody = table["subject"].tolist()
    keep = section["source_ids"]
    names = {s: s for s in everybody} if keep else privacy.pseudonyms(everybody, config["seed"])
    study = Study(args.results, args.samples, config, names)
    hosts = [*table["subject"][table["role"] == "host"], *args.patient]
    if not study.kinds:
        raise InputError("config: release.kinds: no arm makes samples; name coarse or tf")
    drafted = drafts(study, hosts, args.draws)
    held = verdicts.read(args.gate, args.review, everybody)
    kept = [d for d in drafted if verdicts.key(d.sidecar) not in held.rejected]
    held = replace(held, excluded=verdicts.excluded(held, [d.sidecar for d in drafted]))
    if not kept:
        raise InputError("release: gate and review leave no sample; look at their reasons")
    agreed = terms(kept, section["internal"])
    problems = [p for found in threaded(lambda d: inspect(d, study), kept, args.threads)
                for p in found]  # fmt: skip
    if problems:
        raise InputError(
            f"release: {len(problems)} file(s) may not be published: {problems[0]}; "
            "make the sample again"
        )
    credited, sources = credits(config)
    about = {
        **{key: section[key] for key in ("name", "version", "authors", "internal", "source_ids")},
        **agreed,
        **card.provenance(args.lock, card.commit()),
        "kinds": study.kinds,
        "modalities": study.modalities,
        "reviewed": bool(held.review),
        "credits": credited,
        "sources": sources,
    }
    partial = args.out.with_name(f".{args.out.name}-partial")
    shutil.rmtree(partial, ignore_errors=True)
    sums = build(partial, study, kept, held, about, args.lock, args.threads)
    shutil.rmtree(args.out, ignore_errors=True)
    partial.rename(args.out)
    _finish(args, study, sums)


def _finish(args: argparse.Namespace, study: Study, sums: dict[str, str]) -> None:
    """Pack the archives, and keep who is who beside the release, never in it."""
    section = study.config["release"]
    shutil.rmtree(args.archives, ignore_errors=True)
    limit = int(section["archive_gb"] * BYTES_PER_GB)
    stem = args.archives / f"{section['name']}-{section['version']}"
    packed = pack(args.out, sums, stem, limit)
    stage.write_text(args.archives / SUMS, "".join(f"{sha256(p)}  {p.name}\n" for p in packed))
    key = pd.DataFrame({"subject": study.names.keys(), "release": study.names.values()})
    stage.write_text(args.out.with_name(KEY), key.to_csv(sep="\t", index=False))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tumorfab release", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="folder of the study")
    parser.add_argument("--samples", type=Path, required=True, help="folder fold-F_k-K in it")
    parser.add_argument("--config", type=json.loads, required=True, help="the config as JSON")
    parser.add_argument("--patient", nargs="*", default=[], help="training cases that are hosts")
    parser.add_argument("--draws", type=int, required=True, help="samples in each host")
    parser.add_argument("--gate", type=Path, help="table of the quality gate")
    parser.add_argument("--review", type=Path, help="table of the reviewer")
    parser.add_argument("--lock", type=Path, required=True, help="requirements.lock")
    parser.add_argument("--internal", action="store_true", help="mark it as not for publication")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="folder of the release")
    parser.add_argument("--archives", type=Path, required=True, help="folder of its archives")
    return parser


if __name__ == "__main__":
    stage.run(main)
