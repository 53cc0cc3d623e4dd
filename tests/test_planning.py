"""A study of hundreds of hosts is planned by few jobs, whose commands Linux accepts."""

import re
from pathlib import Path

import pytest

from benchmarks import planning

pytestmark = pytest.mark.workflow

HOSTS, DRAWS = 250, 10
LONGEST = 128 * 1024  # bytes of one argument; a shell command is one


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("planning")


@pytest.fixture(scope="module")
def printed(folder: Path) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        planning.write_study(folder, HOSTS, DRAWS)
        return planning.measured("--printshellcmds")[1]


def test_a_host_costs_one_job_and_its_share_of_batches(printed: str) -> None:
    counts = {name: int(n) for name, n in re.findall(r"^(\w+) +(\d+)$", printed, re.M)}
    assert counts["preprocess_healthy"] == HOSTS
    batches = sum(n for name, n in counts.items() if re.match(r"(standardise|place)_\d", name))
    assert batches <= 2 * HOSTS // planning.PER_JOB
    assert counts["total"] < 1.3 * HOSTS + 50


def test_no_command_is_longer_than_linux_lets_it_be(printed: str) -> None:
    commands = re.findall(r"^Shell command: (.*)$", printed, re.M)
    assert len(commands) > HOSTS
    inputs = max(re.findall(r"^    input: (.*)$", printed, re.M), key=len)
    assert len(inputs) > LONGEST  # so that names on the command line would not do
    assert max(map(len, commands)) < LONGEST // 10


def test_all_samples_of_the_largest_run_are_asked_for(printed: str) -> None:
    blocks = re.findall(r"^rule refine_\d+:\n(.*?)\n\n", printed, re.M | re.S)
    assert len(set(re.findall(r"\S+_desc-coarse\d+\.json", "".join(blocks)))) == HOSTS * DRAWS


def test_asking_writes_no_list(printed: str, folder: Path) -> None:
    assert (folder / "results" / "cohort").exists()
    assert not (folder / "results" / "lists").exists()
