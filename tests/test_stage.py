"""What every stage leans on: files that are whole or absent, named randomness, one-line errors."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tumorfab import stage

ROOT = Path(__file__).parent.parent

# atomic


def test_atomic_writes_where_it_is_told_and_makes_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.nii.gz"
    with stage.atomic(path) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == path.parent, "a rename is atomic within one folder only"
        assert temporary.name.startswith(".")
        assert temporary.name.endswith(".nii.gz")
        assert not path.exists()
        written = temporary.stat().st_ino
    assert path.read_text() == "whole"
    assert path.stat().st_ino == written, "renamed, not copied"
    assert os.listdir(path.parent) == ["a.nii.gz"]


def test_atomic_leaves_the_old_file_when_the_writer_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_midway() -> None:
        with stage.atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        fail_midway()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_atomic_gives_the_permissions_of_an_ordinary_file(tmp_path: Path) -> None:
    (tmp_path / "ordinary").touch()
    stage.write_text(tmp_path / "ours", "x")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ordinary", "ours")]
    assert modes[0] == modes[1]


WRITER = """
import sys
from tumorfab.stage import atomic
with atomic(sys.argv[1]) as temporary:
    with open(temporary, "w") as handle:
        handle.write("half")
        handle.flush()
        print("writing", flush=True)
        sys.stdin.read()  # waits here until it is killed
"""


def test_atomic_leaves_no_file_when_the_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"writing\n"
    writer.send_signal(signal.SIGKILL)
    assert writer.wait(10) == -signal.SIGKILL
    writer.communicate()
    assert not path.exists()
    stage.write_text(path, "whole")  # and the next run is not in its way
    assert path.read_text() == "whole"


# text and JSON


def test_json_is_the_same_bytes_in_any_order_of_keys(tmp_path: Path) -> None:
    stage.write_json(tmp_path / "a", {"x": 1, "y": [1.5, "é"]})
    stage.write_json(tmp_path / "b", {"y": [1.5, "é"], "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert stage.read_json(tmp_path / "a") == {"x": 1, "y": [1.5, "é"]}


def test_json_refuses_what_json_cannot_say(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        stage.write_json(tmp_path / "a", {"x": float("nan")})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", [b'{"x": 1', b"\xff\xfe", b""])
def test_broken_json_is_one_line_with_its_path(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(stage.InputError) as caught:
        stage.read_json(path)
    assert str(caught.value).startswith(f"{path}: not valid JSON")
    assert "\n" not in str(caught.value)


def test_missing_json_is_one_line_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(stage.InputError, match=r"a\.json: no such file$"):
        stage.read_json(tmp_path / "a.json")


# rng

NAMES = st.lists(
    st.one_of(st.text("abcé-_", min_size=1, max_size=6), st.integers(0, 999)), max_size=4
)


def draws(seed: int, *names: str | int) -> list[int]:
    return [int(n) for n in stage.rng(seed, *names).integers(0, 2**62, 4)]


def test_rng_gives_the_values_it_always_gave() -> None:
    values = [int(n) for n in stage.rng(7, "place", "sub-01", 3).integers(0, 1_000_000, 4)]
    assert values == [547104, 664483, 669106, 224702]


@given(st.integers(0, 2**32 - 1), NAMES)
def test_rng_depends_on_seed_and_names_and_on_no_earlier_draw(
    seed: int, names: list[str | int]
) -> None:
    first = draws(seed, *names)
    draws(seed, "something", "else")
    np.random.seed(0)
    assert draws(seed, *names) == first


@given(st.integers(0, 2**32 - 1), NAMES, st.integers(0, 2**40), NAMES)
def test_rng_of_other_names_is_another_stream(
    seed: int, names: list[str | int], other_seed: int, other_names: list[str | int]
) -> None:
    same = seed == other_seed and list(map(str, names)) == list(map(str, other_names))
    assert (draws(seed, *names) == draws(other_seed, *other_names)) == same


# run


def exit_of(error: BaseException | None) -> SystemExit:
    def main(argv: list[str] | None) -> None:
        if error:
            raise error

    with pytest.raises(SystemExit) as caught:
        stage.run(main)
    return caught.value


def test_run_turns_bad_input_into_its_message() -> None:
    assert exit_of(stage.InputError("a.nii.gz: is 4D; split it")).code == (
        "error: a.nii.gz: is 4D; split it"
    )


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_run_turns_a_full_disk_into_one_line(code: int) -> None:
    assert exit_of(OSError(code, "full", "results/a.nii.gz")).code == (
        "error: results/a.nii.gz: no space left; free some and run again"
    )


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no", "a"), ValueError("ours")])
def test_run_keeps_the_traceback_of_anything_else(error: Exception) -> None:
    def main(argv: list[str] | None) -> None:
        raise error

    with pytest.raises(type(error)):
        stage.run(main)


def test_run_passes_the_arguments_on_and_returns_when_all_is_well() -> None:
    seen: list[list[str] | None] = []
    stage.run(seen.append, ["--a", "b"])
    assert seen == [["--a", "b"]]


def test_a_stage_ends_in_status_1_and_one_line(tmp_path: Path) -> None:
    params = {"seed": 1, "modalities": ["T1w"], "ingest": {"on_error": "stop"}}
    params["split"] = {"train": 2, "validation": 1, "file": ""}
    for cohort, source in (("healthy", "bids"), ("annotated", "brats")):
        params[cohort] = {"source": source, "path": str(tmp_path / cohort), "licence": ""}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tumorfab.ingest", "--params", json.dumps(params)),
            *("--subjects", str(tmp_path / "a"), "--skipped", str(tmp_path / "b")),
        ],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "error: 2 problem(s) in the cohorts\n" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """/dev/full answers every write with ENOSPC, as a full disk does."""
    code = (
        "import sys\n"
        "from tumorfab.stage import atomic, run\n"
        "def main(argv):\n"
        "    with atomic(sys.argv[1]):\n"
        "        with open('/dev/full', 'w') as handle:\n"
        "            handle.write('x')\n"
        "run(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == "error: disk: no space left; free some and run again\n"
    assert os.listdir(tmp_path) == []


# progress


def test_progress_yields_everything_and_logs_a_line_each_tenth(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert list(stage.progress(iter(range(200)), "working")) == list(range(200))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"working: {done}/200" for done in range(0, 201, 20)]


def test_progress_over_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(stage.progress([], "working")) == []
    assert capsys.readouterr().err == "working: 0/0\n"
