"""A toy cohort in the analysis space, written as `standardise` writes it: ball-shaped brains."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from tumorfab import bank, config, place, stage
from tumorfab.host import Host, load_host
from tumorfab.volume import Grid, save

LABEL = "analysis"
MODALITIES = ["T1w", "T2w"]
GRID = Grid((40, 44, 36), np.diag([-4.0, -4.0, 4.0, 1.0]))
PLACE = config.validated({})["place"]
CONTRAST = {  # CSF, GM, WM, then NCR, ED, ET
    "T1w": (-3.0, 0.0, 1.0, -2.0, -0.7, 0.8),
    "T2w": (4.0, 0.0, -1.0, 3.5, 2.5, 1.5),
}


def distance(centre: np.ndarray) -> np.ndarray:
    """Distance in mm of every voxel of GRID from a voxel."""
    index = np.indices(GRID.shape).reshape(3, -1).T
    return np.linalg.norm((index - centre) * GRID.spacing, axis=1).reshape(GRID.shape)


def write_subject(results: Path, subject: str, tumour: tuple[int, int, int] | None = None) -> Path:
    """Write one subject's standardised files; `tumour` is the voxel at the centre of its tumour."""
    anat = results / f"sub-{subject}" / "anat"
    rng = stage.rng(0, "toy", subject)
    centre = (np.array(GRID.shape) - 1) / 2
    radius = distance(centre)
    brain = radius < 64
    csf = (radius < 10) & brain
    wm = (radius >= 10) & (radius < 48) & brain
    maps = {"CSF": csf, "WM": wm, "GM": brain & ~csf & ~wm}
    labels = np.zeros(GRID.shape, np.uint8)
    if tumour is not None:
        reach = distance(np.array(tumour))
        for value, size in ((2, 22), (3, 14), (1, 8)):
            labels[(reach < size) & brain] = value
        save(anat / f"sub-{subject}_space-{LABEL}_dseg.nii.gz", labels, GRID.affine)
    stem = anat / f"sub-{subject}_space-{LABEL}"
    for name, tissue in maps.items():
        save(Path(f"{stem}_label-{name}_probseg.nii.gz"), tissue.astype(np.float32), GRID.affine)
    save(Path(f"{stem}_desc-brain_mask.nii.gz"), brain, GRID.affine)
    save(Path(f"{stem}_label-ventricles_mask.nii.gz"), csf, GRID.affine)
    # The middle of the grid is a point of MNI152's midsagittal plane.
    to_mni = np.eye(4)
    to_mni[:3, 3] = -(GRID.affine @ [*centre, 1])[:3]
    plane = {"point_mm": (-to_mni[:3, 3]).tolist(), "normal": [1.0, 0.0, 0.0]}
    about = {"mni_from_space": to_mni.tolist(), "midsagittal_plane": plane}
    stage.write_json(f"{stem}_desc-preproc.json", about)
    for modality in MODALITIES:
        values = dict(zip(("CSF", "GM", "WM", 1, 2, 3), CONTRAST[modality], strict=True))
        image = np.zeros(GRID.shape)
        for name, tissue in maps.items():
            image[tissue] = values[name]
        for value in (1, 2, 3):
            image[labels == value] = values[value]
        image = ndimage.gaussian_filter(image, 0.5) + rng.normal(0, 0.1, GRID.shape)
        image = np.where(brain, image, 0).astype(np.float32)
        save(Path(f"{stem}_desc-preproc_{modality}.nii.gz"), image, GRID.affine)
    return anat


def write_cohort(results: Path) -> tuple[list[str], list[str]]:
    """Two hosts and four annotated cases with their bank; returns both lists of ids."""
    hosts, cases = ["H1", "H2"], ["A1", "A2", "A3", "A4"]
    for host in hosts:
        write_subject(results, host)
    for case, tumour in zip(
        cases, [(12, 22, 18), (28, 22, 18), (20, 12, 18), (20, 32, 14)], strict=True
    ):
        write_subject(results, case, tumour)
    arguments = [part for case in cases for part in ("--case", case, "CC0")]
    bank.main([*arguments, "--results", str(results), "--label", LABEL, "--modality", *MODALITIES,
               "--out", str(results / "bank")])  # fmt: skip
    return hosts, cases


def read_host(results: Path, subject: str) -> Host:
    """The host as the placement stage reads it."""
    return load_host(subject, results / f"sub-{subject}" / "anat", LABEL, MODALITIES)


def make_samples(
    results: Path,
    out: Path,
    host: str = "H1",
    donors: tuple[str, ...] = ("A1", "A2"),
    draws: int = 2,
    patient: str = "",
    **params: Any,
) -> None:
    """Run the placement stage: coarse samples of one host, written to `out`."""
    place.main(
        ["--host", host, "--anat", str(results / f"sub-{host}/anat"), "--donor", *donors,
         "--bank", str(results / "bank"), "--draws", str(draws), "--seed", "7", "--label", LABEL,
         "--modality", *MODALITIES, "--params", json.dumps(PLACE | params), "--out", str(out),
         *(["--patient", patient] if patient else [])]
    )  # fmt: skip
