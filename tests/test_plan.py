"""What the Snakefile asks before any job runs: runs, samples, shards, subjects, hashes of code."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_ingest import Study, head, nifti, tumour

from tumorfab import ingest, plan
from tumorfab.cli import STAGES
from tumorfab.config import validated
from tumorfab.stage import InputError

# Runs, samples and shards


def test_every_arm_k_n_and_seed_is_a_run_and_real_has_no_n() -> None:
    config = validated({"split": {"train": 4}, "study": {"k": [2, 4], "n": [1, 3], "seeds": [0]}})
    assert [str(run) for run in plan.runs(config)] == [
        "arm-real_k-2_n-0_fold-0_seed-0",
        "arm-real_k-4_n-0_fold-0_seed-0",
        "arm-coarse_k-2_n-1_fold-0_seed-0",
        "arm-coarse_k-2_n-3_fold-0_seed-0",
        "arm-coarse_k-4_n-1_fold-0_seed-0",
        "arm-coarse_k-4_n-3_fold-0_seed-0",
        "arm-tf_k-2_n-1_fold-0_seed-0",
        "arm-tf_k-2_n-3_fold-0_seed-0",
        "arm-tf_k-4_n-1_fold-0_seed-0",
        "arm-tf_k-4_n-3_fold-0_seed-0",
    ]


@given(
    seeds=st.lists(st.integers(0, 99), min_size=1, unique=True),
    n=st.lists(st.integers(1, 9), min_size=1, unique=True),
)
def test_no_two_runs_share_a_folder(seeds: list[int], n: list[int]) -> None:
    runs = plan.runs(validated({"study": {"n": n, "seeds": seeds}}))
    assert len(runs) == (1 + 2 * len(n)) * len(seeds)
    assert len({str(run) for run in runs}) == len(runs)


hosts = st.integers(1, 12).map(lambda count: [f"H{i}" for i in range(count)])


@given(hosts=hosts, fewer=st.integers(0, 40), more=st.integers(0, 40))
def test_samples_of_a_smaller_study_are_a_prefix(hosts: list[str], fewer: int, more: int) -> None:
    assert plan.samples(hosts, fewer + more)[:fewer] == plan.samples(hosts, fewer)


@given(hosts=hosts, k=st.integers(2, 8), n=st.integers(1, 8))
def test_the_largest_run_finds_its_samples_among_the_draws(
    hosts: list[str], k: int, n: int
) -> None:
    config = validated({"split": {"train": 8}, "study": {"k": [2, k] if k > 2 else [2], "n": [n]}})
    draws = plan.draws_per_host(config, len(hosts))
    drawn = {(host, number) for host in hosts for number in range(draws)}
    needed = plan.samples(hosts, n * k)
    assert len(set(needed)) == n * k
    assert set(needed) <= drawn
    assert len(drawn) - len(needed) < len(hosts)  # no host is drawn from in vain


def test_every_host_comes_once_before_any_comes_twice() -> None:
    assert plan.samples(["A", "B", "C"], 5) == [("A", 0), ("B", 0), ("C", 0), ("A", 1), ("B", 1)]


def test_shards_are_pinned() -> None:
    """Another shard for a host would refine all its samples again after an upgrade."""
    assert [plan.shard(host, 5) for host in ("H01", "H02", "IXI012")] == [4, 2, 1]


@given(subject=st.text("abcXYZ019", min_size=1), shards=st.integers(1, 50))
def test_a_shard_exists(subject: str, shards: int) -> None:
    assert 0 <= plan.shard(subject, shards) < shards


def test_shards_are_about_equal() -> None:
    counts = np.bincount([plan.shard(f"IXI{i:03d}", 8) for i in range(800)], minlength=8)
    assert counts.min() > 70
    assert counts.max() < 130


@given(members=st.lists(st.text("abcXYZ019", min_size=1), unique=True), count=st.integers(1, 50))
def test_every_subject_is_in_one_batch_and_keeps_its_place(members: list[str], count: int) -> None:
    found = plan.batches(members, count)
    assert sorted(s for part in found.values() for s in part) == sorted(members)
    assert list(found) == sorted(found)
    for number, part in found.items():
        assert part == [s for s in members if plan.shard(s, count) == number]


@pytest.mark.parametrize(
    ("command", "rules"),
    [
        ("snakemake --cores all", set()),
        ("snakemake --target-jobs a:b=1 --allowed-rules place_1 qc --cores 1", {"place_1", "qc"}),
    ],
)
def test_the_rules_of_a_job_are_read_from_its_command(command: str, rules: set[str]) -> None:
    assert plan.allowed_rules(command.split()) == rules


# The lock of the results folder

HOLD = """
import sys, time
from tumorfab import plan
plan.hold(sys.argv[1])
print("held")
time.sleep(60)
"""


def test_a_second_run_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    results = str(tmp_path / "results")
    env = {**os.environ, "PYTHONPATH": str(plan.PACKAGE.parent)}
    other = subprocess.Popen(
        [sys.executable, "-uc", HOLD, results], stdout=subprocess.PIPE, env=env, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another run is writing here"):
            plan.hold(results)
        other.kill()
        other.wait()
        half_written = tmp_path / "results" / "sub-X" / "anat" / ".tmp-abcsub-X_T1w.nii.gz"
        finished = half_written.with_name("sub-X_T2w.nii.gz")
        half_written.parent.mkdir(parents=True)
        for path in (half_written, finished):
            path.write_bytes(b"\x1f")
        plan.hold(results).release()
        assert finished.exists()
        assert not half_written.exists()
    finally:
        other.kill()
        other.wait()
        assert other.stdout is not None
        other.stdout.close()
        plan.hold.cache_clear()


# Subjects of a cohort of files


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def config_of(cohort: Study, **sections: Any) -> dict[str, Any]:
    config = {
        "results": str(cohort.root / "results"),
        "modalities": ["T1w"],
        "healthy": {"source": "bids", "path": str(cohort.healthy)},
        "annotated": {"source": "brats", "path": str(cohort.annotated)},
        "split": {"train": 2, "validation": 1},
        "study": {"k": [2]},
    }
    return validated({**config, **sections})


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """One entry for each time that the cohort is read anew."""
    seen: list[list[str]] = []
    real = ingest.main

    def counted(argv: list[str]) -> None:
        seen.append(argv)
        real(argv)

    monkeypatch.setattr(ingest, "main", counted)
    return seen


def test_a_checked_cohort_is_not_read_again(study: Study, checks: list[list[str]]) -> None:
    first = plan.subjects(config_of(study), main_process=True)
    assert first["subject"].tolist()[:3] == ["H0", "H1", "H2"]
    assert sorted(first["role"]) == ["host"] * 3 + ["test", "train", "train", "validation"]
    again = plan.subjects(config_of(study, place={"rotation_deg": 5}), main_process=True)
    assert again.equals(first)
    assert len(checks) == 1


@pytest.mark.parametrize("what", ["new subject", "changed file", "setting", "table deleted"])
def test_a_changed_cohort_is_read_again(study: Study, checks: list[list[str]], what: str) -> None:
    config = config_of(study)
    first = plan.subjects(config, main_process=True)
    if what == "new subject":
        nifti(study.t1("H9"), head(9))
    elif what == "changed file":
        nifti(study.t1("H0"), head(9))
    elif what == "setting":
        config["seed"] = 7
    else:
        (study.root / "results" / "cohort" / "subjects.tsv").unlink()
    second = plan.subjects(config, main_process=True)
    assert len(checks) == 2
    new = set(second["subject"]) - set(first["subject"])
    assert new == ({"H9"} if what == "new subject" else set())


def test_a_job_reads_the_table_that_its_workflow_was_planned_with(
    study: Study, checks: list[list[str]]
) -> None:
    planned = plan.subjects(config_of(study), main_process=True)
    nifti(study.t1("H9"), head(9))
    assert plan.subjects(config_of(study), main_process=False).equals(planned)
    assert len(checks) == 1


def test_all_problems_are_raised_every_time_and_nothing_is_written(study: Study) -> None:
    nifti(study.t1("H1"), np.full((12, 14, 10), np.nan, np.float32))
    nifti(study.seg("TF-2"), tumour(7))
    study.t1n("TF-3").unlink()
    for _ in range(2):
        with pytest.raises(InputError) as caught:
            plan.subjects(config_of(study), main_process=True)
        heading, *problems = str(caught.value).splitlines()
        assert heading == "3 problem(s) in the cohorts"
        for problem, where in zip(
            problems, (study.t1("H1"), study.seg("TF-2"), study.annotated / "TF-3"), strict=True
        ):
            assert problem.startswith(f"{where}: ")
    assert not (study.root / "results").exists()


def test_a_cohort_gone_bad_is_refused_although_it_was_checked(study: Study) -> None:
    plan.subjects(config_of(study), main_process=True)
    study.t1("H1").write_bytes(study.t1("H1").read_bytes()[:100])
    for _ in range(2):
        with pytest.raises(InputError, match="H1"):
            plan.subjects(config_of(study), main_process=True)


def test_skip_leaves_a_bad_subject_out(study: Study) -> None:
    study.t1("H1").unlink()
    config = config_of(study, ingest={"on_error": "skip"})
    assert "H1" not in set(plan.subjects(config, main_process=True)["subject"])
    skipped = (study.root / "results" / "cohort" / "skipped.tsv").read_text()
    assert skipped.splitlines()[1].startswith("H1\thealthy\t")


def test_k_beyond_a_given_split_is_refused(study: Study) -> None:
    split = study.root / "split.csv"
    split.write_text("subject,role\nTF-0,train\nTF-1,train\nTF-2,test\nTF-3,test\n")
    config = config_of(study, split={"file": str(split)}, study={"k": [3]})
    with pytest.raises(InputError, match=r"study\.k asks for 3 training cases.* 2$"):
        plan.subjects(config, main_process=True)


# Hashes of code


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package to edit."""
    copy = tmp_path / "tumorfab"
    shutil.copytree(plan.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(plan, "PACKAGE", copy)
    yield copy
    plan.code.cache_clear()


def code(stage: str, *files: str) -> str:
    plan.code.cache_clear()
    return plan.code(stage, *files)


def edited(path: Path, change: Callable[[str], str]) -> None:
    before = path.read_text(encoding="utf-8")
    after = change(before)
    assert after != before
    path.write_text(after, encoding="utf-8")


def test_comments_docstrings_layout_and_times_do_not_count(package: Path) -> None:
    before = {stage: code(stage) for stage in STAGES}
    for path in package.rglob("*.py"):
        edited(path, lambda text: text + "\n# a remark\n")
        edited(path, lambda text: text.replace('"""', '"""New words. ', 1))
        edited(path, lambda text: text.replace("\n\n", "\n\n\n"))
    function = '    """Lock the first free of the named devices'
    edited(package / "gpu.py", lambda text: text.replace(function, '    """Lease one'))
    assert {stage: code(stage) for stage in STAGES} == before


@pytest.mark.parametrize("module", ["place", "bank", "contrast", "stage"])
def test_an_edit_of_a_module_or_of_one_that_it_imports_counts(package: Path, module: str) -> None:
    before = code("place")
    edited(package / f"{module}.py", lambda text: text + "\nEDITED = True\n")
    assert code("place") != before


def test_an_edit_of_another_module_does_not_count(package: Path) -> None:
    before = code("place")
    for module in ("segment", "report", "cli", "plan"):
        edited(package / f"{module}.py", lambda text: text + "\nEDITED = True\n")
    assert code("place") == before


def test_a_template_that_a_stage_reads_counts(package: Path) -> None:
    template = "templates/report.html.j2"
    before = code("report", template)
    edited(package / template, lambda text: text + "\n")
    assert code("report", template) != before


def test_an_unknown_stage_is_an_error() -> None:
    with pytest.raises(ValueError, match="no stage placee"):
        plan.code("placee")


@pytest.mark.parametrize("stage", ["standardise", "report", "baselines.carvemix"])
def test_the_hash_covers_every_module_that_the_stage_loads(package: Path, stage: str) -> None:
    """The imports that the hash walks, against those that the interpreter makes."""
    program = (
        f"import json, sys, tumorfab.{stage};"
        "print(json.dumps([m for m in sys.modules if m.startswith('tumorfab.')]))"
    )
    env = {**os.environ, "PYTHONPATH": str(package.parent)}
    listed = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )
    loaded = [name.removeprefix("tumorfab.") for name in json.loads(listed.stdout)]
    files = [package / f"{module.replace('.', '/')}.py" for module in loaded]
    files = [file for file in files if file.exists()]  # a package holds no code of its own
    assert len(files) > 3
    before = code(stage)
    for file in files:
        original = file.read_text(encoding="utf-8")
        edited(file, lambda text: text + "\nEDITED = True\n")
        assert code(stage) != before, f"an edit of {file.name} goes unseen"
        file.write_text(original, encoding="utf-8")
