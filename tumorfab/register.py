"""Linear registration of two images, in stages, deterministic to the bit.

Rigid, then similarity, then affine: each stage starts where the last one ended, so that a stage
only has to find what its predecessor could not express. Transforms follow ITK's convention (points
of the fixed image to points of the moving image, LPS mm), as `volume.resample` wants them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from tumorfab import volume
from tumorfab.volume import Volume

Mask = NDArray[np.bool_]

STAGES = ("rigid", "similarity", "affine")
CORRELATION, INFORMATION = "correlation", "mutual information"

# Millimetres between the points at which images are compared, coarse to fine.
LEVELS_MM = (8.0, 4.0, 2.0)

# About the radius of a head: rotating by x radians moves the brain as far as shifting by x radii.
RADIUS_MM = 70.0

# More points than this (per level) cost time and add nothing to 12 parameters.
POINTS = 40_000


@dataclass(frozen=True)
class Registration:
    """A linear transform (fixed points to moving points) and what shows that it fits.

    `before` and `after` are Pearson correlations of the two images inside the fixed mask, at the
    start and at the end. Between contrasts they may be negative: compare their magnitude.
    """

    transform: sitk.AffineTransform
    before: float
    after: float


@contextmanager
def single_thread() -> Iterator[None]:
    """Run ITK on one thread: sums over threads are added in any order and differ in the last bits.

    The global number is what counts: some filters run others inside that know no other.
    """
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def moments(fixed: Volume, moving: Volume) -> sitk.AffineTransform:
    """Start for two brain masks of any kind: equal centre of mass and equal volume.

    Axes are not matched: scanners name them well enough, and second moments of a nearly round
    brain do not. Raises `ValueError` on an empty mask.
    """
    size = [np.count_nonzero(mask.data) * mask.grid.voxel_volume for mask in (fixed, moving)]
    if min(size) == 0:
        raise ValueError("moments of an empty mask")
    centres = [_centre(mask) for mask in (fixed, moving)]
    start = sitk.AffineTransform(3)
    start.SetMatrix((np.eye(3) * (size[1] / size[0]) ** (1 / 3)).ravel().tolist())
    start.SetCenter(centres[0].tolist())
    start.SetTranslation((centres[1] - centres[0]).tolist())
    return start


def linear(
    fixed: Volume,
    moving: Volume,
    mask: Mask,
    start: sitk.Transform,
    metric: str = CORRELATION,
    stages: tuple[str, ...] = STAGES,
    levels: tuple[float, ...] = LEVELS_MM,
    ignore: Mask | None = None,
) -> Registration:
    """Register `moving` to `fixed`, comparing them where `mask` (on the grid of `fixed`) is set and
    `ignore` (on the grid of `moving`; a tumour) is not.

    `start` maps fixed points to moving points. All stages run at the coarsest of `levels` (mm), the
    last one again at every finer level; levels at which both images would look the same are run
    once.
    """
    transform = flatten(start)
    before = correlation(fixed, moving, mask, transform)
    done: list[_Pair] = []
    for mm in levels:
        pair = _Pair.at(fixed, moving, mask, mm, ignore)
        if done and done[-1].sizes == pair.sizes:
            continue
        for stage in stages[-1:] if done else stages:
            transform = _improve(pair, transform, stage, metric)
        done.append(pair)
    return Registration(transform, before, correlation(fixed, moving, mask, transform))


def correlation(fixed: Volume, moving: Volume, mask: Mask, transform: sitk.Transform) -> float:
    """Pearson correlation inside `mask` (on the grid of `fixed`), compared every `LEVELS_MM[1]` mm.

    Where the moving image has no data it counts as 0; a constant image correlates with nothing.
    """
    pair = _Pair.at(fixed, moving, mask, LEVELS_MM[1])
    there = sitk.Resample(pair.moving, pair.fixed, transform, sitk.sitkLinear, 0.0)
    inside = sitk.GetArrayViewFromImage(pair.mask) > 0
    a, b = (sitk.GetArrayFromImage(image)[inside] for image in (pair.fixed, there))
    if not inside.any() or a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a.astype(np.float64), b.astype(np.float64))[0, 1])


def follows(fixed: Volume, moving: Volume, mask: Mask, transform: sitk.Transform) -> float:
    """How well `moving` is a function of `fixed` inside `mask`, whatever the contrasts: 0 to 1.

    The correlation ratio (Roche et al. 1998) over 32 bins of equal size, compared every
    `LEVELS_MM[1]` mm.
    """
    pair = _Pair.at(fixed, moving, mask, LEVELS_MM[1])
    there = sitk.Resample(pair.moving, pair.fixed, transform, sitk.sitkLinear, 0.0)
    inside = sitk.GetArrayViewFromImage(pair.mask) > 0
    a, b = (sitk.GetArrayFromImage(image)[inside] for image in (pair.fixed, there))
    if not inside.any() or b.std() == 0:
        return 0.0
    bins = np.searchsorted(np.quantile(a, np.linspace(0, 1, 33)[1:-1]), a)
    counts = np.maximum(np.bincount(bins, minlength=32), 1)
    means = np.bincount(bins, weights=b, minlength=32) / counts
    return float(np.sqrt(np.var(means[bins]) / np.var(b)))


def shrunk(image: Volume, mm: float) -> Volume:
    """`image` averaged over blocks of about `mm`, or as it is where its voxels are that large."""
    factors = np.maximum(1, np.rint(mm / image.grid.spacing)).astype(int)
    full = volume.to_sitk(Volume(image.data.astype(np.float32, copy=False), image.affine))
    return volume.from_sitk(sitk.BinShrink(full, factors.tolist()))


def flatten(transform: sitk.Transform) -> sitk.AffineTransform:
    """Any linear transform or chain of them as one `AffineTransform` about the origin."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(row)) - origin for row in np.eye(3).tolist()]
    flat = sitk.AffineTransform(3)
    flat.SetMatrix(np.array(columns).T.ravel().tolist())
    flat.SetTranslation(origin.tolist())
    return flat


def ras_matrix(transform: sitk.AffineTransform) -> NDArray[np.float64]:
    """The matrix (4, 4) that does to points in RAS+ mm what `transform` does in LPS mm."""
    flat, lps = flatten(transform), np.diag([-1.0, -1.0, 1.0, 1.0])
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(flat.GetMatrix(), (3, 3))
    matrix[:3, 3] = flat.GetTranslation()
    return np.asarray(lps @ matrix @ lps)


def compose(first: sitk.Transform, then: sitk.Transform) -> sitk.AffineTransform:
    """One transform that applies `first` to a point and `then` to the result."""
    # ITK's composite applies the transform that was added last first.
    return flatten(sitk.CompositeTransform([then, first]))


@dataclass(frozen=True)
class _Pair:
    """Two images and the fixed mask at the resolution of one level."""

    fixed: sitk.Image
    moving: sitk.Image
    mask: sitk.Image
    counts: sitk.Image | None  # where the moving image may be looked at; None is everywhere

    @classmethod
    def at(
        cls, fixed: Volume, moving: Volume, mask: Mask, mm: float, ignore: Mask | None = None
    ) -> "_Pair":
        share = shrunk(Volume(mask.astype(np.float32), fixed.affine), mm)
        one, other = (volume.to_sitk(shrunk(image, mm)) for image in (fixed, moving))
        counts = None
        if ignore is not None:
            tumour = shrunk(Volume(ignore.astype(np.float32), moving.affine), mm)
            counts = volume.to_sitk(tumour) < 0.5
        return cls(one, other, volume.to_sitk(share) >= 0.5, counts)

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        return self.fixed.GetSize(), self.moving.GetSize()


@single_thread()
def _improve(
    pair: _Pair, transform: sitk.AffineTransform, stage: str, metric: str
) -> sitk.AffineTransform:
    """`transform` after the increment of one `stage` that brings the images of `pair` closer."""
    # Lengths in brain radii about the brain's centre: a step of a given length then moves the brain
    # about equally far whichever parameter it is taken along, as gradient descent needs.
    centre = _centre(volume.from_sitk(pair.mask))
    unit = sitk.AffineTransform(3)
    unit.Scale(RADIUS_MM)
    unit.SetTranslation(centre.tolist())
    scaled = compose(compose(unit, transform), sitk.AffineTransform(unit.GetInverse()))
    kinds: dict[str, Callable[[], sitk.Transform]] = {
        "rigid": sitk.Euler3DTransform,
        "similarity": sitk.Similarity3DTransform,
        "affine": lambda: sitk.AffineTransform(3),
    }
    increment = kinds[stage]()

    method = sitk.ImageRegistrationMethod()
    if metric == CORRELATION:
        method.SetMetricAsCorrelation()
    else:
        method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=32)
    points = int(np.count_nonzero(sitk.GetArrayViewFromImage(pair.mask)))
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(min(1.0, POINTS / max(points, 1)), seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=4.0 / RADIUS_MM,
        minStep=0.02 / RADIUS_MM,
        numberOfIterations=100,
        gradientMagnitudeTolerance=1e-7,
    )
    fixed, moving, mask = (
        _in_radii(image, centre) for image in (pair.fixed, pair.moving, pair.mask)
    )
    method.SetMetricFixedMask(mask)
    if pair.counts is not None:
        method.SetMetricMovingMask(_in_radii(pair.counts, centre))
    method.SetMovingInitialTransform(scaled)
    method.SetInitialTransform(increment, inPlace=True)
    method.Execute(fixed, moving)
    better = compose(sitk.AffineTransform(unit.GetInverse()), increment)
    return compose(compose(better, scaled), unit)


def _in_radii(image: sitk.Image, centre: NDArray[np.float64]) -> sitk.Image:
    """`image` in the unit of length of `_improve`."""
    copy = sitk.Image(image)
    copy.SetOrigin(((np.array(image.GetOrigin()) - centre) / RADIUS_MM).tolist())
    copy.SetSpacing((np.array(image.GetSpacing()) / RADIUS_MM).tolist())
    return copy


def _centre(mask: Volume) -> NDArray[np.float64]:
    """Centre of mass of a mask in LPS mm."""
    index = ndimage.center_of_mass(mask.data > 0)
    ras = mask.affine @ [*index, 1.0]
    return np.array([-ras[0], -ras[1], ras[2]])
