"""A release: the study's synthetic samples as a dataset that others can use, check and rebuild.

Volumes are linked, not copied, three times over: BIDS derivatives, nnU-Net v2 raw, BraTS 2023.
Everything else follows from the samples' sidecars, so equal studies give equal bytes.
"""

import argparse
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from tumorfab import card, croissant, datasets, licences, manifest, plan, privacy, stage, verdicts
from tumorfab.candidates import Draft, Study, drafts, inspect, reference, released
from tumorfab.files import BYTES_PER_GB, below, link, pack, sha256, threaded
from tumorfab.ingest import read_subjects
from tumorfab.manifest import Sample
from tumorfab.public import DATASETS
from tumorfab.stage import InputError
from tumorfab.verdicts import Verdicts
from tumorfab.volume import load_grid, load_on

SUMS = "SHA256SUMS"
KEY = "release_key.tsv"
COLUMNS_OF_IDS = ("case", "subject", "host", "donor")
COLUMNS_OF_PLACES = ("source_id", "T1w", "T1c", "T2w", "FLAIR", "seg")
# Its image on the analysis grid is in every release, and the demo's phantoms are made from it.
MNI152 = "MNI152NLin2009aSym: Fonov et al. 2011, doi:10.1016/j.neuroimage.2010.07.033"


def terms(drafted: list[Draft], internal: bool) -> dict[str, Any]:
    """The release's terms. Raises `InputError` where none allow publication, unless `internal`."""
    whose = []
    for draft in drafted:
        licence = draft.record["licence"]
        whose.append((f"host {draft.subject}", licence["host"]))
        whose += [(f"donor {donor}", text) for donor, text in licence["donors"].items()]
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


def build(out: Path, study: Study, drafted: list[Draft], held: Verdicts,
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
             held: Verdicts, about: dict[str, Any], lock: Path) -> None:  # fmt: skip
    """Write everything beside the volumes and their sidecars, but the list of checksums."""
    manifest.write(out, rows)
    tables = {p: sha256(out / p) for p in (manifest.CSV, manifest.PARQUET)}
    excluded = [e | {"sample": _name(e["sample"], study)} for e in held.excluded]
    if left := privacy.leaks(excluded, study.hidden):
        raise InputError(f"review or gate: would publish the id of a subject in {left[0]!r}")
    columns = ["sample", "by", "reason"]
    stage.write_text(
        out / "excluded.csv", pd.DataFrame(excluded, columns=columns).to_csv(index=False)
    )
    told = card.card(about, rows, excluded)
    stage.write_text(out / "README.md", told)
    stage.write_text(out / "CITATION.cff", card.citation(about))
    stage.write_json(out / "croissant.json", croissant.describe(about, rows[0], tables))
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
    for kind in plan.kinds(study.config):
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
        if not section["source_ids"]:  # nor may their order tell who is who
            table = table.sort_values(list(table.columns))
        name = path.name if path in tables else f"qc_{path.name}"
        stage.write_text(out / name, table.to_csv(sep=separator, index=False))
    for page, allowed in (("report", section["source_ids"]), ("qc", section["internal"])):
        source = study.results / page / "index.html"
        if allowed and source.exists():
            stage.write_text(out / f"{page}.html", source.read_text(encoding="utf-8"))


def credited(config: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Whom to credit, and the addresses of the sources that have one."""
    sources = (config[cohort]["source"] for cohort in ("healthy", "annotated"))
    known = [DATASETS[source] for source in sources if source in DATASETS]
    own: list[str] = config["release"]["credits"]
    return [*own, *[f"{d.terms} ({d.licence})" for d in known], MNI152], [d.terms for d in known]


def candidates(args: argparse.Namespace, study: Study) -> tuple[list[Draft], Verdicts]:
    """The samples to release, and what was said of all. Raises `InputError` where there is none."""
    subjects = read_subjects(study.results / "cohort" / "subjects.tsv")
    hosts = [*subjects["subject"][subjects["role"] == "host"], *args.patient]
    if not plan.kinds(study.config):
        raise InputError("config: release.kinds: no arm makes samples; name coarse or tf")
    found = drafts(study, hosts, args.draws)
    held = verdicts.read(args.gate, args.review, list(study.names), args.samples.name)
    kept = [draft for draft in found if verdicts.key(draft.sidecar) not in held.rejected]
    if not kept:
        raise InputError("release: gate and review leave no sample; look at their reasons")
    return kept, replace(held, excluded=verdicts.excluded(held, [d.sidecar for d in found]))


def checked(kept: list[Draft], study: Study, threads: int) -> None:
    """Raise `InputError` where a file may not be published."""
    found = threaded(lambda draft: inspect(draft, study), kept, threads)
    if problems := [problem for several in found for problem in several]:
        raise InputError(
            f"release: {len(problems)} problem(s) with files, first {problems[0]}; delete it and "
            "run again"
        )


def main(argv: list[str] | None = None) -> None:
    """Command line of the stage."""
    args = _parser().parse_args(argv)
    section = args.config["release"]
    section["internal"] |= args.internal
    everybody = read_subjects(args.results / "cohort" / "subjects.tsv")["subject"].tolist()
    names = {subject: subject for subject in everybody}
    if not section["source_ids"]:
        names = privacy.pseudonyms(everybody, args.config["seed"])
    study = Study(args.results, args.samples, args.config, names)
    kept, held = candidates(args, study)
    checked(kept, study, args.threads)
    credits, sources = credited(args.config)
    about = {
        **{key: section[key] for key in ("name", "version", "date", "authors", "internal",
                                         "source_ids")},
        **terms(kept, section["internal"]),
        **card.provenance(args.lock, card.commit()),
        "kinds": plan.kinds(args.config),
        "modalities": study.modalities,
        "reviewed": bool(held.review),
        "credits": credits,
        "sources": sources,
    }  # fmt: skip
    partial = args.out.with_name(f".{args.out.name}-partial")
    shutil.rmtree(partial, ignore_errors=True)
    sums = build(partial, study, kept, held, about, args.lock, args.threads)
    shutil.rmtree(args.out, ignore_errors=True)
    partial.rename(args.out)
    shutil.rmtree(args.archives, ignore_errors=True)
    stem = args.archives / f"{section['name']}-{section['version']}"
    packed = pack(args.out, sums, stem, int(section["archive_gb"] * BYTES_PER_GB))
    stage.write_text(args.archives / SUMS, "".join(f"{sha256(p)}  {p.name}\n" for p in packed))
    # Who is who stays beside the release, never in it.
    key = pd.DataFrame({"subject": names.keys(), "release": names.values()})
    stage.write_text(args.out.with_name(KEY), key.to_csv(sep="\t", index=False))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tumorfab release", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="folder of the study")
    parser.add_argument("--samples", type=Path, required=True, help="folder fold-F_k-K in it")
    parser.add_argument("--config", type=json.loads, required=True, help="the config as JSON")
    parser.add_argument("--patient", nargs="*", default=[], help="training cases that are hosts")
    parser.add_argument("--draws", type=int, required=True, help="samples in each host")
    parser.add_argument(
        "--gate", type=Path, nargs="*", default=[], help="the quality gate's tables"
    )
    parser.add_argument("--review", type=Path, help="table of the reviewer")
    parser.add_argument("--lock", type=Path, required=True, help="requirements.lock")
    parser.add_argument("--internal", action="store_true", help="mark it as not for publication")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="folder of the release")
    parser.add_argument("--archives", type=Path, required=True, help="folder of its archives")
    return parser


if __name__ == "__main__":
    stage.run(main)
