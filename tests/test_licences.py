"""The terms of a release follow from the licences of its sources."""

import itertools

import pytest

from tumorfab import licences
from tumorfab.stage import InputError


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("CC BY-SA 4.0", "CC BY-SA 4.0"),
        ("cc-by-sa-3.0", "CC BY-SA 3.0"),
        ("CC-BY-NC-4.0", "CC BY-NC 4.0"),
        ("CC BY", "CC BY 4.0"),
        (" CC  BY-NC-SA 4.0 ", "CC BY-NC-SA 4.0"),
        ("CC0", "CC0 1.0"),
        ("PDDL", "CC0 1.0"),
        ("ICBM", "CC BY 4.0"),
        ("research only", "research only"),
        ("CC BY-ND 4.0", "no derivatives"),
        ("CC BY-NC-ND 4.0", "no derivatives"),
    ],
)
def test_a_licence_is_read(text: str, name: str) -> None:
    found = licences.read(text)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("text", ["unknown", "", "see website", "CC BY-SA-XX", "CC BYNC 4.0"])
def test_what_names_no_licence_is_none(text: str) -> None:
    assert licences.read(text) is None


COMBINED = [
    (["CC0"], "CC0 1.0"),
    (["CC0", "CC BY 4.0"], "CC BY 4.0"),
    (["CC BY 3.0", "CC BY-SA 3.0"], "CC BY-SA 3.0"),
    (["CC BY-SA 3.0", "CC BY-SA 4.0"], "CC BY-SA 4.0"),
    (["CC BY 4.0", "CC BY-NC 4.0"], "CC BY-NC 4.0"),
    (["CC BY-NC 4.0", "CC BY-NC-SA 4.0"], "CC BY-NC-SA 4.0"),
    (["CC BY 4.0", "research only"], "research only"),
    (["CC BY-NC 4.0", "research only"], "research only"),
    (["ICBM", "ICBM"], "CC BY 4.0"),
]
REFUSED = [
    ["CC BY-SA 4.0", "CC BY-NC 4.0"],
    ["CC BY-SA 4.0", "CC BY-NC-SA 4.0"],
    ["CC BY-SA 3.0", "research only"],
    ["CC BY-NC-SA 4.0", "research only"],
    ["CC BY 4.0", "CC BY-ND 4.0"],
    ["CC0", "no redistribution"],
    ["CC0", "unknown"],
]


def whose(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(f"subject{i:02d}", text) for i, text in enumerate(texts)]


@pytest.mark.parametrize(("texts", "name"), COMBINED)
def test_terms_are_the_strictest_in_any_order(texts: list[str], name: str) -> None:
    for order in itertools.permutations(texts):
        assert licences.combine(whose(order)).name == name


@pytest.mark.parametrize("texts", REFUSED)
def test_what_cannot_be_combined_is_refused_with_names(texts: list[str]) -> None:
    for order in itertools.permutations(texts):
        with pytest.raises(InputError) as caught:
            licences.combine(whose(order))
        message = str(caught.value)
        assert "\n" not in message
        bad = order.index(texts[-1])
        assert f"subject{bad:02d} ({texts[-1]})" in message
        assert "release.internal" in message


def test_the_terms_of_terms_are_themselves() -> None:
    """A release may itself be a source, also together with what it was made from."""
    for texts, name in COMBINED:
        assert licences.combine([*whose(tuple(texts)), ("release", name)]).name == name


def test_many_names_are_cut_short() -> None:
    with pytest.raises(InputError, match=r"subject04 \(unknown\) and 95 more: unknown; state it"):
        licences.combine(whose(("unknown",) * 100))


def test_one_subject_with_two_licences_has_both() -> None:
    with pytest.raises(InputError, match=r"A \(CC BY-SA 4.0\), A \(CC BY-NC 4.0\)"):
        licences.combine([("A", "CC BY-SA 4.0"), ("A", "CC BY-NC 4.0")])


def test_addresses() -> None:
    found = {text: licences.combine([("a", text)]).url for text in ("CC BY-NC-SA 3.0", "CC0")}
    assert found == {
        "CC BY-NC-SA 3.0": "https://creativecommons.org/licenses/by-nc-sa/3.0/",
        "CC0": "https://creativecommons.org/publicdomain/zero/1.0/",
    }
