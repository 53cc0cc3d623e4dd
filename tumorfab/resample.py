"""Carry one volume between a subject's native scan and the analysis space, in one interpolation.

For results that must be looked at or measured where they were scanned: a synthetic tumour's label
map, a prediction, a tissue map.
"""

import argparse
from pathlib import Path

import SimpleITK as sitk

from tumorfab import stage, volume
from tumorfab.standardise import native_transform
from tumorfab.volume import load_grid, load_labels


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="tumorfab resample", description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="the volume to carry over")
    parser.add_argument("out", type=Path, help="where it is written (.nii.gz)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="of the study")
    parser.add_argument("--subject", required=True)
    parser.add_argument("--modality", required=True, help="the native scan that is meant")
    parser.add_argument("--label", default="analysis", help="label of the analysis space")
    parser.add_argument(
        "--inverse", action="store_true", help="analysis space to native scan, not the other way"
    )
    parser.add_argument(
        "--image", action="store_true", help="interpolate intensities; otherwise labels"
    )
    args = parser.parse_args(argv)

    anat = args.results / f"sub-{args.subject}" / "anat"
    template = args.results / "template"
    transform = native_transform(anat, template, args.subject, args.modality, args.label)
    if args.inverse:
        target = anat / f"sub-{args.subject}_desc-N4_{args.modality}.nii.gz"
        transform = sitk.AffineTransform(transform.GetInverse()) if transform else None
    else:
        target = template / f"template_space-{args.label}_desc-brain_mask.nii.gz"
    source = volume.load(args.source) if args.image else load_labels(args.source)
    grid = load_grid(target)
    carried = volume.resample(source, grid, transform, labels=not args.image)
    volume.save(args.out, carried, grid.affine)


if __name__ == "__main__":
    stage.run(main)
