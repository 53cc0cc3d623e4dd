"""Cost of a release: `python -m benchmarks.release RESULTS --samples 200`, on a finished study.

Places so many coarse samples in the study's hosts, in a scratch folder, then releases and verifies
them. Prints wall and CPU time, sizes, and the checksums of two archives made one after the other.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tumorfab import place, release, verify
from tumorfab.config import validated
from tumorfab.files import below, sha256
from tumorfab.ingest import read_subjects

FOLD = "fold-0_k-0"


def timed(what: str, work: Callable[[], Any]) -> Any:
    """Do it and print how long it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what}: {wall:.1f} s, {cpu:.1f} s of CPU", flush=True)
    return found


def scratch(results: Path, out: Path, config: dict[str, Any], count: int) -> int:
    """Link what a release needs of a study into `out` and place samples; returns their number per
    host."""
    for folder in ("cohort", "template", "bank", "report", "qc"):
        shutil.copytree(results / folder, out / folder)
    subjects = read_subjects(out / "cohort" / "subjects.tsv").set_index("subject")
    hosts = subjects.index[subjects["role"] == "host"].tolist()
    donors = subjects.index[subjects["role"] == "train"].tolist()
    draws = -(-count // len(hosts))
    for host in hosts:
        shutil.copytree(results / f"sub-{host}", out / f"sub-{host}")
        place.main(
            ["--host", host, "--anat", str(out / f"sub-{host}" / "anat"),
             "--bank", str(out / "bank"), "--donor", *donors, "--draws", str(draws),
             "--label", config["space"]["label"], "--modality", *config["modalities"],
             "--seed", str(config["seed"]), "--licence", subjects["licence"][host],
             "--params", json.dumps(config["place"]), "--out", str(out / FOLD / f"sub-{host}/anat")]
        )  # fmt: skip
    return draws


def size(folder: Path) -> tuple[int, int]:
    """Bytes of the volumes below a folder, each counted once however often it is linked, and of
    everything else."""
    stats = {(s := p.stat()).st_ino: (p.suffix == ".gz", s.st_size) for p in folder.rglob("*.*")
             if p.is_file()}  # fmt: skip
    found = list(stats.values())
    return sum(n for volume, n in found if volume), sum(n for volume, n in found if not volume)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="a finished study")
    parser.add_argument("--config", type=Path, default=Path("config.yaml"))
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    config = validated(yaml.safe_load(args.config.read_text(encoding="utf-8")))
    config["release"] |= {"kinds": ["coarse"], "internal": True}
    with tempfile.TemporaryDirectory(dir=args.results.parent) as folder:
        out = Path(folder)
        draws = timed("place", lambda: scratch(args.results, out, config, args.samples))
        options = ["--results", str(out), "--samples", str(out / FOLD), "--draws", str(draws),
                   "--config", json.dumps(config), "--lock", "requirements.lock", "--threads",
                   str(args.threads), "--out", str(out / "release"),
                   "--archives", str(out / "archives")]  # fmt: skip
        for _ in range(2):
            timed("release", lambda: release.main(options))
            (archive,) = (out / "archives").glob("*.tar")
            print(f"archive: {archive.stat().st_size} bytes, SHA-256 {sha256(archive)}")
        volumes, rest = size(out / "release")
        print(f"release: {len(below(out / 'release'))} files, volumes {volumes} bytes once, "
              f"everything else {rest} bytes")  # fmt: skip
        problems = timed("verify", lambda: verify.verify(out / "release", args.threads))
        print(f"verify: {len(problems)} problem(s)")


if __name__ == "__main__":
    main()
