"""Check every scan of both cohorts, draw the split and write the table of subjects.

`subjects.tsv` has the hosts first, sorted by id, then the annotated training cases in the order in
which a study with fewer of them takes them, then validation and test. Where the subjects come from
is `sources.py`, what makes a scan unusable is `checks.py`.
"""

import argparse
import hashlib
import json
import logging
import os
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from tumorfab.sources import Case, find
from tumorfab.split import assign_roles, given_split
from tumorfab.stage import InputError, progress, run, write_text

_COHORTS = ("healthy", "annotated")


def read_subjects(path: Path | str) -> pd.DataFrame:
    """A table that this stage wrote: all columns text, "" where a cell is empty."""
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def fingerprint(params: dict[str, Any]) -> str:
    """A hash of the scans that a study would read: their paths, sizes and times, and its tables.

    From directory listings alone, so that it is cheap enough to ask at every start. The demo is
    left out: its scans are another rule's output.
    """
    seen: list[str] = [_digest(params["split"]["file"])]
    for cohort in _cohorts(params):
        section = params[cohort]
        if section["source"] == "demo":
            continue
        if section["source"] == "table":
            seen.append(_digest(section["path"]))
        try:
            cases = find(cohort, section, _wanted(cohort, params))
        except InputError as error:
            seen.append(str(error))
            continue
        for case in cases:
            seen += [case.source_id, case.licence, case.role]
            seen += [_stamp(path) for path in case.files.values()]
    return hashlib.sha256("\n".join(seen).encode()).hexdigest()


def _digest(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return "absent"


def _stamp(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return f"{path} absent"
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def _cohorts(params: dict[str, Any]) -> list[str]:
    """The cohorts that the study has: hosts may be the patients alone."""
    return [cohort for cohort in _COHORTS if params[cohort]["source"] != "none"]


def _wanted(cohort: str, params: dict[str, Any]) -> list[str]:
    return [*params["modalities"], "seg"] if cohort == "annotated" else list(params["modalities"])


def collect(params: dict[str, Any]) -> tuple[list[Case], list[str]]:
    """All subjects as found, and the problems of a cohort as a whole."""
    cases: list[Case] = []
    problems = []
    for cohort in _cohorts(params):
        try:
            cases += find(cohort, params[cohort], _wanted(cohort, params))
        except InputError as error:
            problems.append(str(error))
    namesakes = defaultdict(list)
    for case in cases:
        namesakes[case.subject].append(case)
    for subject, group in namesakes.items():
        for case in group if subject and len(group) > 1 else []:
            others = ", ".join(other.where for other in group if other is not case)
            case.problems.append(
                f"{case.where}: subject id {subject} is also that of {others}; rename one"
            )
    return cases, problems


def check(cases: list[Case], params: dict[str, Any], threads: int) -> None:
    """Read every file; fill in each case's `problems` and `empty`."""
    from tumorfab.checks import (
        Verdict,
        check_subject,
    )  # slow to import, and the workflow needs none

    def verdict(case: Case) -> Verdict:
        annotated = case.cohort == "annotated"
        images = {kind: path for kind, path in case.files.items() if kind != "seg"}
        shared = annotated and params["annotated"]["space"] == "shared"
        stripped = params["annotated" if annotated else "healthy"]["brain"] == "none"
        return check_subject(images, case.files.get("seg", ""), shared, stripped)

    with ThreadPoolExecutor(threads) as pool:  # inflating and scanning a volume hold no lock
        verdicts = progress(pool.map(verdict, cases), "checking subjects", len(cases))
        for case, outcome in zip(cases, verdicts, strict=True):
            case.problems += outcome.problems
            case.empty = outcome.empty


def settle(
    params: dict[str, Any], given: dict[str, str] | None, cases: list[Case]
) -> dict[str, str]:
    """Role of each usable annotated subject; a training case without tumour becomes a problem.

    With `ingest.on_error: skip` the cases with problems are left out first, and the split is drawn
    again for as long as it puts an empty case into training.
    """
    skip = params["ingest"]["on_error"] == "skip"
    while True:
        usable = [c for c in cases if c.cohort == "annotated" and not (skip and c.problems)]
        roles = assign_roles(params, given, sorted({case.subject for case in usable}))
        refused = [
            case for case in usable if case.empty and "train" in roles[case.subject].split("/")
        ]
        for case in refused:
            case.problems.append(
                f"{case.files['seg']}: has no tumour, but its case is in the training split; "
                "take the case out or give it another role in split.file"
            )
        if not (skip and refused):
            return roles


def ingest(params: dict[str, Any], threads: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables of usable and of skipped subjects.

    Raises `InputError` with one line per problem of either cohort, after a line with their number.
    """
    cases, problems = collect(params)
    check(cases, params, threads)
    annotated = [case for case in cases if case.cohort == "annotated"]
    roles: dict[str, str] = {}
    if annotated:
        try:
            roles = settle(params, given_split(params, annotated), cases)
        except InputError as error:
            problems.append(str(error))
    bad = [case for case in cases if case.problems]
    skip = params["ingest"]["on_error"] == "skip"
    hosts = [case for case in cases if case.cohort == "healthy" and not case.problems]
    if skip and not hosts and "healthy" in _cohorts(params):
        problems.append("healthy cohort: no usable subject is left; mend the scans or add some")
    if problems or (bad and not skip):
        problems += [problem for case in bad for problem in case.problems]
        raise InputError("\n".join([f"{len(problems)} problem(s) in the cohorts", *problems]))
    by_name = {case.subject: case for case in annotated if not case.problems}
    rows = [_row(case, "host", params) for case in hosts]
    rows += [_row(by_name[subject], role, params) for subject, role in roles.items()]
    skipped = [
        {"subject": case.source_id, "cohort": case.cohort, "problem": problem}
        for case in bad
        for problem in case.problems
    ]
    return pd.DataFrame(rows), pd.DataFrame(skipped, columns=["subject", "cohort", "problem"])


def _row(case: Case, role: str, params: dict[str, Any]) -> dict[str, str]:
    row = {"subject": case.subject, "cohort": case.cohort, "role": role}
    row |= {"source_id": case.source_id, "licence": case.licence}
    return row | {kind: case.files.get(kind, "") for kind in [*params["modalities"], "seg"]}


def main(argv: list[str] | None = None) -> None:
    """Command line: sections of the config in, two tables out."""
    parser = argparse.ArgumentParser(prog="tumorfab.ingest", description="Check and list subjects.")
    parser.add_argument("--params", type=json.loads, required=True, help="the config as JSON")
    parser.add_argument("--subjects", required=True, help="table of the usable subjects to write")
    parser.add_argument("--skipped", required=True, help="table of the subjects left out to write")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args(argv)
    # nibabel tells of header repairs without naming the file; what matters is checked by name.
    logging.getLogger("nibabel.global").setLevel(logging.ERROR)
    subjects, skipped = ingest(args.params, args.threads)
    if len(skipped):
        count = skipped["subject"].nunique()
        print(f"left out {count} subject(s), listed in {args.skipped}", file=sys.stderr)
    write_text(args.skipped, skipped.to_csv(sep="\t", index=False))
    write_text(args.subjects, subjects.to_csv(sep="\t", index=False))


if __name__ == "__main__":
    run(main)
