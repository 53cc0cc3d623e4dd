"""What preprocessing says of its own outcome: numbers, and which of them are out of range.

A subject fails when a number shows that a step went wrong, and is flagged (for a person to look at)
when one is unusual. No number sees a left-right flip of a single scan: the template is symmetric,
and so, nearly, are brains.
"""

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from tumorfab import brain, metrics, mni152, register, volume
from tumorfab.register import Mask
from tumorfab.volume import Volume

Numbers = dict[str, float]

# Voxels of which a tissue's prior is at least this share stand for it.
SURE = 0.8
# A slice counts as lying in the brain from this share of the largest slice's area on.
SLICE_SHARE = 0.1


@dataclass(frozen=True)
class Range:
    """Where a number must lie (`fail`) and where it usually lies (`flag`); `hint`: what to do."""

    what: str
    fail: tuple[float, float]
    flag: tuple[float, float]
    hint: str


INF = float("inf")
RANGES = {
    "brain_volume_ml": Range(
        "brain volume in ml", (400, 2600), (950, 2000), "check spacing and brain mask"
    ),
    "correlation_with_template": Range(
        "correlation with the template", (0.7, INF), (0.8, INF), "check orientation and modality"
    ),
    "dice_with_template_mask": Range(
        "Dice of brain and template mask", (0.8, INF), (0.87, INF), "look at the brain mask"
    ),
    "template_brain_outside_view": Range(
        "share of the brain outside the field of view", (-INF, 0.1), (-INF, 0.01),
        "check whether the scan is cropped",
    ),
    "stretch": Range(
        "ratio of the longest to the shortest stretch of the template", (-INF, 1.6), (-INF, 1.35),
        "check the spacing in its header",
    ),
    "empty_slices": Range(
        "empty slices inside the brain", (-INF, 0.5), (-INF, 0.5), "export the scan again"
    ),
    "noise": Range(
        "noise as a share of the brain's contrast", (-INF, 0.8), (-INF, 0.35),
        "check whether the scan is usable",
    ),
    "bias_range": Range(
        "ratio of the highest to the lowest bias", (-INF, 8.0), (-INF, 3.0), "look at the N4 image"
    ),
    "mirror_dice": Range(
        "Dice of the brain mask with its mirror image", (0.8, INF), (0.92, INF),
        "look at the brain mask",
    ),
    "gain": Range(
        "gain of correlation by registration", (-0.05, INF), (0.0, INF), "look at the alignment"
    ),
}  # fmt: skip
# Median differences in units of the brain's spread, (white - grey, CSF - grey), by modality.
CONTRASTS: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "T1w": ((0.0, INF), (-INF, 0.0)),
    "T1c": ((0.0, INF), (-INF, 0.0)),
    "T2w": ((-INF, 0.0), (0.0, INF)),
    "FLAIR": ((-INF, INF), (-INF, 0.0)),
}


def measure(
    scan: Volume, corrected: Volume, mask: Mask, transform: sitk.AffineTransform
) -> Numbers:
    """The numbers of one scan. `corrected` and `mask` are on the grid of `scan`; `transform` maps
    template points to points of the scan."""
    mni = mni152.template(brain.WORK_MM)
    back = sitk.AffineTransform(transform.GetInverse())
    share = Volume(mni.mask.astype(np.float32), mni.t1.affine)
    expected = volume.resample(share, scan.grid, back) > 0.5
    stretches = np.linalg.svd(np.reshape(transform.GetMatrix(), (3, 3)), compute_uv=False)
    white, csf, noise = _contrast(corrected, mask, transform)
    return {
        "stretch": float(stretches.max() / stretches.min()),
        "empty_slices": float(empty_slices(scan.data, expected)),
        "noise": noise,
        "white_minus_grey": white,
        "csf_minus_grey": csf,
        "mirror_dice": mirror_dice(Volume(mask, scan.affine), transform),
    }


def judge(
    numbers: Numbers, modality: str, limits: dict[str, tuple[float, float]]
) -> tuple[list[str], list[str]]:
    """What fails and what is flagged, one line each. `limits` replaces ranges of failure."""
    ranges = RANGES | {
        name: Range(what, fail, fail, "check whether it is the modality that its name says")
        for name, what, fail in zip(
            ("white_minus_grey", "csf_minus_grey"),
            (f"{modality} contrast of white to grey matter", f"{modality} contrast of CSF to grey"),
            CONTRASTS[modality],
            strict=True,
        )
    }
    failed: list[str] = []
    flagged: list[str] = []
    for name, value in numbers.items():
        if name not in ranges:
            continue
        known = ranges[name]
        for (low, high), found in ((limits.get(name, known.fail), failed), (known.flag, flagged)):
            if not low <= value <= high:
                bound = f"at least {low:g}" if value < low else f"at most {high:g}"
                found.append(f"{known.what} is {value:.3g}, {bound} is expected; {known.hint}")
                break
    return failed, flagged


def empty_slices(data: NDArray, expected: Mask) -> int:
    """How many slices, along any axis, show one value alone where the brain is `expected`."""
    count = 0
    for axis in range(3):
        areas = expected.sum(axis=tuple({0, 1, 2} - {axis}))
        slices, inside = np.moveaxis(data, axis, 0), np.moveaxis(expected, axis, 0)
        for index in np.flatnonzero(areas > SLICE_SHARE * areas.max(initial=0)):
            count += int(np.ptp(slices[index][inside[index]]) == 0)
    return count


def mirror_dice(mask: Volume, transform: sitk.AffineTransform) -> float:
    """Dice of a brain mask with its mirror image about the template's midsagittal plane."""
    mni = mni152.template(brain.COARSE_MM)
    share = Volume(mask.data.astype(np.float32), mask.affine)
    here = volume.resample(share, mni.t1.grid, transform) > 0.5
    mirrored = volume.resample(share, mni.t1.grid, register.compose(mirror(), transform)) > 0.5
    return metrics.dice(here, mirrored)


def mirror() -> sitk.AffineTransform:
    """Reflection of template space about its midsagittal plane, x = 0."""
    flip = sitk.AffineTransform(3)
    flip.SetMatrix(np.diag([-1.0, 1.0, 1.0]).ravel().tolist())
    return flip


def _contrast(
    image: Volume, mask: Mask, transform: sitk.AffineTransform
) -> tuple[float, float, float]:
    """(white - grey, CSF - grey, noise), in units of the brain's spread.

    Tissues are where the template's maps are surest; noise is what a voxel of white matter differs
    from the mean of its neighbours by.
    """
    mni = mni152.template(brain.WORK_MM)
    back = sitk.AffineTransform(transform.GetInverse())
    values = image.data[mask]
    spread = float(np.subtract(*np.percentile(values, (75, 25)))) / 1.349 or 1.0
    medians, regions = [], []
    for prior in (mni.wm, mni.gm, mni.csf):
        share = volume.resample(Volume(prior, mni.t1.affine), image.grid, back)
        sure = mask & (share >= min(SURE, float(np.quantile(share[mask], 0.98))))
        medians.append(float(np.median(image.data[sure])))
        regions.append(sure)
    white, grey, csf = medians
    neighbours = ndimage.convolve(
        image.data.astype(np.float32), ndimage.generate_binary_structure(3, 1) / 7.0
    )
    # Of the mean of seven voxels one is the voxel itself: the difference has 6/7 of the variance.
    rest = (image.data - neighbours)[ndimage.binary_erosion(regions[0])]
    noise = 1.4826 * float(np.median(np.abs(rest))) / np.sqrt(6 / 7) if rest.size else 0.0
    return (white - grey) / spread, (csf - grey) / spread, noise / spread
