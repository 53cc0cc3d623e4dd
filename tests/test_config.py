"""The configuration: complete, described, strict, and one line for each mistake."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tumorfab.config import SCHEMA, validated
from tumorfab.sources import TABLE_SCHEMA
from tumorfab.stage import InputError

ROOT = Path(__file__).parent.parent


def schema(path: Path = SCHEMA) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def keys(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key of a schema with its subschema, dotted."""
    for name, sub in node["properties"].items():
        yield prefix + name, sub
        if sub.get("type") == "object":
            yield from keys(sub, f"{prefix}{name}.")


KEYS = dict(keys(schema()))
LEAVES = {name: sub for name, sub in KEYS.items() if sub.get("type") != "object"}


def refused(config: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        validated(config)
    message = str(caught.value)
    assert message.startswith("config: ")
    assert "\n" not in message
    return message


def nested(name: str, value: Any) -> dict[str, Any]:
    for part in reversed(name.split(".")):
        value = {part: value}
    result: dict[str, Any] = value
    return result


# The schema itself


@pytest.mark.parametrize("path", [SCHEMA, TABLE_SCHEMA], ids=lambda path: path.name)
def test_each_schema_is_valid_and_every_key_is_described(path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(path))
    for name, sub in keys(schema(path)):
        assert "default" in sub, f"{name} has no default"
        assert len(sub.get("description", "")) > 10, f"{name} has no description"


def test_every_object_refuses_unknown_keys() -> None:
    objects = [schema(), *(sub for sub in KEYS.values() if sub.get("type") == "object")]
    assert len(objects) > 5
    assert all(node["additionalProperties"] is False for node in objects)


@pytest.mark.parametrize("name", LEAVES)
def test_every_default_obeys_its_own_schema(name: str) -> None:
    jsonschema.validate(LEAVES[name]["default"], LEAVES[name])


def test_lengths_and_angles_give_their_unit() -> None:
    units = {"_mm": "mm", "_deg": "degrees", "_ml": "ml", "spacing": "mm"}
    for name, sub in LEAVES.items():
        for ending, unit in units.items():
            if name.endswith(ending):
                assert re.search(rf"\b{unit}\b", sub["description"]), f"{name} names no {unit}"


# Defaults


def test_an_empty_config_is_the_demo_with_every_key_filled_in() -> None:
    config = validated({})
    for name, sub in LEAVES.items():
        value: Any = config
        for part in name.split("."):
            value = value[part]
        assert value == sub["default"]
    assert validated(config) == config


def test_given_values_stay_and_the_argument_is_left_alone() -> None:
    given = {"seed": 9, "split": {"train": 5}}
    before = copy.deepcopy(given)
    config = validated(given)
    assert (config["seed"], config["split"]["train"]) == (9, 5)
    assert config["split"]["validation"] == LEAVES["split.validation"]["default"]
    config["split"]["train"] = 0
    assert given == before


def test_defaults_are_not_shared_between_configs() -> None:
    validated({})["study"]["k"].append(99)
    assert validated({})["study"]["k"] == LEAVES["study.k"]["default"]


# Mistakes


def test_an_unknown_key_is_named_with_the_known_ones() -> None:
    message = refused({"sead": 1})
    known = ", ".join(sorted(schema()["properties"]))
    assert f"unknown key sead (known: {known})" in message


def test_an_unknown_nested_key_is_named_in_full() -> None:
    assert "unknown key split.trian (known: file, folds, train, validation)" in refused(
        {"split": {"trian": 3}}
    )


WRONG = {
    "integer": "many", "number": "many", "string": 3, "array": "T1w", "object": 3, "boolean": "yes",
}  # fmt: skip


@pytest.mark.parametrize("name", KEYS)
def test_a_value_of_the_wrong_type_is_named(name: str) -> None:
    kind = KEYS[name]["type"]
    message = refused(nested(name, WRONG[kind]))
    assert f"{name} is {WRONG[kind]!r} but must be {kind}" in message


@pytest.mark.parametrize("name", [name for name, sub in LEAVES.items() if "minimum" in sub])
def test_a_value_below_the_least_is_named(name: str) -> None:
    least = LEAVES[name]["minimum"]
    assert f"{name} is {least - 1} but must be at least {least}" in refused(nested(name, least - 1))


@pytest.mark.parametrize("name", [name for name, sub in LEAVES.items() if "maximum" in sub])
def test_a_value_above_the_most_is_named(name: str) -> None:
    most = LEAVES[name]["maximum"]
    assert f"{name} is {most + 1} but must be at most {most}" in refused(nested(name, most + 1))


@pytest.mark.parametrize("name", [name for name, sub in LEAVES.items() if "enum" in sub])
def test_a_value_outside_the_choices_is_named(name: str) -> None:
    choices = ", ".join(LEAVES[name]["enum"])
    message = refused(nested(name, "nonsense"))
    assert f"{name} is 'nonsense' but must be one of {choices}" in message


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"modalities": []}, "modalities is [] but needs at least 1 entries"),
        ({"modalities": ["T1w", "T1w"]}, "must not repeat an entry"),
        ({"modalities": ["PET"]}, "modalities.0 is 'PET' but must be one of T1w, T1c, T2w, FLAIR"),
        ({"place": {"scale": [1, 1, 1]}}, "place.scale is [1, 1, 1] but takes at most 2 entries"),
        ({"place": {"scale": [0, 1]}}, "place.scale.0 is 0 but must be above 0"),
        ({"segment": {"patch": 20}}, "segment.patch is 20 but must be a multiple of 8"),
        ({"results": "a{b}"}, "results is 'a{b}' but"),
    ],
)
def test_other_limits_are_named(config: dict[str, Any], expected: str) -> None:
    assert expected in refused(config)


def test_all_mistakes_are_in_the_one_line() -> None:
    message = refused({"sead": 1, "seed": -1, "split": {"train": "x"}})
    assert all(part in message for part in ("sead", "seed is -1", "split.train is 'x'"))


# Relations between keys

BIDS = {"healthy": {"source": "bids", "path": "a"}, "annotated": {"source": "brats", "path": "b"}}


def test_a_real_study_is_accepted() -> None:
    config = validated({**BIDS, "modalities": ["T1c", "FLAIR"]})
    assert config["healthy"]["brain"] == LEAVES["healthy.brain"]["default"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"healthy": {"source": "bids"}}, "healthy.path is empty but healthy.source is 'bids'"),
        (
            {**BIDS, "healthy": {"source": "ixi"}, "modalities": ["FLAIR", "T1w"]},
            "modalities FLAIR: healthy.source ixi has T1w, T2w only",
        ),
        ({"annotated": BIDS["annotated"]}, "must both be demo, or neither"),
        ({"modalities": ["T1w", "FLAIR"]}, "modalities FLAIR: the demo has T1w and T2w only"),
        ({"study": {"k": [2, 9]}}, "study.k asks for 9 training cases, but split.train is 4"),
        ({"healthy": {"brain_weights": "w"}}, "brain_weights: brain registration uses none"),
        (
            {"segment": {"network": "nnunet", "schedule": "pretrain"}},
            "segment.schedule is pretrain, but nnU-Net trains on all cases at once",
        ),
        (
            {"segment": {"network": "nnunet"}, "study": {"arms": ["real", "shuffled"]}},
            "study.arms: shuffled is not made for nnU-Net",
        ),
        ({"place": {"scale": [1.2, 0.8]}}, "place.scale is [1.2, 0.8]: the first must not exceed"),
        ({"preprocess": {"brain_volume_ml": [9, 1]}}, "preprocess.brain_volume_ml is [9, 1]"),
        ({"place": {"count": [3, 1]}}, "place.count is [3, 1]: the first must not exceed"),
        ({"place": {"volume_ml": [40, 20]}}, "place.volume_ml is [40, 20]: the first must not"),
        ({"place": {"volume_ml": [20]}}, "place.volume_ml is [20]: give the least and the most"),
        ({"place": {"oedema_ratio": [2]}}, "place.oedema_ratio is [2]: give the least and the"),
        ({"place": {"grow_mm": [1, -1]}}, "place.grow_mm is [1, -1]: the first must not exceed"),
        ({"place": {"mass_effect": [0.3, 0.1]}}, "place.mass_effect is [0.3, 0.1]: the first"),
    ],
)
def test_contradictions_are_named(config: dict[str, Any], expected: str) -> None:
    assert expected in refused(config)


def test_public_sources_need_no_path() -> None:
    config = validated({"healthy": {"source": "ixi"}, "annotated": {"source": "msd-task01"}})
    assert config["healthy"]["path"] == config["annotated"]["path"] == ""


def test_a_split_file_lifts_the_limit_on_k() -> None:
    own = {
        "healthy": {"source": "bids", "path": "a"},
        "annotated": {"source": "brats", "path": "b"},
        "study": {"k": [9]},
    }
    assert validated({**own, "split": {"file": "split.csv"}})["study"]["k"] == [9]
    in_table = {**own, "annotated": {"source": "table", "path": "b.csv"}}
    assert validated(in_table)["study"]["k"] == [9]


def test_the_demo_takes_no_split_file() -> None:
    with pytest.raises(InputError, match=r"split.file: the demo draws its split"):
        validated({"split": {"file": "split.csv"}})


# The configs that ship


def test_the_default_config_is_a_valid_demo() -> None:
    config = validated(yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8")))
    assert config["healthy"]["source"] == config["annotated"]["source"] == "demo"
    kept = config["split"]["train"] + config["split"]["validation"]
    assert config["demo"]["annotated"] > kept, "no case would be left to test on"
    # Snakemake lays config.yaml under any --configfile: a value of its own would leak into studies
    # that leave the key out and mean its default.
    assert config == validated({})


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_study_is_valid(path: Path) -> None:
    validated(yaml.safe_load(path.read_text(encoding="utf-8")))
