"""The public data sets that a study can name as a source: where they are and under which terms."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Archive:
    """One tar file to fetch, with its MD5 and the modalities that it holds."""

    url: str
    md5: str
    modalities: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Dataset:
    """A data set: the layout in which the cache holds it (bids or brats), its terms, its files."""

    layout: str
    licence: str
    terms: str
    archives: tuple[Archive, ...]

    @property
    def modalities(self) -> list[str]:
        """What it has, in the order of its files."""
        return [modality for archive in self.archives for modality in archive.modalities]

    def needed(self, modalities: list[str]) -> list[Archive]:
        """The files that hold any of `modalities`."""
        return [a for a in self.archives if set(a.modalities) & set(modalities)]


# Addresses and checksums are those of torchio 1.2 (datasets.IXI) and MONAI 1.6 (DecathlonDataset).
_IXI = "http://biomedic.doc.ic.ac.uk/brain-development/downloads/IXI"
_MSD = "https://msd-for-monai.s3-us-west-2.amazonaws.com"
DATASETS = {
    "ixi": Dataset(
        "bids",
        "CC BY-SA 3.0",
        "https://brain-development.org/ixi-dataset/",
        (
            Archive(f"{_IXI}/IXI-T1.tar", "34901a0593b41dd19c1a1f746eac2d58", ("T1w",)),
            Archive(f"{_IXI}/IXI-T2.tar", "e3140d78730ecdd32ba92da48c0a9aaa", ("T2w",)),
        ),
    ),
    "msd-task01": Dataset(
        "brats",
        "CC BY-SA 4.0",
        "http://medicaldecathlon.com/",
        (
            Archive(
                f"{_MSD}/Task01_BrainTumour.tar",
                "240a19d752f0d9e9101544901065d872",
                ("T1w", "T1c", "T2w", "FLAIR"),
            ),
        ),
    ),
}


def cached(cache: str, name: str) -> Path:
    """Where the cache holds a data set; a leading `~` of `cache` is the home folder."""
    return Path(cache).expanduser() / name
