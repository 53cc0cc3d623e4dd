"""Smooth fields on a voxel grid: spline upsampling, random fields, and displacements that do not
fold. Arrays are (I, J, K); displacements (3, I, J, K) in the unit of `spacing`."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import CubicSpline

from tumorfab.volume import Image

Field = NDArray[np.float32]

LEAST_JACOBIAN = 0.1
# A flow is made of steps no longer than this share of a voxel.
LONGEST_STEP = 0.1


def upsampled(coarse: Image, step: NDArray[np.int_], shape: tuple[int, ...]) -> Image:
    """`coarse`, given at the centres of blocks of `step` voxels, at every voxel of `shape`: a cubic
    spline along one axis after another. Beyond the outermost centres it stays constant."""
    out = np.ascontiguousarray(coarse, np.float32)
    for axis, (n, size) in enumerate(zip(step, shape, strict=True)):
        knots = coarse.shape[axis]
        centres = np.arange(knots) * n + (n - 1) / 2
        at = np.clip(np.arange(size), centres[0], centres[-1])
        weights = (
            CubicSpline(centres, np.eye(knots))(at) if knots > 1 else np.ones((size, 1))
        ).astype(np.float32)
        # matmul works on the last two axes: bring this axis there and back.
        out = np.moveaxis(np.matmul(weights, np.moveaxis(out, axis, -2)), -2, axis)
    return out


def noise(
    rng: np.random.Generator, shape: tuple[int, ...], spacing: NDArray, knots_mm: float
) -> Image:
    """A random field of mean 0 and standard deviation 1 without detail finer than `knots_mm`."""
    step = np.maximum(1, np.rint(knots_mm / spacing)).astype(int)
    # Two knots beyond each end, since the outermost ones repeat.
    knots = [-(-size // int(n)) + 4 for size, n in zip(shape, step, strict=True)]
    coarse = rng.standard_normal(knots).astype(np.float32)
    wide = tuple(size + 4 * int(n) for size, n in zip(shape, step, strict=True))
    inner = tuple(slice(2 * int(n), 2 * int(n) + size) for size, n in zip(shape, step, strict=True))
    found = upsampled(coarse, step, wide)
    # Between knots the spline averages them: without this the deviation would be 0.8.
    return np.asarray(found[inner] / found.std())


def warp(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    spacing: NDArray,
    knots_mm: float,
    sd_mm: float,
) -> Field:
    """A random displacement of `sd_mm` (standard deviation per axis) that folds nowhere."""
    if sd_mm == 0:
        return np.zeros((3, *shape), np.float32)
    field = np.stack([noise(rng, shape, spacing, knots_mm) for _ in range(3)])
    return unfolded(field * np.float32(sd_mm), spacing)[0]


def coarse(image: Image, mask: NDArray[np.bool_], spacing: NDArray, mm: float) -> Image:
    """`image` without what is finer than about `mm`: a mean over `mask` around each voxel."""
    size = (np.maximum(1, np.rint(mm / 2 / spacing)).astype(int) | 1).tolist()

    def blurred(part: NDArray) -> Image:
        once = ndimage.uniform_filter(np.asarray(part, np.float32), size)
        return np.asarray(ndimage.uniform_filter(once, size))

    around = np.maximum(blurred(mask), np.float32(1e-3))
    return np.asarray(blurred(np.where(mask, image, 0)) / around, np.float32)


def interpolated(array: NDArray, at: NDArray[np.float32], order: int) -> NDArray[np.float32]:
    """Values of `array` (I, J, K) at voxel positions `at` (3, N), by a spline of `order`.

    They are clipped to the range around them, so that the spline cannot ring. Beyond the edge the
    array is mirrored.
    """
    if not at.shape[1]:
        return np.zeros(0, np.float32)
    low = np.clip(np.floor(at.min(1)).astype(int) - 6, 0, np.array(array.shape) - 1)
    high = np.clip(np.ceil(at.max(1)).astype(int) + 7, low + 1, array.shape)
    part = array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    part = part.astype(np.float32, copy=False)
    position = at - low[:, None].astype(np.float32)
    values = ndimage.map_coordinates(part, position, order=order, mode="mirror")
    return np.clip(values, part.min(), part.max())


def jacobian(field: Field, spacing: NDArray) -> Image:
    """Determinant of the Jacobian of x -> x - field(x)."""
    rows = []
    for i, part in enumerate(field):
        slopes = np.gradient(part, *map(float, spacing))
        rows.append([np.float32(i == j) - slope for j, slope in enumerate(slopes)])
    a, b, c = rows
    return np.asarray(
        a[0] * (b[1] * c[2] - b[2] * c[1])
        - a[1] * (b[0] * c[2] - b[2] * c[0])
        + a[2] * (b[0] * c[1] - b[1] * c[0]),
        np.float32,
    )


def flowed(velocity: Field, spacing: NDArray) -> Field:
    """The displacement u of a flow that follows `velocity` for one unit of time: what is at x came
    from x - u(x). However large it is, it folds only where the grid is too coarse for it.

    Scaling and squaring (Arsigny et al., MICCAI 2006): short steps, joined with themselves.
    """
    largest = float(np.sqrt((velocity**2).sum(0)).max() / spacing.min())
    squarings = max(0, int(np.ceil(np.log2(max(largest, 1e-6) / LONGEST_STEP))))
    field = velocity / np.float32(2**squarings)
    here = np.indices(field.shape[1:], np.float32)
    per_voxel = spacing.astype(np.float32)[:, None, None, None]
    for _ in range(squarings):
        source = here - field / per_voxel
        field = field + np.stack(
            [ndimage.map_coordinates(part, source, order=1, mode="nearest") for part in field]
        )
    return np.asarray(field, np.float32)


def unfolded(field: Field, spacing: NDArray) -> tuple[Field, float]:
    """`field` made weaker until its Jacobian is at least `LEAST_JACOBIAN` everywhere, and the
    smallest Jacobian that is left."""
    while (smallest := float(jacobian(field, spacing).min())) < LEAST_JACOBIAN:
        field = field * np.float32(0.9)
    return field, smallest
