"""The analysis space: the annotated cohort's grid, with MNI152 aligned to it once; where each
annotated case has a space of its own, MNI152's grid.

Made of training cases alone, and shared by every subject. The transform that is written maps points
of the analysis space to points of MNI152 (ITK's convention: what resampling MNI onto the analysis
grid takes). A healthy subject's transform maps MNI points to native points; the first followed by
the second (`register.compose`) therefore brings a native scan to the analysis grid in one
interpolation.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from tumorfab import brain, metrics, mni152, register, volume
from tumorfab.register import Mask, Registration
from tumorfab.stage import InputError, atomic, run, write_json
from tumorfab.tissue import CLASSES
from tumorfab.volume import Grid, Volume

MIN_CORRELATION = 0.75
# Sizes that are tried around the registered one.
SIZES = np.arange(0.88, 1.081, 0.02).round(2).tolist()


def mean_brain(images: list[NDArray], masks: list[Mask]) -> NDArray[np.float32]:
    """Mean of brains (I, J, K) on one grid, each divided by its own median, 0 outside the masks."""
    total = np.zeros(images[0].shape, np.float32)
    for image, mask in zip(images, masks, strict=True):
        total += np.where(mask, image / np.median(image[mask]), 0).astype(np.float32)
    return (total / len(images)).astype(np.float32)


def align(mean: Volume, mask: Mask, modality: str) -> Registration:
    """Register MNI152 to the mean of the training cases; maps points of `mean` to MNI points."""
    mni = mni152.template()
    start = register.moments(Volume(mask, mean.affine), Volume(mni.mask, mni.t1.affine))
    # The rim outside the mask holds the brain's size; without it the template shrinks by a tenth.
    rim = ndimage.distance_transform_edt(~mask, sampling=mean.grid.spacing) < brain.EDGE_MM
    fixed = mni.contrast(modality, stripped=True)
    found = register.linear(mean, fixed, rim, start, register.CORRELATION)
    return Registration(_sized(found.transform, mean, mask), found.before, found.after)


def _sized(transform: sitk.AffineTransform, mean: Volume, mask: Mask) -> sitk.AffineTransform:
    """`transform` (points of `mean` to MNI points) with the size at which both the images and the
    masks agree best: a brain's outer CSF is dark or cut away, so that images alone settle inside.
    """
    mni = mni152.template(brain.COARSE_MM)
    share = Volume(mask.astype(np.float32), mean.affine)
    centre = register.moments(Volume(mni.mask, mni.t1.affine), share).GetCenter()

    def scaled(factor: float) -> sitk.AffineTransform:
        scale = sitk.AffineTransform(3)
        scale.SetCenter(centre)
        scale.Scale(factor)
        return register.compose(transform, scale)

    def fit(factor: float) -> float:
        back = sitk.AffineTransform(scaled(factor).GetInverse())
        there = volume.resample(share, mni.t1.grid, back) > 0.5
        return brain.agreement(mean, back, brain.AROUND_MM) + metrics.dice(there, mni.mask)

    return scaled(max(SIZES, key=fit))


def warped(transform: sitk.AffineTransform, grid: Grid) -> dict[str, NDArray]:
    """MNI152 on the analysis grid: `T1w`, `mask`, the lateral `ventricles` and the tissue
    probabilities, which sum to 1 in the mask and are 0 outside."""
    mni = mni152.template()

    def on_grid(data: NDArray) -> NDArray[np.float32]:
        return volume.resample(Volume(data.astype(np.float32), mni.t1.affine), grid, transform)

    mask = on_grid(mni.mask) >= 0.5
    shares = np.clip(np.stack([on_grid(tissue) for tissue in (mni.csf, mni.gm, mni.wm)]), 1e-6, 1)
    shares = np.where(mask, shares / shares.sum(0), 0).astype(np.float32)
    t1 = np.where(mask, on_grid(mni.t1.data), 0).astype(np.float32)
    inner = on_grid(mni.ventricles) >= 0.5
    return {"T1w": t1, "mask": mask, "ventricles": inner, **dict(zip(CLASSES, shares, strict=True))}


def _read(args: argparse.Namespace) -> tuple[Grid, list[NDArray], list[Mask]]:
    pairs = [item.partition("=") for item in args.image]
    if len(pairs) != len(args.mask):
        raise InputError(f"--mask: {len(args.mask)} masks for {len(pairs)} images; give one each")
    grid = volume.load_grid(pairs[0][2])
    images = [volume.load_on(path, grid) for _, _, path in pairs]
    masks = [volume.load_on(path, grid, labels=True) > 0 for path in args.mask]
    return grid, images, masks


def main(argv: list[str] | None = None) -> None:
    """Define the analysis grid and align MNI152 to it."""
    parser = argparse.ArgumentParser(prog="tumorfab template", description=main.__doc__)
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="SUBJECT=PATH",
        help="training cases; without any the analysis space is MNI152's own",
    )
    parser.add_argument("--mask", nargs="*", action="extend", type=Path, default=[])
    parser.add_argument("--spacing", type=float, default=0, help="mm; 0: the cases' own grid")
    parser.add_argument("--label", required=True, help="BIDS label of the analysis space")
    parser.add_argument("--modality", default="T1w")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    found, native, evidence = _align(args) if args.image else _mni()
    grid = native.coarsened(args.spacing) if args.spacing > 0 else native
    maps = warped(found, grid)
    stem = f"{args.out}/template_space-{args.label}"
    volume.save(f"{stem}_T1w.nii.gz", maps["T1w"], grid.affine)
    volume.save(f"{stem}_desc-brain_mask.nii.gz", maps["mask"], grid.affine)
    volume.save(f"{stem}_label-ventricles_mask.nii.gz", maps["ventricles"], grid.affine)
    for name in CLASSES:
        volume.save(f"{stem}_label-{name}_probseg.nii.gz", maps[name], grid.affine)
    with atomic(transform_path(args.out, args.label)) as temporary:
        sitk.WriteTransform(found, str(temporary))
    place = {"shape": list(grid.shape), "spacing_mm": grid.spacing.tolist()}
    write_json(args.out / "template.json", {**evidence, **place})


def _align(args: argparse.Namespace) -> tuple[sitk.AffineTransform, Grid, dict[str, Any]]:
    """Analysis points to MNI points, the cases' grid, and the evidence."""
    native, images, masks = _read(args)
    mean = Volume(mean_brain(images, masks), native.affine)
    found = align(mean, np.mean(masks, axis=0) >= 0.5, args.modality)
    back = sitk.AffineTransform(found.transform.GetInverse())
    agreement = brain.agreement(mean, back, reach=brain.AROUND_MM)
    if agreement < MIN_CORRELATION:
        raise InputError(
            f"{args.image[0]}: MNI152 could not be aligned to the training cases (correlation "
            f"{agreement:.2f}, {MIN_CORRELATION} is needed); check that they are stripped brains, "
            "in one space, with correct orientation"
        )
    evidence = {
        "correlation": agreement,
        "correlation_inside": {"before": found.before, "after": found.after},
        "cases": [item.partition("=")[0] for item in args.image],
        "modality": args.modality,
    }
    return found.transform, native, evidence


def _mni() -> tuple[sitk.AffineTransform, Grid, dict[str, Any]]:
    """MNI152's own space, for cases that share none."""
    return sitk.AffineTransform(3), mni152.template().t1.grid, {"cases": []}


def transform_path(folder: Path, label: str) -> Path:
    """Where the transform from analysis points to MNI points lies."""
    return folder / f"from-{mni152.SPACE}_to-{label}_mode-image_xfm.txt"


if __name__ == "__main__":
    run(main)
