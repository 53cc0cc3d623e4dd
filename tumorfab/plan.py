"""What the Snakefile must know before any job runs: the subjects, the samples, the runs.

Also `code`, by which a rule notices that its stage's program changed.
"""

import argparse
import ast
import hashlib
import json
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from tumorfab import ingest
from tumorfab.fetch import fetch_cohorts
from tumorfab.public import DATASETS, cached
from tumorfab.samples import KINDS
from tumorfab.split import ROLES, draw_split
from tumorfab.stage import TEMPORARY, InputError, read_json, write_json

PACKAGE = Path(__file__).parent
DEMO_LICENCE = "ICBM"  # that of MNI152, from which the phantoms are made
DEMO_SUFFIX = {"T1w": "t1n", "T1c": "t1c", "T2w": "t2w", "FLAIR": "t2f"}


@dataclass(frozen=True)
class Run:
    """One downstream training; its name is its folder."""

    arm: str
    k: int
    n: int
    seed: int
    fold: int = 0

    def __str__(self) -> str:
        return f"arm-{self.arm}_k-{self.k}_n-{self.n}_fold-{self.fold}_seed-{self.seed}"


@dataclass(frozen=True)
class Fold:
    """The annotated cases of one fold. Studies with fewer training cases take the first."""

    train: list[str]
    validation: list[str]
    test: list[str]


@cache  # which keeps the lock alive
def hold(results: str) -> FileLock:
    """Keep every other run out of a results folder for the life of this process.

    Snakemake's own lock outlives a killed run and then refuses to go on; this one is the operating
    system's and dies with its process. Half-written files that a killed run left are removed.
    Raises `InputError` when another run holds it.
    """
    path = Path(results) / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"{results}: another run is writing here; wait for its end") from None
    for leftover in path.parent.rglob(f"{TEMPORARY}*"):
        leftover.unlink(missing_ok=True)
    return lock


def runs(config: dict[str, Any]) -> list[Run]:
    """Every downstream training of the study. The arm `real` has no synthetic samples: n is 0."""
    study = config["study"]
    return [
        Run(arm, k, n, seed, fold)
        for arm in study["arms"]
        for k in study["k"]
        for n in ([0] if arm == "real" else study["n"])
        for fold in range(config["split"]["folds"])
        for seed in study["seeds"]
    ]


def folds(subjects: pd.DataFrame) -> list[Fold]:
    """The folds of a table of subjects as `ingest` writes it.

    A fold's cases are taken in the order of the table from the case after its test set on, round
    the end: so each fold has other cases first.
    """
    annotated = subjects[subjects["cohort"] == "annotated"]
    names: list[str] = annotated["subject"].tolist()
    found = []
    for each in zip(*annotated["role"].str.split("/"), strict=True):
        after = max(place for place, role in enumerate(each) if role == "test") + 1
        turned = [*zip(names, each, strict=True)]
        turned = turned[after:] + turned[:after]
        parts = [[name for name, role in turned if role == wanted] for wanted in ROLES]
        found.append(Fold(*parts))
    return found


def draws_per_host(config: dict[str, Any], hosts: int) -> int:
    """Samples that each host gets so that the largest run of the study has enough."""
    most = max(config["study"]["n"]) * max(config["study"]["k"])
    return -(-most // hosts)


def kinds(config: dict[str, Any]) -> list[str]:
    """The kinds of samples that a release holds: those asked for, or those of the study's arms."""
    asked: list[str] = config["release"]["kinds"]
    made = {KINDS.get(arm) for arm in config["study"]["arms"]}
    return asked or [kind for kind in ("coarse", "tf") if kind in made]


def samples(hosts: list[str], count: int) -> list[tuple[str, int]]:
    """The first `count` samples as (host, number): every host once before any host twice, so that a
    smaller study is a prefix of a larger one."""
    return [sample(hosts, i) for i in range(count)]


def sample(hosts: list[str], i: int) -> tuple[str, int]:
    """The sample at position `i` of that list."""
    return hosts[i % len(hosts)], i // len(hosts)


def shard(subject: str, shards: int) -> int:
    """Which of `shards` jobs a subject belongs to; does not change when subjects come or go."""
    return zlib.crc32(subject.encode()) % shards


def allowed_rules(command: list[str]) -> set[str]:
    """The rules that this call of Snakemake is confined to, as a job's is; empty: to none."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--allowed-rules", nargs="+", default=[])
    return set(parser.parse_known_args(command)[0].allowed_rules)


def batches(subjects: list[str], count: int) -> dict[int, list[str]]:
    """Subjects by batch or shard, in order; one that holds none is left out."""
    found: dict[int, list[str]] = {}
    for subject in subjects:
        found.setdefault(shard(subject, count), []).append(subject)
    return dict(sorted(found.items()))


def subjects(config: dict[str, Any], main_process: bool) -> pd.DataFrame:
    """The table of checked subjects, as `ingest` writes it.

    The demo's cohort is known from the config; its files are checked by a rule once they are made.
    Any other cohort is checked here, before anything runs, and again only when a file or a setting
    changed. A public one that is not in the cache yet is fetched first. Raises `InputError` with
    every problem of the cohorts.
    """
    if config["healthy"]["source"] == "demo":
        return _demo_subjects(config)
    folder = Path(config["results"]) / "cohort"
    table, skipped, record = (folder / n for n in ("subjects.tsv", "skipped.tsv", "ingest.json"))
    params = ingest_params(config)
    if main_process:  # jobs of this workflow read the table that it was planned with
        fetch_cohorts(config)
        state = {"params": params, "files": ingest.fingerprint(params)}
        if not (table.exists() and record.exists() and read_json(record) == state):
            ingest.main(
                [
                    "--params",
                    json.dumps(params),
                    "--subjects",
                    str(table),
                    "--skipped",
                    str(skipped),
                ]
            )
            write_json(record, state)
    found = ingest.read_subjects(table)
    have = min(len(fold.train) for fold in folds(found))
    if max(config["study"]["k"]) > have:
        raise InputError(
            f"config: study.k asks for {max(config['study']['k'])} training cases, "
            f"the split has {have}"
        )
    return found


def ingest_params(config: dict[str, Any]) -> dict[str, Any]:
    """The part of the config that `ingest` depends on, with what a named source implies."""
    params = {key: config[key] for key in ("seed", "modalities", "ingest", "split")}
    return params | {cohort: _located(config, cohort) for cohort in ("healthy", "annotated")}


def _located(config: dict[str, Any], cohort: str) -> dict[str, Any]:
    """A cohort's section with the path and, unless one is given, the licence of its source."""
    section: dict[str, Any] = config[cohort]
    source = section["source"]
    given = section["licence"]
    if source == "demo":
        path = Path(config["results"]) / "demo" / cohort
        licence = DEMO_LICENCE
    elif source in DATASETS:
        path, licence = cached(config["cache"], source), DATASETS[source].licence
    else:
        return section
    return {**section, "path": str(path), "licence": licence if given == "unknown" else given}


def _demo_subjects(config: dict[str, Any]) -> pd.DataFrame:
    from tumorfab.demo import names  # not needed by any other cohort

    demo = Path(config["results"]) / "demo"
    licence = {cohort: _located(config, cohort)["licence"] for cohort in ("healthy", "annotated")}
    healthy, annotated = names(config["demo"]["healthy"], config["demo"]["annotated"])
    by_subject = {name.replace("-", ""): name for name in annotated}
    split = config["split"]
    roles = draw_split(
        config["seed"], by_subject, split["train"], split["validation"], split["folds"]
    )
    rows = []
    for name in healthy:
        stem = demo / "healthy" / f"sub-{name}" / "anat" / f"sub-{name}"
        files = {m: f"{stem}_{m}.nii.gz" for m in config["modalities"]}
        rows.append({"subject": name, "cohort": "healthy", "role": "host", "source_id": name,
                     "licence": licence["healthy"], **files, "seg": ""})  # fmt: skip
    for subject, role in roles.items():
        name = by_subject[subject]
        stem = demo / "annotated" / name / name
        files = {m: f"{stem}-{DEMO_SUFFIX[m]}.nii.gz" for m in config["modalities"]}
        rows.append({"subject": subject, "cohort": "annotated", "role": role, "source_id": name,
                     "licence": licence["annotated"], **files,
                     "seg": f"{stem}-seg.nii.gz"})  # fmt: skip
    return pd.DataFrame(rows)


@cache
def code(stage: str, *files: str) -> str:
    """Hash of a stage's program: the module, every module of this package that it imports, and the
    other `files` of the package that it reads.

    As a rule's parameter it re-runs the stage when its code changes, and only then: comments,
    docstrings, formatting and file times do not count.
    """
    if not _source(stage).exists():
        raise ValueError(f"no stage {stage}")
    seen: dict[str, str] = {}
    _collect(stage, seen)
    seen |= {name: (PACKAGE / name).read_text(encoding="utf-8") for name in files}
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:16]


def _source(module: str) -> Path:
    """The file of a module of this package; its name may be dotted."""
    return PACKAGE / f"{module.replace('.', '/')}.py"


def _collect(module: str, seen: dict[str, str]) -> None:
    path = _source(module)
    if module in seen or not path.exists():
        return
    seen[module], imported = _parsed(path.read_text(encoding="utf-8"))
    for name in imported:
        if name.startswith("tumorfab."):
            _collect(name.removeprefix("tumorfab."), seen)


@cache
def _parsed(source: str) -> tuple[str, list[str]]:
    """The syntax of a module without its docstrings, and the modules of this package it imports."""
    tree = ast.parse(source)
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):  # of a module, or of names in one
            imported |= {str(node.module), *(f"{node.module}.{a.name}" for a in node.names)}
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
            and isinstance(body[0].value.value, str)
        ):
            node.body = body[1:]  # type: ignore[attr-defined]
    return ast.dump(tree), sorted(imported)
