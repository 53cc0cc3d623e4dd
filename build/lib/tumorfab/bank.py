"""ROI bank: the tumours of the annotated training cases, ready to be placed in other brains.

A ROI is one connected tumour with its labels and its intensities relative to the patient's own
tissue, cropped with a margin of real surrounding brain. Only training cases are ever read.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tumorfab.contrast import Reference, reference
from tumorfab.stage import InputError, atomic, progress, run, write_json
from tumorfab.volume import Grid, Image, Labels, load_grid, load_on

CLASSES = {1: "NCR", 2: "ED", 3: "ET"}
MARGIN_MM = 8.0
SMALLEST_MM3 = 300.0


@dataclass(frozen=True, eq=False)
class Roi:
    """One tumour: `labels` (I, J, K) uint8, `images` per modality (I, J, K) tissue-relative."""

    donor: str
    index: int
    labels: Labels
    images: dict[str, Image]
    spacing: NDArray[np.float64]

    @property
    def name(self) -> str:
        """Unique name of the ROI in its bank."""
        return f"{self.donor}-{self.index}"


def extract(
    donor: str,
    images: dict[str, Image],
    labels: Labels,
    references: dict[str, Reference],
    grid: Grid,
) -> list[tuple[Roi, tuple[slice, ...]]]:
    """The connected tumours of one case, largest first, each with its box in the case.

    Components are 26-connected over the whole tumour; those below 300 mm^3 are specks of the
    annotation and are left out, unless nothing else is there. Each box has a margin of 8 mm; voxels
    of other components inside it become background, so that each ROI is one tumour.
    """
    components, count = ndimage.label(labels > 0, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:] * grid.voxel_volume
    order = [int(i) for i in np.argsort(-sizes, kind="stable")]
    kept = [i for i in order if sizes[i] >= SMALLEST_MM3] or order[:1]
    boxes = ndimage.find_objects(components)
    margin = np.ceil(MARGIN_MM / grid.spacing).astype(int)
    rois = []
    for index, component in enumerate(kept):
        box = tuple(
            slice(max(0, s.start - int(m)), min(n, s.stop + int(m)))
            for s, m, n in zip(boxes[component], margin, labels.shape, strict=True)
        )
        own = np.where(components[box] == component + 1, labels[box], 0).astype(np.uint8)
        relative = {m: references[m].relative(image[box]) for m, image in images.items()}
        rois.append((Roi(donor, index, own, relative, grid.spacing), box))
    return rois


def describe(roi: Roi, box: tuple[slice, ...], grid: Grid) -> dict[str, Any]:
    """What a person asks of a ROI: volumes (mm^3), place (mm, RAS), intensities by class."""
    voxel = grid.voxel_volume
    offset = np.array([s.start for s in box])
    centre = np.array(ndimage.center_of_mass(roi.labels > 0)) + offset
    statistics = {
        name: {
            "volume_mm3": round(float((roi.labels == value).sum() * voxel), 3),
            "intensity": {
                m: {"mean": round(float(x.mean()), 4), "sd": round(float(x.std()), 4)}
                for m, image in roi.images.items()
                if (x := image[roi.labels == value]).size
            },
        }
        for value, name in CLASSES.items()
    }
    return {
        "roi": roi.name,
        "centre_mm": [round(float(c), 3) for c in (grid.affine @ [*centre, 1])[:3]],
        "box": [[s.start, s.stop] for s in box],
        "classes": statistics,
    }


def save(path: Path | str, rois: list[Roi]) -> None:
    """Write the ROIs of one case as one .npz; equal ROIs are equal bytes."""
    arrays: dict[str, NDArray] = {}
    for roi in rois:
        arrays[f"{roi.index}/labels"] = roi.labels
        for modality, image in roi.images.items():
            arrays[f"{roi.index}/{modality}"] = image.astype(np.float32)
        arrays[f"{roi.index}/spacing"] = roi.spacing
    with atomic(path) as temporary, open(temporary, "wb") as handle:
        np.savez_compressed(handle, allow_pickle=False, **arrays)


def load(folder: Path | str, donors: list[str]) -> list[Roi]:
    """All ROIs of the named donors, in that order. Raises `InputError` for a missing donor."""
    rois = []
    for donor in donors:
        path = Path(folder) / f"sub-{donor}_rois.npz"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                content = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: not a readable ROI file ({error}); delete it and run again"
            ) from None
        for index in sorted({int(name.split("/")[0]) for name in content}):
            own = {n.split("/")[1]: a for n, a in content.items() if n.startswith(f"{index}/")}
            labels, spacing = own.pop("labels"), own.pop("spacing")
            rois.append(Roi(donor, index, labels, own, spacing))
    return rois


def case_files(anat: Path, subject: str, label: str) -> dict[str, Path]:
    """Standardised files of a subject by what they hold; images by a format field `{}`."""
    stem = f"sub-{subject}_space-{label}"
    return {
        "image": anat / f"{stem}_desc-preproc_{{}}.nii.gz",
        "dseg": anat / f"{stem}_dseg.nii.gz",
        "brain": anat / f"{stem}_desc-brain_mask.nii.gz",
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
    wm, gm = (load_on(files[tissue], grid) for tissue in ("WM", "GM"))
    images = {m: load_on(str(files["image"]).format(m), grid) for m in modalities}
    # Tissue near the tumour is infiltrated or displaced: it must not set the reference.
    exclude = ndimage.distance_transform_edt(labels == 0, sampling=grid.spacing) < 5.0
    references = {m: reference(image, wm, gm, exclude) for m, image in images.items()}
    found = extract(subject, images, labels, references, grid)
    save(out / f"sub-{subject}_rois.npz", [roi for roi, _ in found])
    write_json(
        out / f"sub-{subject}_rois.json",
        {
            "donor": subject,
            "licence": licence,
            "reference": {m: [r.centre, r.scale] for m, r in references.items()},
            "rois": [describe(roi, box, grid) for roi, box in found],
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
