"""Bring one preprocessed subject to the analysis grid: one interpolation, one intensity scale.

Healthy scans travel through the template; annotated ones lie on the grid already, and where the
analysis grid is their own, their voxels are not interpolated. Normalisation is the same for both.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from tumorfab import anatomy, deform, evidence, metrics, mni152, register, tissue, volume
from tumorfab.stage import InputError, read_json, run, write_json
from tumorfab.template import transform_path
from tumorfab.volume import Grid, Image, Labels, Volume

LABELS = frozenset({0, 1, 2, 3, 4})


def normalise(image: NDArray, mask: NDArray[np.bool_]) -> tuple[Image, dict[str, float]]:
    """Centre the brain of `image` on its median and divide it by its interquartile range.

    Returns the image, float32 and exactly 0 outside `mask`, and `{"centre", "scale"}`: inside the
    mask, original = image * scale + centre. The scale is that of a normal distribution with the
    same interquartile range, which neither a tumour nor sulcal CSF moves much. Raises `ValueError`
    when the mask is empty or half of it has one value.
    """
    if not mask.any():
        raise ValueError("no brain voxels")
    low, centre, high = np.percentile(image[mask].astype(np.float64), (25, 50, 75))
    scale = (high - low) / 1.349
    if scale <= 0:
        raise ValueError("half of the brain has one intensity")
    out = np.where(mask, (image - centre) / scale, 0).astype(np.float32)
    return out, {"centre": float(centre), "scale": float(scale)}


def segmentation(path: Path, grid: Grid, transform: sitk.Transform | None = None) -> Labels:
    """The label map at `path` on `grid`, with BraTS <= 2021's ET, 4, as 3. `transform` maps points
    of `grid` to points of the label map. Raises `InputError`."""
    labels = volume.load_labels(path)
    unknown = sorted(set(np.unique(labels.data).tolist()) - LABELS)
    if unknown:
        raise InputError(
            f"{path}: has labels {', '.join(map(str, unknown))} outside 0..4; "
            "map them to 1 NCR, 2 ED, 3 ET"
        )
    merged = np.where(labels.data == 4, 3, labels.data).astype(np.uint8)
    return volume.resample(Volume(merged, labels.affine), grid, transform, labels=True)


def native_transform(
    anat: Path, template: Path, subject: str, modality: str, label: str
) -> sitk.AffineTransform | None:
    """Analysis points to points of a native scan; None where that scan lies in the analysis space.

    `anat` is the subject's results folder. Raises `InputError` for a missing file.
    """
    native = read_json(anat / f"sub-{subject}_desc-preproc.json")
    if native["space"] == "shared":
        return None
    parts = [
        transform_path(template, label),
        anat / f"sub-{subject}_from-{modality}_to-{mni152.SPACE}_mode-image_xfm.txt",
    ]
    for path in parts:
        if not path.is_file():
            raise InputError(f"{path}: no such file; run the stage that makes it")
    to_mni, to_native = (sitk.ReadTransform(str(path)) for path in parts)
    return register.compose(to_mni, to_native)


def main(argv: list[str] | None = None) -> None:
    """Bring one preprocessed subject to the analysis grid and find its tissues."""
    parser = argparse.ArgumentParser(prog="tumorfab standardise", description=main.__doc__)
    parser.add_argument("--subject", required=True)
    parser.add_argument("--cohort", choices=["healthy", "annotated"], required=True)
    parser.add_argument("--modality", nargs="+", required=True, help="first: the reference")
    parser.add_argument("--anat", type=Path, required=True, help="the subject's results folder")
    parser.add_argument("--template", type=Path, required=True, help="folder of the template")
    parser.add_argument("--label", required=True, help="BIDS label of the analysis space")
    parser.add_argument(
        "--params", type=json.loads, required=True, help="config section `standardise`, JSON"
    )
    parser.add_argument("--seg", type=Path, help="native label map of an annotated case")
    args = parser.parse_args(argv)
    if (args.cohort == "annotated") != (args.seg is not None):
        raise InputError(f"--seg: needed for annotated cases and for them only ({args.subject})")

    reference = args.modality[0]
    template = _read_template(args.template, args.label)
    grid, priors = template["grid"], template["priors"]
    native = volume.load(args.anat / f"sub-{args.subject}_desc-brain_mask.nii.gz")
    transforms = {
        m: native_transform(args.anat, args.template, args.subject, m, args.label)
        for m in args.modality
    }
    mask = volume.resample(native, grid, transforms[reference]) >= 0.5
    images, scales = {}, {}
    for modality in args.modality:
        path = args.anat / f"sub-{args.subject}_desc-N4_{modality}.nii.gz"
        moved = volume.resample(volume.load(path), grid, transforms[modality])
        try:
            images[modality], scales[modality] = normalise(moved, mask)
        except ValueError as error:
            raise InputError(f"{path}: {error} on the analysis grid; look at its mask") from None
    if args.params["deformable"]:
        t1 = volume.load_on(args.template / f"template_space-{args.label}_T1w.nii.gz", grid)
        priors, template["ventricles"] = _carried(template, t1, images[reference], mask, reference)
    tissues = tissue.posteriors(images[reference], mask, priors, grid.spacing)
    expected = template["ventricles"]
    other = (priors[0] > 0.5) & ~expected
    inner = anatomy.ventricles(tissues[0], expected, other, grid.spacing) & mask
    plane = anatomy.midsagittal(images[reference], mask, grid, template["plane"])

    overlap = metrics.dice(mask, template["mask"])
    _, flags = evidence.judge({"dice_with_template_mask": overlap}, reference, {})

    stem = f"{args.anat}/sub-{args.subject}_space-{args.label}"
    for modality, image in images.items():
        volume.save(f"{stem}_desc-preproc_{modality}.nii.gz", image, grid.affine)
    volume.save(f"{stem}_desc-brain_mask.nii.gz", mask, grid.affine)
    volume.save(f"{stem}_label-ventricles_mask.nii.gz", inner, grid.affine)
    for name, share in zip(tissue.CLASSES, tissues, strict=True):
        volume.save(f"{stem}_label-{name}_probseg.nii.gz", share, grid.affine)
    if args.seg:
        labels = segmentation(args.seg, grid, transforms[reference])
        volume.save(f"{stem}_dseg.nii.gz", labels, grid.affine)
    ml = {
        name: float(share.sum()) * grid.voxel_volume / 1000
        for name, share in zip(tissue.CLASSES, tissues, strict=True)
    }
    write_json(
        f"{stem}_desc-preproc.json",
        {
            "subject": args.subject,
            "cohort": args.cohort,
            "intensity": scales,
            "brain_volume_ml": float(mask.sum()) * grid.voxel_volume / 1000,
            "tissue_volume_ml": ml,
            "dice_with_template_mask": overlap,
            "flags": flags,
            "ventricles_ml": float(inner.sum()) * grid.voxel_volume / 1000,
            "mni_from_space": template["to_mni"].round(6).tolist(),
            "midsagittal_plane": {"point_mm": plane.point, "normal": plane.normal},
        },
    )


def _carried(
    template: dict[str, Any], t1: Image, image: Image, mask: NDArray[np.bool_], modality: str
) -> tuple[Image, NDArray[np.bool_]]:
    """The template's priors and ventricles, deformed to one brain; `t1` is the template's image."""
    grid = template["grid"]
    metric = register.CORRELATION if modality == "T1w" else register.INFORMATION
    scan = Volume(normalise(t1, t1 > 0)[0], grid.affine)
    shape = deform.deformation(Volume(image, grid.affine), scan, mask, metric)

    def moved(data: NDArray) -> NDArray[np.float32]:
        return volume.resample(Volume(data.astype(np.float32), grid.affine), grid, shape)

    priors = np.stack([np.clip(moved(prior), 0, 1) for prior in template["priors"]])
    return priors.astype(np.float32), moved(template["ventricles"]) > 0.5


def _read_template(folder: Path, label: str) -> dict[str, Any]:
    """The `template` stage's outcome: `grid`, `mask`, `priors` (3, I, J, K), `ventricles`,
    `plane`, and `to_mni` (4, 4), points of the space to points of MNI152 in RAS+ mm."""
    stem = folder / f"template_space-{label}"
    mask = volume.load_labels(f"{stem}_desc-brain_mask.nii.gz")
    grid = mask.grid
    maps = [volume.load_on(f"{stem}_label-{t}_probseg.nii.gz", grid) for t in tissue.CLASSES]
    inner = volume.load_on(f"{stem}_label-ventricles_mask.nii.gz", grid, labels=True) > 0
    to_mni = sitk.AffineTransform(sitk.ReadTransform(str(transform_path(folder, label))))
    matrix = register.ras_matrix(to_mni)
    plane = anatomy.mapped(matrix)
    return {"grid": grid, "mask": mask.data > 0, "priors": np.stack(maps), "ventricles": inner,
            "plane": plane, "to_mni": matrix}  # fmt: skip


if __name__ == "__main__":
    run(main)
