"""Where the brain is: template-driven extraction from whole heads, a check for stripped scans.

The mask holds everything inside the skull, as that of the template (`mni152`) does: brain,
ventricles and the CSF of the sulci. The networks that can find the brain instead are in
`brain_networks`.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from tumorfab import metrics, register, volume
from tumorfab.mni152 import OUTER_MM, signed_distance, template
from tumorfab.register import Mask
from tumorfab.stage import InputError
from tumorfab.volume import Grid, Image, Volume

# Extraction works on cubic voxels of this edge in mm, whatever the scan's are.
WORK_MM = 2.0
# Agreement with the template is measured at this resolution (mm).
COARSE_MM = 4.0
# The brain's centre lies about this far below the vertex; the crown, above the neck, this deep.
DEPTH_MM = 75.0
CROWN_MM = 100.0
# Starts of the registration: head size relative to MNI152 (most are smaller; from too large a
# start the template's edge settles on the scalp), pitch in degrees, and rise in mm of the expected
# centre.
SIZES = (0.8, 0.9, 1.0)
POSES = ((0.0, 0.0), (-20.0, 0.0), (20.0, 0.0), (0.0, -20.0), (0.0, 20.0))
# Width (mm) of the rim around the template's brain that registration by information takes in.
EDGE_MM = 6.0
# Volume of a head's brain relative to MNI152's 1886 ml: about 850 to 2550 ml.
PLAUSIBLE_SIZE = (0.45, 1.35)
# The true boundary is sought between these distances (mm) from the registered template's.
BAND_MM = (-6.0, 8.0)
# Bone against CSF, as a share of the brain's median intensity.
BONE = 0.2
# Sulci narrower than this (mm) belong to the mask.
SULCUS_MM = 8.0
# How far (mm) around the brain the scan must agree with the template that nothing is there.
AROUND_MM = 8.0
# Weight of the template's boundary against the scan's, in the final one.
TRUST = 0.3
STRIPPED_ML = (400.0, 2600.0)


@dataclass(frozen=True, eq=False)
class Extraction:
    """A brain mask on the grid of the scan, the transform from template points to the scan's, and
    the evidence: `overlap` is the Dice of the mask with the template's, `outside` the share of the
    template's brain beyond the scan's field of view, `gain` what registration added to the
    agreement with the template over the best of its starts."""

    mask: Mask
    transform: sitk.AffineTransform
    overlap: float
    outside: float
    gain: float


def extract(head: Volume, modality: str, tumour: Mask | None = None) -> Extraction:
    """Find the brain in a whole head, in any orientation and with any amount of neck.

    The template is registered to the head from several starts under the vertex; its mask then
    gives way to the scan's own boundary within a band around it. A `tumour` (on the grid of the
    head) takes no part in the registration and belongs to the brain. Raises `InputError` when no
    head stands out from the background.
    """
    work, away = on_work_grid(head), _on_work_grid(tumour, head)
    starts = _starts(work)
    found = align(work, starts, modality, away)
    mask = _at(refine(work, found), head)
    gain = _gain(work, starts, found, away)
    return _extraction(head, mask if tumour is None else mask | tumour, found, gain)


def locate(image: Volume, mask: Mask, modality: str, tumour: Mask | None = None) -> Extraction:
    """Align the template to a scan of the brain alone, which is where `mask` says, 0 elsewhere.

    What lies under the `tumour` is not looked at.
    """
    mni = template(COARSE_MM)
    brain = Volume(mask, image.affine)
    start = register.moments(Volume(mni.mask, mni.t1.affine), brain)
    work, away = on_work_grid(image), _on_work_grid(tumour, image)
    found = align(work, [start], modality, away, stripped=True)
    return _extraction(image, mask, found, _gain(work, [start], found, away))


def stripped(image: Volume) -> Mask:
    """Brain mask of a scan whose background is exactly 0. Raises `InputError` for any other.

    The message says what is wrong, not which file: the caller knows that.
    """
    share = np.count_nonzero(image.data == 0) / image.data.size
    if share < 0.2:
        raise InputError(
            f"not skull-stripped: only {share:.0%} of its voxels are exactly 0; "
            "strip the skull and set the background to 0, or set brain: registration"
        )
    mask = ndimage.binary_fill_holes(largest(image.data != 0))
    ml = float(mask.sum()) * image.grid.voxel_volume / 1000
    if not STRIPPED_ML[0] <= ml <= STRIPPED_ML[1]:
        raise InputError(
            f"not a skull-stripped brain: {ml:.0f} ml of it are not 0, "
            f"{STRIPPED_ML[0]:.0f} to {STRIPPED_ML[1]:.0f} are plausible; "
            "strip the skull, or set brain: registration"
        )
    return mask


def head_mask(image: Volume) -> Mask:
    """The head without the air around it: bright voxels, the largest piece, holes filled."""
    data = image.data
    present = data[data > data.min()]
    if present.size == 0:
        raise InputError("is constant; export the scan again")
    level = 0.5 * threshold_otsu(np.minimum(present, np.percentile(present, 99.5)))
    bright = ndimage.binary_opening(data > level)
    if not bright.any():
        raise InputError("no head stands out from the background; check the scan")
    return ndimage.binary_fill_holes(largest(bright))


def align(
    image: Volume,
    starts: list[sitk.AffineTransform],
    modality: str,
    tumour: Mask | None = None,
    stripped: bool = False,
) -> sitk.AffineTransform:
    """Template points to points of `image`: the best of several starts, then refined. What lies
    under `tumour` (on the grid of `image`) is not looked at. Nothing surrounds a `stripped` brain,
    so that its edge can take part in every way.

    Once the scale is free, the brain's outline can run away to the scalp's: with correlation where
    the scalp is bright, with information where the template's edge takes part. So several ways are
    tried from the best rigid pose, and of those that end with a brain of plausible size the one
    goes on whose template explains most of the image.
    """
    mni = template(WORK_MM)
    fixed = mni.contrast(modality, stripped)
    # Without the template's edge, information alone leaves a brain's size uncertain.
    edged = mni.distance < EDGE_MM
    ways = [
        (register.CORRELATION, edged if stripped else mni.mask),
        (register.INFORMATION, edged),
        (register.INFORMATION, mni.mask),
    ]

    def moved(
        start: sitk.AffineTransform,
        way: tuple[str, Mask],
        stages: tuple[str, ...],
        levels: tuple[float, ...] = (8.0,),
    ) -> sitk.AffineTransform:
        metric, region = way
        found = register.linear(fixed, image, region, start, metric, stages, levels, tumour)
        return found.transform

    def fit(transform: sitk.AffineTransform) -> tuple[bool, float]:
        size = abs(float(np.linalg.det(np.reshape(transform.GetMatrix(), (3, 3)))))
        plausible = PLAUSIBLE_SIZE[0] < size < PLAUSIBLE_SIZE[1]
        return plausible, agreement(image, transform, 0.0, tumour)

    pose = max((moved(start, ways[0], register.STAGES[:1]) for start in starts), key=fit)
    scaled = [(moved(pose, way, register.STAGES[1:2]), way) for way in ways]
    ends = [moved(start, way, register.STAGES[2:], register.LEVELS_MM) for start, way in scaled]
    return max(ends, key=fit)


def agreement(
    image: Volume, transform: sitk.Transform, reach: float, tumour: Mask | None = None
) -> float:
    """How much of the image the template's anatomy explains, whatever the contrast: 0 to 1.

    The multiple correlation coefficient of the image with the template's inner and outer CSF, GM
    and WM maps, at 4 mm, up to `reach` mm outside the template's mask and outside the `tumour`.
    """
    mni = template(COARSE_MM)
    region = mni.distance < reach
    if tumour is not None:
        share = register.shrunk(Volume(tumour.astype(np.float32), image.affine), COARSE_MM)
        region = region & (volume.resample(share, mni.t1.grid, transform) < 0.5)
    coarse = register.shrunk(image, COARSE_MM)
    values = volume.resample(coarse, mni.t1.grid, transform)[region].astype(np.float64)
    if values.std() == 0:
        return 0.0
    # Masks differ in how much of the outer CSF they keep: it may be bright, dark or cut away.
    outer = mni.distance > -OUTER_MM
    maps = (mni.csf * outer, mni.csf * ~outer, mni.gm, mni.wm)
    tissues = (tissue[region] for tissue in maps)
    design = np.column_stack([np.ones(values.size), *tissues])
    weights, *_ = np.linalg.lstsq(design, values, rcond=None)
    return float(np.sqrt(max(0.0, 1 - np.var(values - design @ weights) / values.var())))


def refine(work: Volume, transform: sitk.AffineTransform) -> Mask:
    """The brain of `work` (cubic voxels of `WORK_MM`), near the mask that the template brings.

    Watershed on brightness, flooded from deep inside and from outside the band, parts brain from
    scalp along the darkest surface between them, the skull; its bone is cut by a threshold, sulci
    are closed, and the outcome is averaged with the template's own boundary as signed distances.
    """
    prior = _distance_to_template(work.grid, transform)
    low, high = BAND_MM
    core = prior < low
    if not core.any():
        raise InputError("the template lies outside the field of view; check orientation and brain")
    smooth = ndimage.gaussian_filter(work.data, 0.5)
    seeds = np.where(core, 1, np.where(prior > high, 2, 0))
    basin = watershed(-smooth, seeds) == 1
    tissue = basin & (work.data > BONE * np.median(work.data[core]))
    ball = ndimage.generate_binary_structure(3, 2)
    tissue = largest(ndimage.binary_opening(tissue, ball)) | core
    closed = _grown(_grown(tissue, work.grid, SULCUS_MM), work.grid, -SULCUS_MM) & basin
    own = np.clip(signed_distance(closed, work.grid), low, -low)
    edge = (1 - TRUST) * own + TRUST * np.clip(prior, low, -low)
    return ndimage.binary_fill_holes(largest(ndimage.gaussian_filter(edge, 1.0) < 0))


def on_work_grid(image: Volume) -> Volume:
    """`image` on cubic voxels of `WORK_MM` over the same field of view."""
    grid = image.grid.coarsened(WORK_MM)
    return Volume(volume.resample(image, grid), grid.affine)


def _starts(head: Volume) -> list[sitk.AffineTransform]:
    """Template points to points under the vertex of `head`, in several sizes and poses."""
    points = np.argwhere(head_mask(head)) @ head.affine[:3, :3].T + head.affine[:3, 3]
    vertex = np.percentile(points[:, 2], 99.9)
    crown = points[points[:, 2] > vertex - CROWN_MM]
    centre = np.percentile(crown, (2, 98), axis=0).mean(0)
    centre[2] = vertex - DEPTH_MM
    mni = template(COARSE_MM)
    index = ndimage.center_of_mass(mni.mask)
    origin = (mni.t1.affine @ [*index, 1.0])[:3]
    lps = np.array([-1.0, -1.0, 1.0])
    starts = []
    for size, (pitch, rise) in product(SIZES, POSES):
        start = sitk.AffineTransform(3)
        start.SetCenter((origin * lps).tolist())
        start.Scale(size)
        start.Rotate(1, 2, np.deg2rad(pitch))
        start.SetTranslation(((centre + np.array([0, 0, rise]) - origin) * lps).tolist())
        starts.append(start)
    return starts


def _distance_to_template(grid: Grid, transform: sitk.AffineTransform) -> Image:
    """Signed distance in template mm to the template's mask, negative inside, on `grid`."""
    mni = template(WORK_MM)
    # Resampling fills with 0 beyond the template's field of view: let 0 stand for far outside.
    far = float(mni.distance.max())
    shifted = Volume(mni.distance - far, mni.t1.affine)
    back = sitk.AffineTransform(transform.GetInverse())
    return (volume.resample(shifted, grid, back) + far).astype(np.float32)


def _on_work_grid(mask: Mask | None, image: Volume) -> Mask | None:
    """`mask` on the grid of `image`, brought to the work grid; None stays None."""
    if mask is None:
        return None
    return on_work_grid(Volume(mask.astype(np.float32), image.affine)).data > 0.5


def _at(mask: Mask, image: Volume) -> Mask:
    """`mask` on the work grid of `image`, brought to the grid of `image`."""
    work = image.grid.coarsened(WORK_MM)
    share = volume.resample(Volume(mask.astype(np.float32), work.affine), image.grid)
    return ndimage.binary_fill_holes(largest(share > 0.5))


def _gain(
    work: Volume,
    starts: list[sitk.AffineTransform],
    found: sitk.AffineTransform,
    tumour: Mask | None,
) -> float:
    before = max(agreement(work, start, 0.0, tumour) for start in starts)
    return agreement(work, found, 0.0, tumour) - before


def _extraction(
    image: Volume, mask: Mask, transform: sitk.AffineTransform, gain: float
) -> Extraction:
    prior = _distance_to_template(image.grid, transform) < 0
    overlap = metrics.dice(prior, mask)
    mni = template(COARSE_MM)
    view = register.shrunk(Volume(np.ones(image.data.shape, np.float32), image.affine), COARSE_MM)
    seen = volume.resample(view, mni.t1.grid, transform)[mni.mask] >= 0.5
    return Extraction(mask, transform, overlap, float(1 - seen.mean()), gain)


def _grown(mask: Mask, grid: Grid, mm: float) -> Mask:
    """`mask` dilated by a ball of `mm`, or eroded where `mm` is negative."""
    if mm < 0:
        return ndimage.distance_transform_edt(mask, sampling=grid.spacing) > -mm
    return ndimage.distance_transform_edt(~mask, sampling=grid.spacing) <= mm


def largest(mask: Mask) -> Mask:
    """The largest connected piece of `mask` (faces touching)."""
    pieces, count = ndimage.label(mask)
    if count == 0:
        return mask
    return pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
