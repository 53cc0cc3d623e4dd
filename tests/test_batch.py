"""Many runs of a stage in one process."""

import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tumorfab import batch
from tumorfab.stage import InputError


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments of each run of a stage that refuses the host `bad`."""
    seen: list[list[str]] = []

    def main(argv: list[str]) -> None:
        if "bad" in argv:
            raise InputError("bad: no such host")
        seen.append(argv)

    stage = ModuleType("tumorfab.fake")
    stage.main = main  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tumorfab.fake", stage)
    return seen


def each(folder: Path, *runs: list[str]) -> list[str]:
    file = folder / "each.txt"
    file.write_text("".join(f"{shlex.join(run)}\n" for run in runs))
    return ["fake", "--each", str(file)]


def test_every_line_is_a_run_and_the_other_arguments_are_common(
    runs: list[list[str]], tmp_path: Path
) -> None:
    first = ["--host", "H1", "--licence", "CC BY-SA 4.0; the owner's $HOME"]
    batch.main([*each(tmp_path, first, ["--host", "H2"]), "--draws", "3", "--donor", "A", "B"])
    common = ["--draws", "3", "--donor", "A", "B"]
    assert runs == [[*first, *common], ["--host", "H2", *common]]


def test_an_abbreviation_of_an_option_of_its_own_is_the_stage_s(
    runs: list[list[str]], tmp_path: Path
) -> None:
    batch.main([*each(tmp_path, ["--host", "H1"]), "--ea", "5"])
    assert runs == [["--host", "H1", "--ea", "5"]]


def test_the_first_run_that_fails_ends_the_batch(runs: list[list[str]], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bad: no such host"):
        batch.main(each(tmp_path, ["H1"], ["bad"], ["H3"]))
    assert runs == [["H1"]]
