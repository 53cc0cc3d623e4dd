"""The split of the annotated cohort: which cases train, validate and test, in one fold or several.

Drawn from the study's seed, or given by a file. Nothing is known here but the names of the cases.
"""

import hashlib
import itertools
from collections.abc import Iterable
from typing import Any

from tumorfab.sources import Case, read_table
from tumorfab.stage import InputError

ROLES = ("train", "validation", "test")
UNUSED = "unused"  # in a fold of several: neither tested nor among the wanted training cases
FEWEST_TRAINING = 2


def draw_order(seed: int, subjects: Iterable[str]) -> list[str]:
    """The subjects in a random order in which the place of any two depends on seed and ids alone.

    So a case that comes or goes moves no other past another.
    """
    return sorted(subjects, key=lambda s: hashlib.sha256(f"{seed}/split/{s}".encode()).digest())


def draw_split(
    seed: int, subjects: Iterable[str], train: int, validation: int, folds: int = 1
) -> dict[str, str]:
    """Role of each annotated subject, in the order of `draw_order`.

    One fold: the first are training cases, then validation, the rest is the test set. Several: the
    order is cut into as many parts, each the test set of one fold, so that every case is tested
    once; a fold's training and validation cases are those that follow its test set, round the end.
    The role is then one per fold, as in train/test. Raises `InputError` when the cases do not
    suffice.
    """
    order = draw_order(seed, subjects)
    if folds > 1:
        return _draw_folds(order, train, validation, folds)
    if len(order) <= train + validation:
        raise InputError(
            f"annotated cohort: {len(order)} usable cases, but split.train ({train}) and "
            f"split.validation ({validation}) leave none to test on; lower them or add cases"
        )
    roles = ["train"] * train + ["validation"] * validation
    return dict(zip(order, roles + ["test"] * (len(order) - len(roles)), strict=True))


def _draw_folds(order: list[str], train: int, validation: int, folds: int) -> dict[str, str]:
    count = len(order)
    largest = -(-count // folds)  # test set
    if count < folds or count - largest < train + validation:
        raise InputError(
            f"annotated cohort: {count} usable cases in {folds} folds leave "
            f"{max(count - largest, 0)} beside a test set, but split.train ({train}) and "
            f"split.validation ({validation}) need {train + validation}; lower them or add cases"
        )
    cuts = [fold * count // folds for fold in range(folds + 1)]
    roles: dict[str, list[str]] = {subject: [] for subject in order}
    for start, end in itertools.pairwise(cuts):
        for place, subject in enumerate(order[end:] + order[:end]):
            others = ["train"] * train + ["validation"] * validation
            others += [UNUSED] * (count - (end - start) - len(others))
            roles[subject].append((others + ["test"] * (end - start))[place])
    return {subject: "/".join(each) for subject, each in roles.items()}


def given_split(params: dict[str, Any], cases: list[Case]) -> dict[str, str] | None:
    """Role of each annotated subject from the split file or the cohort's table; None if neither.

    Raises `InputError` when the file does not give every case exactly one valid role.
    """
    path = params["split"]["file"]
    in_table = {case.subject: case.role for case in cases if case.role}
    if not path:
        return in_table or None
    if in_table:
        raise InputError(
            f"{path}: the table of the annotated cohort has a role column too; drop one"
        )
    rows = read_table(path)
    if not rows or set(rows[0]) != {"subject", "role"}:
        raise InputError(f"{path}: needs the columns subject and role, and no other")
    names = {
        name: case.subject for case in cases for name in (case.source_id, f"sub-{case.subject}")
    }
    names |= {case.subject: case.subject for case in cases}
    problems = []
    roles: dict[str, str] = {}
    for row in rows:
        subject = names.get(row["subject"])
        if subject is None:
            problems.append(f"subject {row['subject']!r} is not in the annotated cohort")
        elif subject in roles:
            problems.append(f"subject {row['subject']!r} is listed twice")
        elif row["role"] not in ROLES:
            problems.append(
                f"role {row['role']!r} of {row['subject']} is none of {', '.join(ROLES)}"
            )
        if subject is not None:
            roles[subject] = row["role"]
    missing = [case.source_id for case in cases if case.subject not in roles]
    if missing:
        problems.append(f"no role for {', '.join(missing)}")
    if problems:
        raise InputError(f"{path}: " + "; ".join(problems))
    return roles


def assign_roles(
    params: dict[str, Any], given: dict[str, str] | None, subjects: list[str]
) -> dict[str, str]:
    """Role of each of `subjects`, ordered by role and then by `draw_order`.

    Raises `InputError` when the split has too few training cases or no test case.
    """
    split, seed = params["split"], params["seed"]
    if given is None:
        return draw_split(seed, subjects, split["train"], split["validation"], split["folds"])
    if split["folds"] > 1:
        raise InputError(
            f"config: split.folds is {split['folds']}, but the split is given and has one fold; "
            "set split.folds to 1, or leave split.file and the column role out"
        )
    order = sorted(draw_order(seed, subjects), key=lambda subject: ROLES.index(given[subject]))
    roles = {subject: given[subject] for subject in order}
    have = list(roles.values())
    if have.count("train") < FEWEST_TRAINING or "test" not in have:
        raise InputError(
            f"annotated cohort: the given split has {have.count('train')} usable training and "
            f"{have.count('test')} test cases; {FEWEST_TRAINING} and 1 are the least"
        )
    return roles
