"""Folds: drawn without a leak, every case tested once, one fold as ever; the jobs that follow."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tumorfab import ingest, plan, split
from tumorfab.config import validated
from tumorfab.stage import InputError

ROOT = Path(__file__).parent.parent


def table(roles: dict[str, str]) -> pd.DataFrame:
    rows = [{"subject": "H1", "cohort": "healthy", "role": "host"}]
    rows += [{"subject": s, "cohort": "annotated", "role": role} for s, role in roles.items()]
    return pd.DataFrame(rows)


def names(count: int) -> list[str]:
    return [f"TF{i:03d}" for i in range(count)]


sizes = st.tuples(st.integers(2, 6), st.integers(0, 3), st.integers(1, 6), st.integers(0, 20))


@given(sizes, st.integers(0, 2**32 - 1))
def test_every_case_is_tested_once_and_no_fold_leaks(
    size: tuple[int, int, int, int], seed: int
) -> None:
    train, validation, folds, more = size
    fewest = train + validation
    count = fewest + more + max(-(-fewest // max(folds - 1, 1)), 1) + folds
    found = plan.folds(table(split.draw_split(seed, names(count), train, validation, folds)))
    assert len(found) == folds
    for fold in found:
        parts = [*fold.train, *fold.validation, *fold.test]
        assert len(set(parts)) == len(parts)
        assert (len(fold.train), len(fold.validation)) == (train, validation)
        assert fold.test
    tested = [case for fold in found for case in fold.test]
    assert len(set(tested)) == len(tested)
    assert len(tested) == (count if folds > 1 else count - train - validation)
    lengths = [len(fold.test) for fold in found]
    assert max(lengths) - min(lengths) <= 1


@given(st.integers(2, 5), st.integers(0, 3), st.integers(1, 9), st.integers(0, 999))
def test_one_fold_is_the_split_as_ever(train: int, validation: int, more: int, seed: int) -> None:
    subjects = names(train + validation + more)
    order = split.draw_order(seed, subjects)
    roles = split.draw_split(seed, subjects, train, validation)
    assert list(roles) == order
    assert list(roles.values()) == ["train"] * train + ["validation"] * validation + ["test"] * more
    assert plan.folds(table(roles)) == [
        plan.Fold(order[:train], order[train : train + validation], order[train + validation :])
    ]


def test_two_folds_by_hand() -> None:
    order = split.draw_order(1, names(7))
    roles = split.draw_split(1, names(7), train=2, validation=1, folds=2)
    assert list(roles) == order
    assert list(roles.values()) == [
        "test/train", "test/train", "test/validation",
        "train/test", "train/test", "validation/test", "unused/test",
    ]  # fmt: skip
    first, second = plan.folds(table(roles))
    assert (first.train, first.validation, first.test) == (order[3:5], order[5:6], order[:3])
    assert (second.train, second.validation, second.test) == (order[:2], order[2:3], order[3:])


@pytest.mark.parametrize(("count", "folds"), [(8, 2), (5, 5), (3, 4)])
def test_too_few_cases_for_the_folds(count: int, folds: int) -> None:
    with pytest.raises(InputError, match=rf"{count} usable cases in {folds} folds leave \d beside"):
        split.draw_split(1, names(count), train=4, validation=1, folds=folds)


def test_a_given_split_is_one_fold() -> None:
    params = {"seed": 1, "split": {"train": 2, "validation": 0, "folds": 2}}
    with pytest.raises(InputError, match=r"split\.folds is 2, but the split is given"):
        split.assign_roles(params, {"A": "train", "B": "train", "C": "test"}, ["A", "B", "C"])


def test_a_case_without_tumour_trains_in_no_fold() -> None:
    cases = [ingest.Case("annotated", s, s, {"seg": f"{s}.nii.gz"}) for s in names(6)]
    cases[3].empty = True
    params = {"seed": 1, "ingest": {"on_error": "stop"},
              "split": {"train": 3, "validation": 0, "folds": 2}}  # fmt: skip
    ingest.settle(params, None, cases)
    assert "has no tumour, but its case is in the training split" in cases[3].problems[0]


def test_runs_of_every_fold() -> None:
    config = validated(
        {"split": {"train": 4, "folds": 2}, "study": {"arms": ["real"], "seeds": [0]}}
    )
    assert [str(run) for run in plan.runs(config)] == [
        "arm-real_k-4_n-0_fold-0_seed-0",
        "arm-real_k-4_n-0_fold-1_seed-0",
    ]


# The jobs


class Job(NamedTuple):
    """A job of a dry run: its rule, its files, its shell command."""

    rule: str
    inputs: list[str]
    outputs: list[str]
    command: str

    def option(self, name: str) -> list[str]:
        """The values of an option of the command."""
        found = re.search(rf"--{name}((?: (?!--)\S+)+)", self.command)
        return found[1].split() if found else []


def planned(tmp_path: Path, config: dict[str, Any]) -> list[Job]:
    """The jobs of a dry run that make something of a fold."""
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "-n",
         "--printshellcmds", "--configfile", "study.yaml"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = []
    for part in re.split(r"^(?:local)?rule ", done.stdout, flags=re.M)[1:]:
        files = {
            name: found[1].split(", ")
            if (found := re.search(rf"^    {name}: (.*)", part, re.M))
            else []
            for name in ("input", "output")
        }
        command = re.search(r"python -m tumorfab\..*", part)
        jobs.append(Job(part.partition(":")[0], *files.values(), command[0] if command else ""))
    return [job for job in jobs if any("fold-" in path for path in job.outputs)]


@pytest.mark.workflow
def test_the_jobs_of_a_fold_see_its_own_cases_alone(tmp_path: Path) -> None:
    config = {
        "demo": {"healthy": 2, "annotated": 9},
        "split": {"train": 4, "validation": 1, "folds": 3},
        "study": {"arms": ["real", "coarse", "tf"], "k": [2, 4], "n": [1], "seeds": [0, 1]},
        "place": {"patients": "healed"},
    }
    jobs = planned(tmp_path, config)
    filled = validated(config)
    order = split.draw_order(filled["seed"], [f"TF{i:05d}" for i in range(1, 10)])
    assert (
        sum("tumorfab.segment" in j.command for j in jobs) == 3 * 2 * 2 * 3
    )  # arms, k, seeds, folds
    for fold in range(3):
        test = set(order[3 * fold : 3 * fold + 3])
        mine = [job for job in jobs if f"fold-{fold}_" in job.outputs[0]]
        assert {"train_refiner", "score"} < {job.rule for job in mine}
        for job in mine:
            named = {value for o in ("train", "validation", "donor") for value in job.option(o)}
            assert not named & test, job
            read = [path for path in job.inputs for case in test if f"sub-{case}" in path]
            if "tumorfab.segment" in job.command:  # of test cases the images, nothing made of them
                assert all(path.startswith("results/sub-") for path in read), job
                assert not any("dseg" in path for path in read), job
            elif job.rule != "score":
                assert not read, job
        segment = [job for job in mine if "tumorfab.segment" in job.command]
        assert all(set(job.option("test")) == test for job in segment)
        assert {len(job.option("train")) for job in segment} == {2, 4}
        made = " ".join(
            path for job in mine if "batch place" in job.command for path in job.outputs
        )
        first = next(job for job in segment if "k-4" in job.outputs[0]).option("train")
        assert set(re.findall(r"k-\d/sub-(\w+)/anat", made)) == {"H01", "H02", *first[:2]}
        for k in (2, 4):  # what the refiner learns from lies in its own training cases alone
            assert set(re.findall(rf"k-{k}/refiner/sub-(\w+)/anat", made)) == set(first[:k])
