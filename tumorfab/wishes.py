"""What a user asks of single samples: a table with one row per host and number.

Columns `host` and `number` name the sample, the others what is asked of it; an empty cell asks for
nothing, and the config's `place` section holds.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from tumorfab.sites import LANDMARKS
from tumorfab.stage import InputError
from tumorfab.volume import first_line

Wishes = dict[tuple[str, int], dict[str, Any]]

CHOICES = {
    "preset": ("any", "hgg", "lgg"),
    "region": ("any", *LANDMARKS),
    "side": ("any", "left", "right"),
}
# Columns of one number, and the range that it has to be in.
NUMBERS = {
    "count": (1, 5),
    "volume_ml": (0.1, 300.0),
    "mass_effect": (0.0, 0.6),
    "oedema_ratio": (0.0, 20.0),
    "mni_x": (-100.0, 100.0),
    "mni_y": (-140.0, 110.0),
    "mni_z": (-100.0, 120.0),
}
COLUMNS = ("host", "number", "donor", *CHOICES, *NUMBERS)


def read(path: Path | str) -> Wishes:
    """The wishes of a CSV file, as overrides of the config's `place` section. Raises `InputError`
    that names file, row and column."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; place.table names it") from None
    except (ValueError, UnicodeDecodeError) as error:
        why = first_line(error)
        raise InputError(f"{path}: not a readable CSV file ({why}); write it again") from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes what is too much for names
        raise InputError(f"{path}: rows have more cells than there are columns; write it again")
    unknown = [c for c in table.columns if c not in COLUMNS]
    missing = [c for c in ("host", "number") if c not in table.columns]
    if unknown or missing:
        what = f"unknown column {unknown[0]}" if unknown else f"no column {missing[0]}"
        raise InputError(f"{path}: {what}; known are {', '.join(COLUMNS)}")
    wishes: Wishes = {}
    for line, row in enumerate(table.to_dict("records"), 2):
        asked = {str(column): value.strip() for column, value in row.items() if value.strip()}
        try:
            key = asked.pop("host"), int(asked.pop("number"))
        except (KeyError, ValueError):
            raise InputError(f"{path}: line {line}: host and number are needed") from None
        if key[1] < 0:
            raise InputError(f"{path}: line {line}: number is {key[1]}; samples count from 0")
        if key in wishes:
            raise InputError(f"{path}: line {line}: asks again for sample {key[1]} of {key[0]}")
        try:
            wishes[key] = overrides(asked)
        except ValueError as error:
            raise InputError(f"{path}: line {line}: {error}") from None
    return wishes


def check(path: str, hosts: list[str], draws: int) -> None:
    """Raise `InputError` for a table that `read` refuses, or that asks for samples which a study
    with these hosts and so many draws in each does not make. No path: no wishes."""
    for host, number in read(path) if path else {}:
        if host not in hosts:
            raise InputError(f"{path}: {host} is no host of this study; leave its row out")
        if number >= draws:
            raise InputError(
                f"{path}: sample {number} of {host} is not made: each host has {draws}, from 0 on; "
                "raise study.n"
            )


def overrides(asked: dict[str, str]) -> dict[str, Any]:
    """One row's cells as values of the `place` section. Raises `ValueError` with the reason."""
    found: dict[str, Any] = {"donor": asked["donor"]} if "donor" in asked else {}
    for column, choices in CHOICES.items():
        if column in asked:
            if asked[column] not in choices:
                raise ValueError(f"{column} is {asked[column]}, not one of {', '.join(choices)}")
            found[column] = asked[column]
    numbers = {}
    for column, (low, high) in NUMBERS.items():
        if column in asked:
            try:
                numbers[column] = float(asked[column])
            except ValueError:
                raise ValueError(f"{column} is {asked[column]}, not a number") from None
            if not low <= numbers[column] <= high:
                raise ValueError(f"{column} is {asked[column]}, outside {low:g} to {high:g}")
    site = [numbers.pop(f"mni_{axis}", None) for axis in "xyz"]
    if any(v is not None for v in site):
        if None in site:
            raise ValueError("a site needs mni_x, mni_y and mni_z")
        found["site_mni_mm"] = site
    if "count" in numbers:
        count = numbers.pop("count")
        if count != int(count):
            raise ValueError(f"count is {asked['count']}, not a whole number")
        found["count"] = [int(count), int(count)]
    return found | {column: [value, value] for column, value in numbers.items()}
