"""The anatomy of the phantom: MNI152 brains under random diffeomorphisms, and heads around them.

The template is that of `mni152`. No file is written here; `demo` makes scans of what this module
returns.

Arrays are (I, J, K), lengths mm. "Subject mm" are RAS mm of a head before it is laid in the
scanner, "template mm" those of the template.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.interpolate import BSpline

from tumorfab import mni152
from tumorfab.volume import Affine, Grid, Image

Layer = tuple[str, Image]
"""What is painted, and how much of each voxel it covers (0 to 1)."""


def smooth(lattice: NDArray, grid: Grid, step: float) -> Image:
    """Cubic B-spline on the voxels of `grid`: `lattice` (A, B, C) are coefficients `step` mm apart
    along the axes of `grid`, the second of them at its first voxel. Float32."""
    out = np.asarray(lattice, np.float32)
    for axis, (count, spacing) in enumerate(zip(grid.shape, grid.spacing, strict=True)):
        n = out.shape[axis]
        at = 1 + np.arange(count) * spacing / step
        basis = BSpline.design_matrix(at, np.arange(-2.0, n + 2.0), 3).toarray().astype(np.float32)
        out = np.moveaxis(np.tensordot(basis, out, (1, axis)), 0, axis)
    return out


def _lattice_shape(grid: Grid, step: float) -> tuple[int, ...]:
    return tuple(int(n) for n in np.ceil(np.array(grid.shape) * grid.spacing / step) + 4)


def texture(generator: Generator, grid: Grid, step: float) -> Image:
    """Smooth random field of unit variance whose blobs are about `step` mm in radius."""
    field = smooth(generator.standard_normal(_lattice_shape(grid, step)), grid, step)
    return field / field.std()


def jacobian(mapping: NDArray, spacing: float) -> NDArray:
    """Determinant of the Jacobian of `mapping` (3, I, J, K), in mm on a grid of `spacing` mm."""
    rows = np.stack([np.stack(np.gradient(component, spacing)) for component in mapping])
    return np.linalg.det(np.moveaxis(rows, (0, 1), (-2, -1)))


def displacement(generator: Generator, shape: tuple[int, ...], step: float) -> NDArray:
    """Displacement in mm (3, *shape) of a random diffeomorphism, on a lattice of `step` mm.

    The exponential of a smooth stationary velocity field by scaling and squaring (Arsigny et al.,
    MICCAI 2006), 3 to 5 mm long on average, with a Jacobian above 0.3 everywhere.
    """
    noise = generator.standard_normal((3, *shape))
    velocity = np.stack([ndimage.gaussian_filter(component, 14 / step) for component in noise])
    velocity *= generator.uniform(3, 5) / np.sqrt((velocity**2).sum(0).mean())
    here = np.indices(shape).astype(float)
    while True:
        moved = velocity / 2**6
        for _ in range(6):
            there = here + moved / step
            moved = moved + np.stack(
                [ndimage.map_coordinates(c, there, order=1, mode="nearest") for c in moved]
            )
        if jacobian(step * here + moved, step).min() > 0.3:
            return moved
        velocity *= 0.9


def rotation(degrees: ArrayLike) -> Affine:
    """Rotation (4, 4) about x, then y, then z, through the origin."""
    out = np.eye(4)
    for axis, angle in enumerate(np.deg2rad(np.asarray(degrees))):
        turn, (a, b) = np.eye(4), [i for i in range(3) if i != axis]
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        out = turn @ out
    return out


@dataclass(frozen=True, eq=False)
class Brain:
    """A subject's brain on its working grid (subject mm, cubic voxels).

    `at` (3, I, J, K) is where each voxel lies in template mm; `grey`, `white` are tissue shares in
    0..1, `mask` the brain with its sulci, `detail` what the template's T1 shows beyond the shares.
    """

    grid: Grid
    at: Image
    grey: Image
    white: Image
    mask: Image
    detail: Image

    @property
    def mm(self) -> float:
        """Voxel edge."""
        return float(self.grid.spacing[0])


@cache
def template(factor: int) -> tuple[Image, Affine]:
    """T1, GM, WM and brain mask of MNI152, (4, I, J, K) in 0..1 at `factor` mm, and their affine.

    Raises `InputError` when nilearn is not installed.
    """
    maps = mni152.maps()
    i, j, k = (n // factor for n in maps[0].data.shape)

    def coarse(data: NDArray) -> Image:
        blocks = data[: i * factor, : j * factor, : k * factor]
        return blocks.reshape(i, factor, j, factor, k, factor).mean((1, 3, 5), dtype=np.float32)

    means = np.stack([coarse(m.data / 255) for m in maps] + [coarse(maps[0].data > 0)])
    affine = maps[0].affine @ np.diag([factor, factor, factor, 1.0])
    affine[:3, 3] += (factor - 1) / 2
    return means, affine


def deformed_brain(generator: Generator, factor: int, size: float) -> Brain:
    """A random individual: the template under a mild affine and a diffeomorphism.

    `size` is the mean linear size relative to the template, `factor` the voxel edge of the working
    grid in whole mm. The grid leaves room for the head and neck.
    """
    low, high = np.array([-112, -140, -156]), np.array([112, 124, 116])
    affine = np.diag([factor, factor, factor, 1.0])
    affine[:3, 3] = low
    i, j, k = (high - low) // factor
    grid = Grid((int(i), int(j), int(k)), affine)
    step = 8.0
    lattice = displacement(generator, _lattice_shape(grid, step), step)
    moved = np.stack([smooth(component, grid, step) for component in lattice])
    scale = size * generator.uniform(0.97, 1.03) * generator.uniform(0.98, 1.02, 3)
    linear = rotation(generator.uniform(-2, 2, 3))[:3, :3] / scale
    here = np.indices(grid.shape, np.float32) * factor + low.reshape(3, 1, 1, 1).astype(np.float32)
    at = np.tensordot(linear.astype(np.float32), here + moved, 1)
    maps, maps_affine = template(factor)
    voxels = (at - maps_affine[:3, 3].reshape(3, 1, 1, 1).astype(np.float32)) / factor
    t1, grey, white, mask = (ndimage.map_coordinates(m, voxels, order=1) for m in maps)
    shares = np.stack([grey, white, np.clip(mask - grey - white, 0, 1)])
    inside = mask > 0.99
    weights, *_ = np.linalg.lstsq(shares[:, inside][:, ::7].T, t1[inside][::7], rcond=None)
    detail = np.where(inside, np.clip(t1 - np.tensordot(weights, shares, 1), -0.15, 0.15), 0)
    return Brain(grid, at, grey, white, mask, detail.astype(np.float32))


def head_layers(generator: Generator, brain: Brain) -> list[Layer]:
    """The head from the skin inwards, each layer painted over those before it.

    Distances from the brain make scalp, skull and the rim of CSF; cylinders and ellipsoids in
    template mm make neck, spine, facial mass (no face), airways and eyes.
    """
    x, y, z = brain.at

    def cover(depth: NDArray) -> Image:
        return np.clip(depth / np.float32(brain.mm) + 0.5, 0, 1).astype(np.float32)

    def ball(centre: Sequence[float], radii: Sequence[float]) -> Image:
        """Depth in mm inside an ellipsoid; an infinite radius makes a cylinder."""
        parts = [((v - c) / r) ** 2 for v, c, r in zip((x, y, z), centre, radii, strict=True)]
        return (1 - np.sqrt(parts[0] + parts[1] + parts[2])) * min(radii)

    outside = brain.mm * ndimage.distance_transform_edt(brain.mask < 0.5)
    # A closing of 30 mm: skull and scalp follow the brain's hull, not its sulci.
    hull = 30 - brain.mm * ndimage.distance_transform_edt(outside < 30)
    hull = (hull + 0.8 * texture(generator, brain.grid, 40)).astype(np.float32)
    rim, skull, scalp = (generator.uniform(*r) for r in ((1.5, 3.5), (5, 8), (5, 8)))
    below = -z - 74  # mm under the cut through the brain stem
    spine = y + 42 + 0.15 * (z + 72)
    canal = -np.hypot(x, spine)
    neck = np.minimum(ball((0, -26, 0), (generator.uniform(52, 62), 62, np.inf)), -z - 30)
    face = ball((0, 36, -60), (60, 50, 62))
    depth = ndimage.gaussian_filter(
        np.maximum(rim + skull + scalp - hull, np.maximum(neck, face)), 4 / brain.mm
    )
    septa = texture(generator, brain.grid, 6) - 1.2
    eyes = np.maximum(ball((-31, 60, -36), (12, 12, 12)), ball((31, 60, -36), (12, 12, 12)))
    sinus = np.maximum(ball((0, 56, -52), (16, 22, 20)) + 4 * septa, ball((0, 4, -90), (9, 7, 40)))
    diploe = skull / 6 - np.abs(hull - rim - skull / 2)
    tissue = brain.grey + brain.white
    return [
        ("skin", cover(depth)),
        ("fat", cover(depth - 2)),
        ("muscle", cover(depth - scalp * 0.8)),
        ("fat", cover(np.minimum(6 * septa, depth - 2))),
        ("air", cover(np.minimum(sinus, depth - 4))),
        ("fat", cover(np.minimum(eyes + 5, depth - 3))),
        ("eye", cover(np.minimum(eyes, depth - 3))),
        ("bone", cover(np.minimum(np.maximum(canal + 13, 14 - np.hypot(x, spine - 20)), below))),
        ("marrow", cover(np.minimum(12 - np.hypot(x, spine - 20), below))),
        ("bone", cover(rim + skull - hull)),
        ("marrow", cover(diploe)),
        ("CSF", cover(np.minimum(canal + 9, below + 10))),
        ("WM", cover(np.minimum(canal + 5.5, below + 4))),
        ("CSF", cover(np.minimum(rim - hull, rim + 3 - outside))),
        ("GM", tissue),
        ("WM", np.divide(brain.white, tissue, out=np.zeros_like(tissue), where=tissue > 0)),
    ]
