"""Time and memory of planning a study: a dry run over fake scans, and the start of one of its jobs.

    python -m benchmarks.planning [--hosts 100 1000 10000] [--draws 10]

needs no data: the scans are empty files that the cohort's table says were checked. What is planned
is 2 modalities, 4 training cases, and `--draws` samples in each healthy brain. Writes
benchmarks/planning.json.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from tumorfab import config, ingest, plan, stage

ROOT = Path(__file__).parent.parent
MODALITIES = ["T1w", "T2w"]
CASES = {"train": 4, "validation": 1, "test": 3}
PER_JOB = 20  # hosts of a batch, and of a shard


def settings(hosts: int, draws: int) -> dict[str, Any]:
    """The configuration of a study of `hosts` healthy subjects with `draws` samples in each."""
    cohorts = {
        name: {"source": "table", "path": f"{name}.tsv"} for name in ("healthy", "annotated")
    }
    jobs = max(2, hosts // PER_JOB)
    return {
        "modalities": MODALITIES,
        **cohorts,
        "split": {"train": CASES["train"], "validation": CASES["validation"]},
        "study": {"k": [CASES["train"]], "n": [hosts * draws // CASES["train"]]},
        "compute": {"shards": jobs, "batches": jobs},
    }


def write_study(folder: Path, hosts: int, draws: int) -> None:
    """A study whose scans are empty files, checked as far as its tables say."""
    study = settings(hosts, draws)
    (folder / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    rows = []
    for cohort, roles in (
        ("healthy", ["host"] * hosts),
        ("annotated", [role for role, count in CASES.items() for _ in range(count)]),
    ):
        names = ["seg"] if cohort == "annotated" else []
        (folder / cohort).mkdir()
        cases = []
        for number, role in enumerate(roles):
            subject = f"{cohort[0].upper()}{number:05d}"
            files = {name: f"{cohort}/{subject}_{name}.nii.gz" for name in MODALITIES + names}
            for path in files.values():
                (folder / path).touch()
            cases.append({"subject": subject, **files})
            rows.append({"subject": subject, "cohort": cohort, "role": role, "licence": "none",
                         "source_id": subject, "seg": "", **files})  # fmt: skip
        pd.DataFrame(cases).to_csv(folder / f"{cohort}.tsv", sep="\t", index=False)
    os.chdir(folder)
    params = plan.ingest_params(config.validated(study))
    checked = folder / "results" / "cohort"
    checked.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(checked / "subjects.tsv", sep="\t", index=False)
    (checked / "skipped.tsv").write_text("subject\tcohort\tproblem\n")
    stage.write_json(
        checked / "ingest.json", {"params": params, "files": ingest.fingerprint(params)}
    )


def measured(*options: str) -> tuple[dict[str, float], str]:
    """Seconds and MB of a dry run of Snakemake in the current folder, and what it printed."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--configfile", "study.yaml", "--cores", "1", "--dry-run", *options]
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        printed = out.read()
    if process.returncode:
        sys.exit(printed[-3000:])
    return {
        "seconds": time.monotonic() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "mb": usage.ru_maxrss / 1024,
    }, printed


def main() -> None:
    """Measure each size of study in a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "planning.json")
    args = parser.parse_args()
    out, found = args.out.resolve(), []
    for hosts in args.hosts:
        folder = Path(tempfile.mkdtemp())
        try:
            write_study(folder, hosts, args.draws)
            whole, printed = measured("--quiet", "rules")
            (jobs,) = re.findall(r"^total +(\d+)$", printed, re.M)[:1]
            one, _ = measured(
                *("--target-jobs", "preprocess_healthy:subject=H00007"),
                *("--allowed-rules", "preprocess_healthy", "--force", "--mode", "remote"),
            )
        finally:
            os.chdir(ROOT)
            shutil.rmtree(folder)
        row = {"hosts": hosts, "samples": hosts * args.draws, "jobs": int(jobs)}
        found.append(row | {"plan": whole, "job_start": one})
        print(json.dumps(found[-1]), flush=True)
        stage.write_json(out, found)


if __name__ == "__main__":
    main()
