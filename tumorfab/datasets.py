"""What makes a release's folders datasets: the description files of its BIDS, nnU-Net and BraTS
views. The volumes are linked in by `release`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tumorfab import __version__, stage
from tumorfab.manifest import LABELS, Sample, nnunet_name

BIDS_VERSION = "1.11.0"
PAPER = "https://arxiv.org/abs/2511.18654"
FOLDS = 5  # what nnU-Net trains by default
KINDS = {
    "coarse": "TF-Aug: a real tumour placed in a healthy brain",
    "tf": "TF-GAN: a TF-Aug sample refined by a generative network",
}
_COLOURS = {"NCR": "#3060ff", "ED": "#ffd000", "ET": "#ff2020"}


def write_bids(
    folder: Path, about: Mapping[str, Any], participants: list[dict[str, str]], card: str
) -> None:
    """Write the files at the top of the BIDS view. `about` is what the release says of itself:
    name, licence, authors, commit, addresses of its sources."""
    version = {
        "Name": "tumorfab",
        "Version": __version__,
        "Description": f"commit {about['commit']}",
    }
    stage.write_json(
        folder / "dataset_description.json",
        {
            "Name": about["name"],
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "License": about["licence"],
            "Authors": about["authors"],
            "ReferencesAndLinks": [PAPER],
            "GeneratedBy": [version],
            "SourceDatasets": [{"URL": url} for url in about["sources"]],
        },
    )
    stage.write_text(folder / "README.md", card)
    table = pd.DataFrame(participants)
    stage.write_text(folder / "participants.tsv", table.to_csv(sep="\t", index=False))
    stage.write_json(
        folder / "participants.json",
        {
            "cohort": {
                "Description": "Whose brain it is.",
                "Levels": {
                    "healthy": "a healthy scan",
                    "patient": "a patient, whose tumour is kept or replaced (host_tumour)",
                },
            },
            "licence": {"Description": "Licence of the scan that the samples were made from."},
        },
    )
    labels = [{"index": 0, "name": "background", "abbreviation": "BG", "color": "#000000"}]
    labels += [
        {"index": value, "name": name, "abbreviation": name, "color": _COLOURS[name]}
        for name, value in LABELS.items()
    ]
    stage.write_text(folder / "dseg.tsv", pd.DataFrame(labels).to_csv(sep="\t", index=False))


def image_sidecar(kind: str, reference: str, record: str) -> dict[str, Any]:
    """BIDS sidecar of an image: `record` is the path of the sample's own, `reference` what it is
    aligned with."""
    return {
        "Description": f"Synthetic. {KINDS[kind]}. How it was made: {record}",
        "SkullStripped": True,
        "SpatialReference": reference,
        "Units": "arbitrary",
    }


def write_nnunet(folder: Path, kind: str, samples: list[Sample], modalities: list[str],
                 about: Mapping[str, Any]) -> None:  # fmt: skip
    """Write dataset.json and splits_final.json of one kind of samples."""
    own = folder / nnunet_name(kind)
    stage.write_json(
        own / "dataset.json",
        {
            "name": f"{about['name']} ({kind})",
            "description": f"Synthetic. {KINDS[kind]}.",
            "licence": about["licence"],
            "reference": PAPER,
            "release": about["version"],
            "channel_names": {str(i): m for i, m in enumerate(modalities)},
            "labels": {"background": 0, **LABELS},
            "numTraining": len(samples),
            "file_ending": ".nii.gz",
        },
    )
    if folds := splits(samples):
        stage.write_json(own / "splits_final.json", folds)


def splits(samples: list[Sample]) -> list[dict[str, list[str]]]:
    """Folds of cross-validation that keep the samples of a host together; none with one host."""
    hosts = sorted({sample.host for sample in samples})
    count = min(FOLDS, len(hosts))
    if count < 2:
        return []
    fold = {host: i % count for i, host in enumerate(hosts)}
    return [
        {
            "train": sorted(s.id for s in samples if fold[s.host] != number),
            "val": sorted(s.id for s in samples if fold[s.host] == number),
        }
        for number in range(count)
    ]
