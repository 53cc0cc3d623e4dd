"""The tiny study through profiles/slurm on a real SLURM, disturbed while it runs.

A job is cancelled, the node is drained and resumed; the study must end as if nothing had happened.
"""

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cluster
import pytest
from test_workflow import FOLDERS, PATIENCE_S, TINY, Study, kill, program

__all__ = ["program"]  # a fixture

pytestmark = [
    pytest.mark.workflow,
    pytest.mark.skipif(bool(cluster.why_not()), reason=cluster.why_not()),
]

# After placement three GPU jobs are ready at once, for two GPUs: two trainings and the refiner's.
CHANGED = {
    "modalities": ["T1w"],
    "study": {"arms": ["coarse", "tf"], "k": [2], "n": [1], "seeds": [0, 1]},
}
OPTIONS = (
    *("--slurm-no-account", "--slurm-status-command", "squeue"),  # there is no accounting here
    *("--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2"),
    *("--latency-wait", "20"),
)


class Disturbed:
    """A study that ran on a SLURM, what it printed and what SLURM saw of it."""

    def __init__(self, study: Study, slurm: cluster.Cluster) -> None:
        self.study, self.slurm = study, slurm
        self.cancelled = self.waited = ""
        self.log = ""

    def run(self) -> None:
        profile = str(self.study.program / "profiles" / "slurm")
        with open(self.study.root / "printed.txt", "w+") as printed:
            process = self.study.start("--workflow-profile", profile, *OPTIONS, printed=printed)
            try:
                self.disturb(process)
                process.wait(timeout=PATIENCE_S)
            except BaseException:
                kill(process)
                raise
            finally:
                printed.seek(0)
                self.log = printed.read()
        assert process.returncode == 0, self.log[-6000:]

    def disturb(self, process: "subprocess.Popen[str]") -> None:
        """Cancel the first job of preprocessing; drain the node until a job waits for it."""
        self.cancelled = await_(lambda: self.jobs("preprocess", "RUNNING"), process)[0]
        self.slurm.call("scancel", self.cancelled)
        await_(lambda: self.jobs("standardise", "RUNNING"), process)
        self.slurm.node(State="DRAIN", Reason="test")
        self.waited = await_(lambda: self.jobs("", "PENDING"), process)[0]
        self.slurm.node(State="RESUME")

    def jobs(self, comment: str, state: str) -> list[str]:
        """Ids of the SLURM jobs in a state whose comment, which names the rules, holds a word."""
        lines = self.slurm.call("squeue", "--states=all", "--noheader", "--format=%i|%T|%k")
        split = [line.split("|", 2) for line in lines.splitlines()]
        return [job for job, now, about in split if now == state and comment in about]

    def gpu_jobs(self) -> list[tuple[float, float, str]]:
        """Begin, end and CUDA_VISIBLE_DEVICES of each job that had a GPU."""
        starts = [line.split() for line in (self.slurm.root / "starts").read_text().splitlines()]
        ends = [line.split() for line in (self.slurm.root / "ends").read_text().splitlines()]
        end = {job: float(when) for when, job in ends}
        begun: dict[str, tuple[float, str]] = {}
        for when, job, devices in starts:
            if devices != "none":
                begun.setdefault(job, (float(when), devices))
        return [(when, end[job], devices) for job, (when, devices) in begun.items()]


def await_(found: Callable[[], list[str]], process: "subprocess.Popen[str]") -> list[str]:
    """What is looked for, as soon as there is some."""
    deadline = time.monotonic() + PATIENCE_S
    while not (result := found()):
        assert process.poll() is None, "the run ended before it was disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return result


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[cluster.Cluster]:
    cluster.install()
    root = tmp_path_factory.mktemp("slurm")
    with pytest.MonkeyPatch.context() as patch, cluster.running(root) as started:
        for name in ("SLURM_CONF", "PATH"):
            patch.setenv(name, started.env[name])
        yield started


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, program: Path) -> Study:
    """The study after a run on this machine alone."""
    study = Study(tmp_path_factory.mktemp("local"), program, {**TINY, **CHANGED})
    status, _, err = study.run()
    assert status == 0, err[-5000:]
    return study


@pytest.fixture(scope="module")
def disturbed(
    tmp_path_factory: pytest.TempPathFactory, local: Study, slurm: cluster.Cluster
) -> Disturbed:
    root = tmp_path_factory.mktemp("cluster")
    shutil.copytree(local.results / "demo", root / "cohort")
    config: dict[str, Any] = {**FOLDERS, **CHANGED}
    found = Disturbed(Study(root, local.program, config), slurm)
    found.run()
    return found


def test_two_gpu_jobs_at_once_on_different_gpus_and_never_three(disturbed: Disturbed) -> None:
    jobs = disturbed.gpu_jobs()
    # Two trainings an arm, the refiner's training, one shard refined and appraised.
    assert len(jobs) == 7
    at_once = [
        [devices for begin, end, devices in jobs if begin <= when < end] for when, _, _ in jobs
    ]
    assert max(map(len, at_once)) == cluster.GPUS
    for devices in at_once:
        assert len(set(devices)) == len(devices)
        assert set(devices) <= {"0", "1"}


def test_a_cancelled_job_is_run_again(disturbed: Disturbed) -> None:
    assert disturbed.jobs("preprocess", "CANCELLED") == [disturbed.cancelled]
    assert "Trying to restart job" in disturbed.log
    again = [int(job) for job in disturbed.jobs("preprocess", "COMPLETED")]
    assert max(again) > int(disturbed.cancelled)


def test_a_job_that_waits_for_a_drained_node_is_run_when_it_is_back(disturbed: Disturbed) -> None:
    assert disturbed.waited in disturbed.jobs("", "COMPLETED")


def test_the_files_are_those_of_a_local_run(disturbed: Disturbed, local: Study) -> None:
    def products(study: Study) -> set[str]:
        other = re.compile(r"(demo|logs|benchmarks|cohort)/")
        return {name for name in study.written() if not other.match(name)}

    assert len(products(local)) > 70
    assert products(disturbed.study) == products(local)


def test_the_volumes_are_those_of_a_local_run_byte_for_byte(
    disturbed: Disturbed, local: Study
) -> None:
    volumes = [p.relative_to(local.results) for p in local.volumes()]
    compared = [path for path in volumes if path.parts[0] != "demo"]
    assert len(compared) > 50
    different = [
        str(path)
        for path in compared
        if (local.results / path).read_bytes() != (disturbed.study.results / path).read_bytes()
    ]
    assert different == []


def test_nothing_is_left_to_do_neither_there_nor_here(disturbed: Disturbed) -> None:
    assert disturbed.study.planned() == {}
