"""Checkpoints from which a killed training goes on as if nothing had happened.

A checkpoint carries a fingerprint of everything that shapes the run. One of another run, or one
that does not load, is never continued from.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tumorfab.stage import InputError, atomic, write_text


def fingerprint(*what: Any) -> str:
    """Hash of JSON-ready values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def save(path: Path, run: str, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) atomically, stamped with `run`."""
    with atomic(path) as temporary, open(temporary, "wb") as handle:
        torch.save({"run": run, "state": state}, handle)


def resume(path: Path, run: str) -> dict[str, Any] | None:
    """The state saved by the same run, or None when there is nothing to go on from."""
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file
        print(f"{path}: unreadable ({type(error).__name__}); starting over", file=sys.stderr)
        return None
    if content.get("run") != run:
        print(f"{path}: belongs to another run; starting over", file=sys.stderr)
        return None
    print(f"{path}: going on from step {content['state']['step']}", file=sys.stderr, flush=True)
    return dict(content["state"])


def load_model(
    path: Path, kind: str, modalities: list[str], spacing: NDArray[np.float64]
) -> dict[str, Any]:
    """A finished model for images of these modalities and `spacing` (mm). Raises `InputError` when
    unreadable, of another kind, or trained on other modalities or another grid."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"{path}: not a readable model ({type(error).__name__}); train it again"
        ) from None
    if content.get("kind") != kind:
        raise InputError(f"{path}: is not a {kind} of tumorfab")
    if content["modalities"] != modalities:
        raise InputError(
            f"{path}: was trained on {', '.join(content['modalities'])}, "
            f"not on {', '.join(modalities)}"
        )
    if not np.allclose(content["spacing"], spacing, atol=0.05):
        was, asked = (" x ".join(f"{x:.3g}" for x in s) for s in (content["spacing"], spacing))
        raise InputError(
            f"{path}: was trained on voxels of {was} mm, not of {asked} mm; "
            "set space.spacing to these, or train it again"
        )
    return dict(content)


def save_model(path: Path, kind: str, modalities: list[str], **content: Any) -> None:
    """Write a finished model atomically; `load_model` reads it without running foreign code."""
    # Through a handle: given a path, torch writes its name, here a random one, into the file.
    with atomic(path) as temporary, open(temporary, "wb") as handle:
        torch.save({"kind": kind, "modalities": modalities, **content}, handle)


def write_history(path: Path, history: list[dict[str, float]], columns: list[str]) -> None:
    """Write a training's history as CSV, a row per step; a value that a step lacks is empty."""
    names = ["step", *columns]
    rows = [",".join(f"{row[c]:.6g}" if c in row else "" for c in names) for row in history]
    write_text(path, "\n".join([",".join(names), *rows]) + "\n")
