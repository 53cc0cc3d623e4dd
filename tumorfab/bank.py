"""ROI bank: the tumours of the annotated training cases, ready to be placed in other brains.

One .npz with the arrays (see `roi`) and one .json to read per case. Only training cases are ever
read.
"""

import argparse
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tumorfab.contrast import measured, near_tumour
from tumorfab.roi import CLASSES, Roi, extract
from tumorfab.stage import InputError, atomic, progress, read_json, run, write_json
from tumorfab.volume import Box, Grid, first_line, load_grid, load_on


@dataclass(frozen=True, eq=False)
class Bank:
    """The ROIs of some donors: `about` describes each (see `describe`) by name, without reading its
    arrays; `roi` reads them when they are asked for."""

    folder: Path
    about: dict[str, dict[str, Any]]
    _read: dict[str, Roi] = field(default_factory=dict)

    def roi(self, name: str) -> Roi:
        """The ROI with this name. Raises `InputError` for a broken file."""
        if name not in self._read:
            donor, _, index = name.rpartition("-")
            self._read[name] = _load(self.folder / f"sub-{donor}_rois.npz", donor, int(index))
        return self._read[name]


def describe(roi: Roi, box: Box, grid: Grid, to_mni: NDArray[np.float64]) -> dict[str, Any]:
    """What a person, and the draw of a sample, ask of a ROI: volumes (mm^3), place (mm, RAS, in
    the analysis space and in MNI152), and the look of its classes."""
    voxel = grid.voxel_volume
    offset = np.array([s.start for s in box])
    centre = grid.affine @ [*(np.array(ndimage.center_of_mass(roi.labels > 0)) + offset), 1]
    modalities = list(roi.texture)

    def by_modality(values: NDArray) -> dict[str, float]:
        return {m: round(float(v), 4) for m, v in zip(modalities, values, strict=True)}

    classes = {}
    for value, name in CLASSES.items():
        about: dict[str, Any] = {"volume_mm3": round(float((roi.labels == value).sum() * voxel), 3)}
        if about["volume_mm3"]:
            look = roi.look[name]
            about["mean"] = by_modality(look["mean"])
            about["sd"] = by_modality(np.sqrt(np.diag(look["covariance"])))
        classes[name] = about
    return {
        "roi": roi.name,
        "donor": roi.donor,
        "centre_mm": [round(float(c), 3) for c in centre[:3]],
        "centre_mni_mm": [round(float(c), 3) for c in (to_mni @ centre)[:3]],
        "box": [[s.start, s.stop] for s in box],
        "classes": classes,
    }


def save(path: Path | str, rois: list[Roi]) -> None:
    """Write the ROIs of one case as one .npz; equal ROIs are equal bytes."""
    arrays: dict[str, NDArray] = {}
    for roi in rois:
        arrays[f"{roi.index}/labels"] = roi.labels
        arrays[f"{roi.index}/spacing"] = roi.spacing
        # Half precision: 0.03 mm at 60 mm, and 0.002 standard deviations.
        for name in ("core", "necrosis", "whole"):
            arrays[f"{roi.index}/{name}"] = getattr(roi, name).astype(np.float16)
        for modality, image in roi.texture.items():
            arrays[f"{roi.index}/texture/{modality}"] = image.astype(np.float16)
        for name, look in roi.look.items():
            for what, values in look.items():
                arrays[f"{roi.index}/look/{name}/{what}"] = values
    with atomic(path) as temporary, open(temporary, "wb") as handle:
        np.savez_compressed(handle, allow_pickle=False, **arrays)


def load(folder: Path | str, donors: list[str]) -> Bank:
    """The bank of the named donors, in that order. Raises `InputError` for a missing donor, or
    where none of them has a tumour core."""
    about = {}
    for donor in donors:
        for described in read_json(Path(folder) / f"sub-{donor}_rois.json")["rois"]:
            about[described["roi"]] = described
    if not about:
        raise InputError(
            f"{folder}: none of {', '.join(donors)} has a tumour core (NCR or ET) to place; "
            "take other training cases"
        )
    return Bank(Path(folder), about)


def _load(path: Path, donor: str, index: int) -> Roi:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mine = f"{index}/"
            own = {
                n.removeprefix(mine): np.ascontiguousarray(arrays[n])
                for n in arrays.files
                if n.startswith(mine)
            }
        shape = {name: own[name].astype(np.float32) for name in ("core", "necrosis", "whole")}
        labels, spacing = own["labels"], own["spacing"]
        look = {
            name: {n.split("/")[2]: v for n, v in own.items() if n.startswith(f"look/{name}/")}
            for name in CLASSES.values()
        }
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path}: not a readable ROI file ({first_line(error)}); delete it and run again"
        ) from None
    texture = {
        name.removeprefix("texture/"): image.astype(np.float32)
        for name, image in own.items()
        if name.startswith("texture/")
    }
    return Roi(donor, index, labels, **shape, texture=texture, look=look, spacing=spacing)


def case_files(anat: Path, subject: str, label: str) -> dict[str, Path]:
    """Standardised files of a subject by what they hold; images by a format field `{}`."""
    stem = f"sub-{subject}_space-{label}"
    return {
        "image": anat / f"{stem}_desc-preproc_{{}}.nii.gz",
        "dseg": anat / f"{stem}_dseg.nii.gz",
        "brain": anat / f"{stem}_desc-brain_mask.nii.gz",
        "ventricles": anat / f"{stem}_label-ventricles_mask.nii.gz",
        "about": anat / f"{stem}_desc-preproc.json",
        **{t: anat / f"{stem}_label-{t}_probseg.nii.gz" for t in ("CSF", "GM", "WM")},
    }


def bank_case(
    subject: str, anat: Path, label: str, modalities: list[str], licence: str, out: Path
) -> None:
    """Read one training case and write its ROIs (.npz) and their description (.json)."""
    files = case_files(anat, subject, label)
    grid = load_grid(files["dseg"])
    labels = load_on(files["dseg"], grid, labels=True)
    if not labels.any():
        raise InputError(
            f"{files['dseg']}: holds no tumour; leave this case out of the training split"
        )
    wm, brain = load_on(files["WM"], grid), load_on(files["brain"], grid, labels=True) > 0
    images = {m: load_on(str(files["image"]).format(m), grid) for m in modalities}
    exclude = near_tumour(labels, grid)
    references, grains = measured(images, wm, brain, exclude, grid.spacing)
    found = extract(subject, images, labels, references, grains, grid)
    to_mni = np.array(read_json(files["about"])["mni_from_space"])
    save(out / f"sub-{subject}_rois.npz", [roi for roi, _ in found])
    write_json(
        out / f"sub-{subject}_rois.json",
        {
            "donor": subject,
            "licence": licence,
            "reference": {m: [r.centre, r.scale] for m, r in references.items()},
            "rois": [describe(roi, box, grid, to_mni) for roi, box in found],
        },
    )


def main(argv: list[str] | None = None) -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(prog="tumorfab bank", description=__doc__)
    parser.add_argument(
        "--case",
        nargs=2,
        action="append",
        required=True,
        metavar=("SUBJECT", "LICENCE"),
        help="a training case and its licence; repeat for each",
    )
    parser.add_argument("--results", type=Path, required=True, help="folder with sub-*/anat")
    parser.add_argument("--label", required=True, help="label of the analysis space")
    parser.add_argument("--modality", nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the bank")
    args = parser.parse_args(argv)
    for subject, licence in progress(args.case, "ROI bank"):
        bank_case(
            subject,
            args.results / f"sub-{subject}" / "anat",
            args.label,
            args.modality,
            licence,
            args.out,
        )


if __name__ == "__main__":
    run(main)
