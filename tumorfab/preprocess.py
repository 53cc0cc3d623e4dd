"""Native-space preprocessing of one subject: bias field, brain mask, alignment to MNI152.

It knows nothing of the analysis space, so that a new annotated case re-registers no healthy scan.
`standardise` brings the outcome to that space.
"""

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from tumorfab import brain, brain_networks, coregister, evidence, mni152, register, volume
from tumorfab.register import Mask
from tumorfab.stage import InputError, atomic, run, write_json
from tumorfab.volume import Image, Volume

Images = dict[str, tuple[Path, Volume]]

# Edges that the field of view of a scan of a whole brain can have.
VIEW_MM = (60.0, 700.0)

# A first bias field, of the whole head, is estimated on voxels this many times larger: from there
# on the fine grid needs an eighth of the time.
COARSER = 2

METHODS = ("registration", *brain_networks.NETWORKS, "none")


@dataclass(frozen=True, eq=False)
class Corrected:
    """A bias-corrected image, the logarithm of the bias field (I, J, K), and the lowest and highest
    bias inside the mask."""

    image: Volume
    log_field: Image
    bias: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What is written of one subject; `transforms` (template points to native points) and the mask
    are by modality and on the grid of the reference."""

    images: dict[str, Corrected]
    mask: Mask
    transforms: dict[str, sitk.AffineTransform]
    evidence: dict[str, Any]


@register.single_thread()
def correct_bias(
    image: Volume, mask: Mask, shrink_mm: float, known: Image | None = None
) -> Corrected:
    """Divide `image` by its N4 bias field (Tustison et al., IEEE TMI 2010).

    The field is estimated inside `mask` on voxels of about `shrink_mm`, from the logarithm of a
    `known` coarser one on, and applied at full resolution. Outside the mask, where nothing holds
    it, it stays within its range inside; its geometric mean inside is 1, so brightness is kept.
    Zero voxels stay zero.
    """
    factors = np.maximum(1, np.ceil(shrink_mm / image.grid.spacing - 0.05)).astype(int).tolist()
    log_field = np.zeros(image.data.shape, np.float32) if known is None else known
    usable = mask & (image.data > 0)
    start = (image.data / np.exp(log_field)).astype(np.float32)
    full = volume.to_sitk(Volume(start, image.affine))
    where = volume.to_sitk(Volume(usable.astype(np.uint8), image.affine))
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([50, 50, 50, 50])
    n4.Execute(sitk.Shrink(full, factors), sitk.Shrink(where, factors))
    log_field = log_field + volume.from_sitk(n4.GetLogBiasFieldAsImage(full)).data
    inside = log_field[usable]
    low, high = float(inside.min()), float(inside.max())
    middle = float(inside.mean())
    log_field = np.clip(log_field, low, high) - middle
    corrected = (image.data / np.exp(log_field)).astype(np.float32)
    bias = float(np.exp(low - middle)), float(np.exp(high - middle))
    return Corrected(Volume(corrected, image.affine), log_field, bias)


def preprocess_native(
    images: Images, method: str, params: dict[str, Any], seg: tuple[Path, Volume] | None = None
) -> Outcome:
    """Scans in a space of their own: whole heads (`method` registration, hd-bet, synthstrip), or
    stripped already (none).

    The first image is the reference: its brain is found and aligned to the template, the others
    follow it rigidly. A tumour (`seg`, on the grid of the reference) is left out of the alignment.
    `params` is the config section; the two networks also need `weights` (a path) and `threads` in
    it. Raises `InputError` that names the file when a check fails.
    """
    shrink = params["n4_shrink_mm"]
    (reference, (path, scan)), *others = images.items()
    tumour = None if seg is None else seg[1].data > 0
    _check_view(path, scan)
    found, rough = _find_brain(path, scan, reference, method, params, tumour)
    corrected = {reference: correct_bias(scan, found.mask, shrink, rough.log_field)}
    transforms = {reference: found.transform}
    together: dict[str, dict[str, float]] = {}
    for modality, (other_path, other) in others:
        cleaned = _in_head(other, method, shrink)
        moved = coregister.align(rough.image, cleaned.image, found.mask)
        transforms[modality] = register.compose(found.transform, moved)
        mask = _carried(found.mask, scan, other, moved)
        corrected[modality] = correct_bias(other, mask, shrink, cleaned.log_field)
        together[modality] = coregister.agreement(rough.image, cleaned.image, found, moved)
        if fault := coregister.fault(together[modality]):
            raise InputError(
                f"{other_path}: its co-registration with {path} failed ({fault}); check that it is "
                f"a {modality} of the same subject, or leave the subject out"
            )
    numbers = _numbers(scan, corrected[reference], found, tumour)
    limits = {
        "brain_volume_ml": tuple(params["brain_volume_ml"]),
        "correlation_with_template": (params["min_correlation"], evidence.INF),
    }
    failed, flags = evidence.judge(numbers, reference, limits)
    if failed:
        raise InputError(f"{path}: {'; '.join(failed)}; or leave the subject out")
    record = {**numbers, "coregistration": together, "flags": flags}
    return Outcome(corrected, found.mask, transforms, record)


def _check_view(path: Path, scan: Volume) -> None:
    view = np.array(scan.data.shape) * scan.grid.spacing
    low, high = VIEW_MM
    if not low <= view.min() <= view.max() <= high:
        sizes = " x ".join(f"{edge:.0f}" for edge in view)
        raise InputError(
            f"{path}: its field of view is {sizes} mm, {low:g} to {high:g} is plausible for a "
            "head; check the spacing in its header"
        )


def _numbers(
    scan: Volume, corrected: Corrected, found: brain.Extraction, tumour: Mask | None
) -> evidence.Numbers:
    stripped = Volume(np.where(found.mask, corrected.image.data, 0), scan.affine)
    low, high = corrected.bias
    return {
        "brain_volume_ml": float(found.mask.sum()) * scan.grid.voxel_volume / 1000,
        "correlation_with_template": brain.agreement(
            stripped, found.transform, brain.AROUND_MM, tumour
        ),
        "gain": found.gain,
        "dice_with_template_mask": found.overlap,
        "template_brain_outside_view": found.outside,
        "bias_range": high / low,
        **evidence.measure(scan, corrected.image, found.mask, found.transform),
    }


def preprocess_shared(images: Images, shrink_mm: float) -> Outcome:
    """Stripped scans on one grid, in the space that they share with their cohort: only the bias
    field is removed."""
    (first, scan), *others = images.values()
    mask = _stripped(first, scan)
    for path, other in others:
        _stripped(path, other)
        if not other.grid.matches(scan.grid):
            raise InputError(f"{path}: is on another grid than {first}; resample it onto that grid")
    corrected = {}
    for modality, (_, image) in images.items():
        coarse = correct_bias(image, mask, COARSER * shrink_mm)
        corrected[modality] = correct_bias(image, mask, shrink_mm, coarse.log_field)
    ml = float(mask.sum()) * scan.grid.voxel_volume / 1000
    return Outcome(corrected, mask, {}, {"brain_volume_ml": ml, "flags": []})


def _find_brain(
    path: Path,
    scan: Volume,
    modality: str,
    method: str,
    params: dict[str, Any],
    tumour: Mask | None,
) -> tuple[brain.Extraction, Corrected]:
    """The brain of the reference, and that scan with the bias field of the whole head removed."""
    mask = None
    if method in brain_networks.NETWORKS:
        mask = brain_networks.extract(scan, method, params["weights"], params["threads"])
        if not mask.any():
            raise InputError(f"{path}: {method} finds no brain in it; look at scan and weights")
    try:
        if method == "none":
            mask = brain.stripped(scan)
        rough = _in_head(scan, method, params["n4_shrink_mm"])
        if mask is None:
            return brain.extract(rough.image, modality, tumour), rough
        alone = Volume(np.where(mask, rough.image.data, 0), scan.affine)
        return brain.locate(alone, mask, modality, tumour), rough
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _in_head(scan: Volume, method: str, shrink: float) -> Corrected:
    """`scan` without the bias that registration would stumble over, which a coarse field shows."""
    mask = scan.data != 0 if method == "none" else brain.head_mask(scan)
    return correct_bias(scan, mask, COARSER * shrink)


def _stripped(path: Path, scan: Volume) -> Mask:
    try:
        return brain.stripped(scan)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _carried(
    mask: Mask, reference: Volume, other: Volume, transform: sitk.AffineTransform
) -> NDArray[np.bool_]:
    """`mask` of the reference on the grid of another modality (`transform`: reference to it)."""
    back = sitk.AffineTransform(transform.GetInverse())
    share = Volume(mask.astype(np.float32), reference.affine)
    return volume.resample(share, other.grid, back) >= 0.5


def _write(out: Path, subject: str, outcome: Outcome) -> None:
    stem = f"{out}/sub-{subject}"
    reference = next(iter(outcome.images.values())).image
    for modality, corrected in outcome.images.items():
        image = corrected.image
        volume.save(f"{stem}_desc-N4_{modality}.nii.gz", image.data, image.affine)
    volume.save(f"{stem}_desc-brain_mask.nii.gz", outcome.mask, reference.affine)
    for modality, transform in outcome.transforms.items():
        name = f"{stem}_from-{modality}_to-{mni152.SPACE}_mode-image_xfm.txt"
        with atomic(name) as temporary:
            sitk.WriteTransform(transform, str(temporary))
    write_json(f"{stem}_desc-preproc.json", outcome.evidence)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tumorfab preprocess", description=main.__doc__)
    parser.add_argument("--subject", required=True)
    parser.add_argument("--cohort", choices=["healthy", "annotated"], required=True)
    parser.add_argument(
        "--space",
        choices=["native", "shared"],
        required=True,
        help="of the scans: each its own, or the annotated cohort's",
    )
    parser.add_argument(
        "--image", action="append", required=True, metavar="MODALITY=PATH", help="first: reference"
    )
    parser.add_argument("--seg", type=Path, help="label map whose tumour is not looked at")
    parser.add_argument("--brain", choices=METHODS, required=True)
    parser.add_argument("--weights", default="", help="of the network (config: brain_weights)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the network")
    parser.add_argument("--params", type=json.loads, required=True, help="config section (JSON)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Remove the bias field, find the brain and align it to MNI152."""
    args = _parser().parse_args(argv)
    images: Images = {}
    for item in args.image:
        modality, _, path = item.partition("=")
        images[modality] = Path(path), volume.load(path)
    seg = None if args.seg is None else (args.seg, volume.load_labels(args.seg))
    params = {**args.params, "threads": args.threads}
    provenance = {}
    if args.brain in brain_networks.NETWORKS:
        params["weights"] = brain_networks.find_weights(args.brain, args.weights)
        digest = hashlib.sha256(params["weights"].read_bytes()).hexdigest()
        provenance["brain_weights_sha256"] = digest
    try:
        if args.space == "shared":
            if args.brain != "none":
                raise InputError("--brain: scans in a shared space are stripped already; give none")
            outcome = preprocess_shared(images, args.params["n4_shrink_mm"])
        else:
            outcome = preprocess_native(images, args.brain, params, seg)
    except InputError as error:
        raise InputError(f"sub-{args.subject}: {error}") from None
    outcome.evidence.update(
        subject=args.subject,
        cohort=args.cohort,
        space=args.space,
        brain=args.brain,
        bias_field={modality: c.bias for modality, c in outcome.images.items()},
        **provenance,
    )
    _write(args.out, args.subject, outcome)


if __name__ == "__main__":
    run(main)
