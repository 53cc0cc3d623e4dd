"""What a release says of itself to people: dataset card, citation, config, provenance."""

import hashlib
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from tumorfab import __version__, manifest
from tumorfab.datasets import KINDS, PAPER
from tumorfab.page import render

ROOT = Path(__file__).parent.parent
# Where a config says where something is on the machine of its maker.
PLACES = (
    ("results",),
    ("cache",),
    ("healthy", "path"),
    ("healthy", "brain_weights"),
    ("annotated", "path"),
    ("split", "file"),
    ("place", "table"),
)
WITHHELD = "withheld"


def commit() -> str:
    """The git commit of this program, `+` after it where files differ from it; `unknown` where it
    is not run from a clone."""

    def git(*arguments: str) -> str:
        call = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != ROOT.resolve():
            return "unknown"
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def provenance(lock: Path, git: str) -> dict[str, Any]:
    """What the release was made with: commit, Python, and of every package of the lock the version
    that is installed."""
    pinned = [
        line.split("==")[0]
        for line in lock.read_text(encoding="utf-8").splitlines()
        if "==" in line
    ]
    installed = {}
    for name in pinned:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "tumorfab": __version__,
        "commit": git,
        "python": platform.python_version(),
        "lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest(),
        "packages": installed,
    }


def published(config: Mapping[str, Any]) -> str:
    """The study's config as YAML, without the places on the machine where it ran."""
    copy = yaml.safe_load(yaml.safe_dump(dict(config)))
    for *sections, key in PLACES:
        section = copy
        for name in sections:
            section = section[name]
        section[key] = WITHHELD if section[key] else ""
    return str(yaml.safe_dump(copy, sort_keys=True))


def card(
    about: Mapping[str, Any], rows: list[dict[str, Any]], excluded: list[dict[str, str]]
) -> str:
    """The dataset card, a datasheet (Gebru et al. 2021) in Markdown."""
    table = pd.DataFrame(rows)
    table["wt_ml"] = table[[f"{name.lower()}_ml" for name in manifest.LABELS]].sum(axis=1)
    with_tumour = table[~table["tumour_free"]]
    licences = Counter(
        [f"hosts: {v}" for v in table.groupby("host")["licence_host"].first()]
        + [f"donors: {v}" for v in _donor_licences(table)]
    )
    return render(
        "card.md.j2",
        about=about,
        kinds=[(kind, KINDS[kind], int((table["kind"] == kind).sum())) for kind in about["kinds"]],
        count=len(table),
        hosts=table["host"].nunique(),
        donors=len({d for cell in table["donors"] for d in cell.split(";") if d}),
        tumour_free=int(table["tumour_free"].sum()),
        volumes=with_tumour["wt_ml"].quantile([0, 0.25, 0.5, 0.75, 1]).round(1).tolist(),
        excluded=sorted(Counter(e["by"] for e in excluded).items()),
        licences=sorted(licences.items()),
    )


def _donor_licences(table: pd.DataFrame) -> list[str]:
    pairs: dict[str, str] = {}
    for donors, licences in zip(table["donors"], table["licence_donors"], strict=True):
        pairs |= dict(zip(donors.split(";"), licences.split(";"), strict=True)) if donors else {}
    return list(pairs.values())


def citation(about: Mapping[str, Any]) -> str:
    """CITATION.cff, version 1.2.0."""
    authors: list[dict[str, str]] = []
    for author in about["authors"]:
        family, comma, given = author.partition(",")
        person = {"family-names": family.strip(), "given-names": given.strip()}
        authors.append(person if comma else {"name": author})
    value = {
        "cff-version": "1.2.0",
        "message": "If you use this dataset, cite it, its sources and the method.",
        "type": "dataset",
        "title": about["name"],
        "version": about["version"],
        **({"date-released": about["date"]} if about["date"] else {}),
        "authors": authors or [{"name": f"makers of {about['name']}"}],
        "abstract": "Synthetic brain-tumour MRI with labels.",
        "keywords": ["brain tumour", "MRI", "synthetic", "segmentation"],
        "references": [
            {
                "type": "article",
                "title": "From Healthy Scans to Annotated Tumors: A Tumor Fabrication Framework "
                "for 3D Brain MRI Synthesis",
                "authors": [{"name": "Dong et al."}],
                "year": 2025,
                "url": PAPER,
            }
        ],
    }
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
