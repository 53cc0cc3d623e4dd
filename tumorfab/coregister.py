"""Rigid alignment of a subject's modalities, and whether it can be believed."""

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from tumorfab import register
from tumorfab.brain import Extraction
from tumorfab.evidence import mirror
from tumorfab.register import Mask
from tumorfab.volume import Volume

# A co-registration that finds nothing wrong with being this far off (mm) has failed.
DISPLACED_MM = 6.0
# Width (mm) around the brain that takes part in it.
AROUND_MM = 10.0


def align(reference: Volume, other: Volume, mask: Mask) -> sitk.AffineTransform:
    """Rigid transform from points of the reference to points of another modality of the same head.

    Wide steps find a patient who moved and can stray where there are few voxels; short ones cannot
    do either. Both are taken from the scanner's own alignment, and what agrees best is kept. The
    skull takes part: it is the same bone in both. `mask` is the brain on the grid of the reference.
    """
    start = sitk.AffineTransform(3)
    levels = register.LEVELS_MM, register.LEVELS_MM[1:]
    moved = [_rigid(reference, other, mask, start, each) for each in levels]
    return max([*moved, start], key=lambda t: register.follows(reference, other, mask, t))


def agreement(
    reference: Volume, other: Volume, found: Extraction, transform: sitk.AffineTransform
) -> dict[str, float]:
    """How well another modality follows the reference: as `aligned`, at best when `displaced`, and
    when `mirrored` left to right and aligned anew.

    Two contrasts agree as well as they agree: only comparing tells whether that is good.
    """
    mask = found.mask
    shifts = np.vstack([np.eye(3), -np.eye(3)]) * DISPLACED_MM
    displaced = [
        register.compose(sitk.TranslationTransform(3, shift), transform)
        for shift in shifts.tolist()
    ]
    to_template = sitk.AffineTransform(found.transform.GetInverse())
    swapped = register.compose(register.compose(to_template, mirror()), found.transform)
    start = register.compose(swapped, transform)
    mirrored = _rigid(reference, other, mask, start, register.LEVELS_MM[1:])
    return {
        "aligned": register.follows(reference, other, mask, transform),
        "displaced": max(register.follows(reference, other, mask, moved) for moved in displaced),
        "mirrored": register.follows(reference, other, mask, mirrored),
    }


def fault(numbers: dict[str, float]) -> str:
    """What is wrong by the numbers of `agreement`; empty when nothing is."""
    if numbers["aligned"] <= numbers["displaced"]:
        return f"it agrees better {DISPLACED_MM:g} mm away"
    if numbers["aligned"] <= numbers["mirrored"]:
        return "it agrees better with left and right swapped"
    return ""


def _rigid(
    reference: Volume,
    other: Volume,
    mask: Mask,
    start: sitk.AffineTransform,
    levels: tuple[float, ...],
) -> sitk.AffineTransform:
    steps = np.maximum(1, np.rint(AROUND_MM / reference.grid.spacing)).astype(int)
    head = ndimage.grey_dilation(mask.astype(np.uint8), size=(2 * steps + 1).tolist()) > 0
    stage = register.STAGES[:1]
    return register.linear(
        reference, other, head, start, register.INFORMATION, stage, levels
    ).transform
