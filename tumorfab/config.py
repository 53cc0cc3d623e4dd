"""The study's configuration: defaults filled in, everything checked, one line per problem."""

import copy
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from tumorfab.public import DATASETS
from tumorfab.stage import InputError

SCHEMA = Path(__file__).parent.parent / "workflow" / "schemas" / "config.schema.yaml"
# Keys that hold the two ends of a range, or nothing where the schema allows that.
RANGES = (
    "preprocess.brain_volume_ml",
    "place.count",
    "place.volume_ml",
    "place.scale",
    "place.grow_mm",
    "place.contrast",
    "place.mass_effect",
    "place.oedema_ratio",
)


def validated(config: dict[str, Any]) -> dict[str, Any]:
    """A copy of `config` with every default filled in.

    Raises `InputError` with one line that names each offending key, its value and what is allowed.
    """
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    filled = copy.deepcopy(config)
    problems = [
        _explain(error) for error in jsonschema.Draft202012Validator(schema).iter_errors(filled)
    ]
    if problems:
        raise InputError("config: " + "; ".join(sorted(problems)))
    _fill(filled, schema)
    _cross_check(filled)
    return filled


def _fill(value: dict[str, Any], schema: dict[str, Any]) -> None:
    for key, sub in schema["properties"].items():
        if key not in value:
            value[key] = copy.deepcopy(sub["default"])
        if sub.get("type") == "object":
            _fill(value[key], sub)


def _explain(error: Any) -> str:  # a jsonschema.ValidationError, whose stubs know too little
    where = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties":
        known = sorted(error.schema["properties"])
        unknown = sorted(set(error.instance) - set(known))
        prefix = f"{where}." if where else ""
        return (
            f"unknown key {', '.join(prefix + key for key in unknown)} (known: {', '.join(known)})"
        )
    allowed = {
        "type": lambda: f"must be {error.validator_value}",
        "enum": lambda: f"must be one of {', '.join(map(str, error.validator_value))}",
        "minimum": lambda: f"must be at least {error.validator_value}",
        "exclusiveMinimum": lambda: f"must be above {error.validator_value}",
        "maximum": lambda: f"must be at most {error.validator_value}",
        "multipleOf": lambda: f"must be a multiple of {error.validator_value}",
        "minItems": lambda: f"needs at least {error.validator_value} entries",
        "maxItems": lambda: f"takes at most {error.validator_value} entries",
        "uniqueItems": lambda: "must not repeat an entry",
    }
    what = allowed.get(str(error.validator), lambda: error.message)()
    return f"{where or 'the file'} is {error.instance!r} but {what}"


def _cross_check(config: dict[str, Any]) -> None:
    """What a schema cannot say: relations between keys."""
    for cohort in ("healthy", "annotated"):
        section = config[cohort]
        source = section["source"]
        if source in DATASETS:
            foreign = sorted(set(config["modalities"]) - set(DATASETS[source].modalities))
            if foreign:
                raise InputError(
                    f"config: modalities {', '.join(foreign)}: {cohort}.source {source} has "
                    f"{', '.join(DATASETS[source].modalities)} only"
                )
        elif source not in ("demo", "none") and not section["path"]:
            raise InputError(f"config: {cohort}.path is empty but {cohort}.source is {source!r}")
    healthy = config["healthy"]
    if healthy["brain_weights"] and healthy["brain"] not in ("hd-bet", "synthstrip"):
        raise InputError(
            f"config: healthy.brain_weights: brain {healthy['brain']} uses none; leave it empty, "
            "or set brain to hd-bet or synthstrip"
        )
    if healthy["source"] == "none" and config["place"]["patients"] == "none":
        raise InputError(
            "config: healthy.source is none and so is place.patients: nobody hosts tumours; "
            "set place.patients to kept or healed"
        )
    demo = [config[cohort]["source"] == "demo" for cohort in ("healthy", "annotated")]
    if any(demo) and not all(demo):
        raise InputError(
            "config: healthy.source and annotated.source must both be demo, or neither"
        )
    if any(demo):
        foreign = sorted(set(config["modalities"]) - {"T1w", "T2w"})
        if config["split"]["file"]:
            raise InputError("config: split.file: the demo draws its split; leave it empty")
        if foreign:
            raise InputError(
                f"config: modalities {', '.join(foreign)}: the demo has T1w and T2w only"
            )
    most = max(config["study"]["k"])
    drawn = not config["split"]["file"] and config["annotated"]["source"] != "table"
    if drawn and most > config["split"]["train"]:
        raise InputError(
            f"config: study.k asks for {most} training cases, "
            f"but split.train is {config['split']['train']}"
        )
    segment = config["segment"]
    if segment["network"] == "nnunet" and segment["schedule"] != "joint":
        raise InputError(
            f"config: segment.schedule is {segment['schedule']}, but nnU-Net trains on all cases "
            "at once; set it to joint, or segment.network to segresnet"
        )
    if segment["network"] == "nnunet" and "shuffled" in config["study"]["arms"]:
        raise InputError(
            "config: study.arms: shuffled is not made for nnU-Net; leave it out, or set "
            "segment.network to segresnet"
        )
    if config["annotated"]["space"] == "shared" and config["annotated"]["brain"] != "none":
        raise InputError(
            f"config: annotated.brain is {config['annotated']['brain']}, but cases in a shared "
            "space are stripped already; set it to none, or annotated.space to native"
        )
    _check_ranges(config)


def _check_ranges(config: dict[str, Any]) -> None:
    for key in RANGES:
        section, name = key.split(".")
        ends = config[section][name]
        if len(ends) == 1:
            raise InputError(f"config: {key} is {ends}: give the least and the most, or nothing")
        if ends and ends[0] > ends[1]:
            raise InputError(
                f"config: {key} is [{ends[0]}, {ends[1]}]: the first must not exceed the second"
            )
