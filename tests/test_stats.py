"""stats: known answers, and what must hold for any numbers."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from tumorfab import stats
from tumorfab.stage import InputError

differences = st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=2, max_size=10).map(
    np.array
)


def scores(
    values: dict[str, dict[str, float]],
    folds: dict[str, int] | None = None,
    seeds: tuple[int, ...] = (0,),
    k: int = 2,
) -> pd.DataFrame:
    """Score rows with the given Dice of WT by arm and case; TC and ET are equal to it."""
    rows = [
        {"arm": arm, "k": k, "n": 0 if arm == "real" else 4, "fold": (folds or {}).get(case, 0),
         "seed": seed, "case": case, "region": region, "dice": value}
        for arm, cases in values.items()
        for case, value in cases.items()
        for region in ("WT", "TC", "ET")
        for seed in seeds
    ]  # fmt: skip
    return pd.DataFrame(rows)


def row(table: pd.DataFrame, arm: str, region: str = "WT", k: int = 2) -> dict:
    (found,) = [
        r for r in stats.summarise(table, 1) if (r["arm"], r["region"], r["k"]) == (arm, region, k)
    ]
    return found


# Known answers


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_cases_needed_are_those_of_the_power_tables(effect: float, n: int) -> None:
    """Paired t test, two-sided, alpha 5 %, power 80 % (G*Power 3.1: 199, 34, 15, 10)."""
    assert stats.cases_needed(1.0, effect) == n
    assert stats.cases_needed(0.1, 0.1 * effect) == n


def test_two_points_of_dice_at_a_spread_of_ten() -> None:
    assert stats.cases_needed(0.1) == 199  # an effect of 0.2


def test_holm_by_hand() -> None:
    # sorted 0.005 0.01 0.03 0.04 times 4 3 2 1: 0.02 0.03 0.06 0.04, and never decreasing
    found = stats.holm(np.array([0.01, 0.04, 0.03, 0.005]))
    assert found.tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm(np.array([0.7, 0.6])).tolist() == [1.0, 1.0]
    assert stats.holm(np.array([])).size == 0


def signed_rank_p(values: np.ndarray) -> float:
    """Two-sided p by all sign patterns of the ranks of the values that are not 0."""
    values = values[values != 0]
    ranks = pd.Series(np.abs(values)).rank().to_numpy()
    sums = np.array([ranks @ np.array(signs) for signs in product((-1, 1), repeat=len(ranks))])
    return float((np.abs(sums) >= abs(ranks @ np.sign(values)) - 1e-9).mean())


@pytest.mark.parametrize(
    ("values", "p"),
    [
        ([1, 2, 3, 4, 5], 2 / 32),  # all in favour: both tails of 2 ** 5 patterns
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 2 / 64),
        ([1, -2, 3, 4, 5, 6, 7], 6 / 128),
        ([0, 0, 0], 1.0),
        ([0.1 + 0.2, -0.3, 1], None),  # ties but for rounding, exact among 2 ** 3
        ([0.2, 0.2, -0.2, 0.0, 0.4], None),
    ],
)
def test_wilcoxon_by_counting_sign_patterns(values: list[float], p: float | None) -> None:
    array = np.array(values, float)
    expected = signed_rank_p(np.round(array, 12)) if p is None else p
    assert stats.wilcoxon(array) == pytest.approx(expected)


def test_rank_biserial_by_hand() -> None:
    assert stats.rank_biserial(np.array([1.0, 2, -3, 4])) == pytest.approx((1 + 2 + 4 - 3) / 10)
    assert stats.rank_biserial(np.array([0.0, 0, 5])) == 1
    assert stats.rank_biserial(np.zeros(3)) == 0


def test_the_interval_has_the_width_of_the_normal_one_for_many_cases() -> None:
    values = np.random.default_rng(1).normal(0.1, 0.2, 400)
    low, high = stats.bootstrap(values, np.random.default_rng(2))
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.002)


def test_a_study_by_hand() -> None:
    table = scores({"real": {"A": 0.2, "B": 0.4, "C": 0.3}, "tf": {"A": 0.3, "B": 0.6, "C": 0.3}})
    found = row(table, "tf")
    assert found["difference"] == pytest.approx(0.1)
    assert found["d"] == pytest.approx(0.1 / 0.1)  # of 0.1, 0.2, 0: sd 0.1
    assert found["needed"] == 199
    assert found["p"] == pytest.approx(0.5)  # two of two in favour, the 0 does not count
    assert found["rank_biserial"] == 1
    assert found["mean"] == pytest.approx(0.4)
    assert found["mean_interval"][0] < 0.4 < found["mean_interval"][1]
    assert row(table, "real")["difference"] is None


# Pairing


def test_folds_and_seeds_are_averaged_within_a_patient() -> None:
    """A case scored in twice as many runs weighs no more, and repeated runs narrow nothing."""
    values = {"real": {"A": 0.2, "B": 0.5}, "tf": {"A": 0.3, "B": 0.9}}
    once, thrice = scores(values), scores(values, {"A": 0, "B": 1}, seeds=(0, 1, 2))
    single, repeated = row(once, "tf"), row(thrice, "tf")
    assert (repeated["cases"], repeated["seeds"], repeated["folds"]) == (2, 3, 2)
    for name in ("difference", "interval", "p", "d", "needed", "mean", "sd"):
        assert repeated[name] == pytest.approx(single[name])
    again = pd.concat([once, once[once["case"] == "A"].assign(fold=5)])
    assert row(again, "tf")["difference"] == pytest.approx(single["difference"])


def test_the_pairing_is_within_fold_and_seed() -> None:
    """The level of a fold or a seed, common to both arms, does not enter the difference."""
    rng = np.random.default_rng(0)
    table = scores({"real": {"A": 0.3, "B": 0.4}, "tf": {"A": 0.35, "B": 0.45}}, seeds=(0, 1, 2))
    level = {seed: rng.uniform(-0.2, 0.2) for seed in (0, 1, 2)}
    table["dice"] += table["seed"].map(level)
    found = row(table, "tf")
    assert found["interval"] == pytest.approx((0.05, 0.05))
    assert found["d"] is None  # all differences are equal: no spread to compare with
    assert found["between_seeds"] == pytest.approx(np.std(list(level.values()), ddof=1))


def test_real_is_that_of_the_same_k() -> None:
    two = scores({"real": {"A": 0.2, "B": 0.2}, "tf": {"A": 0.3, "B": 0.3}}, k=2)
    four = scores({"real": {"A": 0.5, "B": 0.5}, "tf": {"A": 0.3, "B": 0.3}}, k=4)
    table = pd.concat([two, four])
    assert row(table, "tf", k=2)["difference"] == pytest.approx(0.1)
    assert row(table, "tf", k=4)["difference"] == pytest.approx(-0.2)


def test_a_run_without_its_partner_is_refused() -> None:
    table = scores({"real": {"A": 0.2, "B": 0.5}, "tf": {"A": 0.3, "B": 0.9}}, seeds=(0, 1))
    lost = table[~((table["arm"] == "real") & (table["seed"] == 1))]
    with pytest.raises(InputError, match="seed 1, case A was scored in one of two arms only"):
        stats.summarise(lost, 1)


def test_holm_is_over_arms_within_a_region() -> None:
    cases = dict.fromkeys("ABCDEF", 0.2)
    better = {case: 0.3 + 0.01 * i for i, case in enumerate(cases)}
    table = scores({"real": cases, "one": better, "two": better})
    assert row(table, "one")["p"] == pytest.approx(2 / 64)
    assert row(table, "one")["p_holm"] == row(table, "two")["p_holm"] == pytest.approx(4 / 64)


def test_values_that_are_not_defined_are_left_out() -> None:
    table = scores({"real": {"A": 0.2, "B": 0.4}, "tf": {"A": 0.3, "B": 0.6}})
    table["sensitivity"] = table["dice"].where(table["case"] != "A")
    (found,) = [
        r
        for r in stats.summarise(table, 1, "sensitivity")
        if (r["arm"], r["region"]) == ("tf", "WT")
    ]
    assert (found["cases"], found["mean"], found["mean_interval"]) == (1, 0.6, None)
    assert found["difference"] == pytest.approx(0.2)
    assert (found["interval"], found["p"], found["needed"]) == (None, None, None)


# What must hold for any numbers


@settings(max_examples=25, deadline=None)
@given(differences, st.floats(-1, 1))
def test_the_interval_lies_in_the_range_and_moves_with_the_values(
    values: np.ndarray, shift: float
) -> None:
    low, high = stats.bootstrap(values, np.random.default_rng(0))
    assert values.min() - 1e-9 <= low <= high <= values.max() + 1e-9
    moved = stats.bootstrap(values + shift, np.random.default_rng(0))
    assert moved == pytest.approx((low + shift, high + shift), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(differences)
def test_which_arm_is_first_changes_signs_and_nothing_else(values: np.ndarray) -> None:
    assert stats.wilcoxon(values) == pytest.approx(stats.wilcoxon(-values))
    assert stats.rank_biserial(values) == pytest.approx(-stats.rank_biserial(-values))
    assert 0 < stats.wilcoxon(values) <= 1


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms())
def test_holm_never_lowers_a_p_keeps_their_order_and_ignores_their_places(
    values: list[float], random
) -> None:
    p = np.array(values)
    adjusted = stats.holm(p)
    assert (adjusted >= p - 1e-12).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= -1e-12).all()
    assert adjusted.min() == pytest.approx(min(1, p.min() * len(p)))
    order = list(range(len(p)))
    random.shuffle(order)
    assert stats.holm(p[order]) == pytest.approx(adjusted[order])


@settings(max_examples=40, deadline=None)
@given(st.floats(0.003, 0.5), st.floats(1.01, 3))
def test_more_spread_needs_more_cases(sd: float, factor: float) -> None:
    few, many = stats.cases_needed(sd), stats.cases_needed(sd * factor)
    assert few is not None
    assert many is not None
    assert 2 <= few <= many


@pytest.mark.parametrize("sd", [0.01, 0.02, 0.03, 0.08])
def test_the_power_at_the_number_needed_is_reached_and_not_long_before(sd: float) -> None:
    """Of 20,000 simulated studies of normal differences, the share that a t test calls."""
    n = stats.cases_needed(sd)
    assert n is not None

    def power(cases: int) -> float:
        drawn = np.random.default_rng(0).normal(stats.BETTER, sd, (20_000, cases))
        t = drawn.mean(1) / (drawn.std(1, ddof=1) / np.sqrt(cases))
        return float((np.abs(t) > student.isf(0.025, cases - 1)).mean())

    assert power(n) > 0.79
    assert power(n - 1) < 0.81


def test_no_sd_tells_nothing() -> None:
    assert stats.cases_needed(0.0) is None
