"""Mass effect: a growing tumour displaces the brain around it.

Linear elasticity with a force that pushes from the tumour's inside out, b = -tanh(c) grad c for a
tumour density c (Hogea, Davatzikos and Biros, J. Math. Biol. 2008), stiffness by tissue, and no
motion at the skull and the falx. Being linear, one solution serves every strength.

The equation is posed in the brain as it is displaced, around the tumour in its final size: the
solution u(x) tells how far the tissue at x has come, so that the image at x is the host's at
x - u(x). That needs no inversion, and is as good as the other way as long as u is small against the
brain (our reading). Arrays are (I, J, K) on one grid; displacements (3, I, J, K) float32 in mm.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tumorfab import fields
from tumorfab.anatomy import Plane
from tumorfab.fields import Field
from tumorfab.volume import Box, Grid, Image, ball_radius, block_means, box, placed, within

Mask = NDArray[np.bool_]

# The equation is solved on voxels of about this edge (mm), this far (mm) around the tumour.
SOLVE_MM = 5.0
REACH_MM = 40.0
# Shear modulus and first Lame parameter, in units of brain tissue's shear modulus. Tissue yields a
# little (Poisson's ratio 0.4: fluid leaves it slowly); CSF gives way and flows off.
SHEAR = {"tissue": 1.0, "csf": 0.05}
LAME = {"tissue": 4.0, "csf": 0.02}
# The force is that of a density smoothed by this share of the tumour's radius (sd): all of it
# pushes, not its skin alone, which would tear itself apart.
SOFT = 0.4
# The falx reaches this deep (mm) between the hemispheres.
FALX_DEPTH_MM = 35.0
# Displacements are shortened by this much (mm), so that voxels far away stay the host's.
LEAST_MM = 0.5
ITERATIONS, TOLERANCE = 150, 3e-3
# Flows that are tried until one comes as far as was asked.
FLOWS = 3


@dataclass(frozen=True, eq=False)
class Displacement:
    """`moving`: the voxels of `where` whose tissue has moved; `source` (3, N): the voxel positions
    in the whole volume that it came from; `jacobian`: the smallest determinant of x -> x - u(x)."""

    where: Box
    moving: Mask
    source: NDArray[np.float32]
    largest_mm: float
    jacobian: float

    def carry(self, array: NDArray, order: int = 1) -> NDArray[np.float32]:
        """`array` (I, J, K) inside `where`, displaced by spline interpolation of `order`; its range
        is kept. What does not move is not touched."""
        out = np.array(array[self.where], np.float32)
        out[self.moving] = fields.interpolated(array, self.source, order)
        return out


def steps(grid: Grid) -> NDArray[np.int_]:
    """Voxels per block of the grid on which the equation is solved."""
    return np.maximum(1, np.rint(SOLVE_MM / grid.spacing)).astype(int)


def falx(brain: Mask, grid: Grid, plane: Plane) -> Mask:
    """The sheet between the hemispheres, on blocks of `steps`: blocks that the midsagittal plane
    cuts in the upper brain, near its surface. The corpus callosum and what lies below can shift."""
    step = steps(grid)
    inside = block_means(brain.astype(np.float32), step) > 0.5
    spacing = grid.spacing * step
    where = np.argwhere(inside)
    centre = where * step + (step - 1) / 2
    points = centre @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    # The brain with the fissure between the hemispheres closed, which is narrower than 20 mm.
    hull = ndimage.binary_closing(np.pad(inside, 4), iterations=2)[4:-4, 4:-4, 4:-4] | inside
    depth = ndimage.distance_transform_edt(np.pad(hull, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    upper = points[:, 2] > np.median(points[:, 2]) if len(points) else np.zeros(0, bool)
    near = np.abs(plane.distance(points)) <= spacing.max() / 2
    chosen = where[near & upper & (depth[inside] < FALX_DEPTH_MM)]
    sheet = np.zeros(inside.shape, bool)
    sheet[tuple(chosen.T)] = True
    return sheet


def displace(
    tumour: Mask, at: Box, brain: Mask, csf: Image, falx: Mask, grid: Grid, share: float
) -> Displacement | None:
    """The displacement by a `tumour`, which fills the box `at` of the volume, with a peak of
    `share` of the tumour's radius, or as large as leaves the Jacobian above
    `fields.LEAST_JACOBIAN`; None where nothing moves.

    `falx` as `falx()` gives it, `csf` in 0..1.
    """
    if share == 0:
        return None
    step = steps(grid)
    reach = REACH_MM / grid.spacing
    # The box begins at a block of the whole volume, so that the falx's blocks are its own.
    first = [int(max(0, (s.start - r) // n)) for s, r, n in zip(at, reach, step, strict=True)]
    last = [
        int(min(-(-size // n), -(-(s.stop + r) // n)))
        for s, r, n, size in zip(at, reach, step, brain.shape, strict=True)
    ]
    blocks = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    where = tuple(
        slice(int(a * n), int(min(b * n, size)))
        for a, b, n, size in zip(first, last, step, brain.shape, strict=True)
    )
    spacing = grid.spacing * step
    inside = brain[where]
    fluid = block_means(np.where(inside, csf[where], 1).astype(np.float32), step)
    free = (block_means(inside.astype(np.float32), step) > 0.5) & ~falx[blocks]
    density = np.zeros(inside.shape, np.float32)
    density[within(at, where)] = tumour
    density = block_means(density, step)
    radius = ball_radius(np.count_nonzero(tumour) * grid.voxel_volume)
    density = ndimage.gaussian_filter(density, SOFT * radius / spacing)
    unit = solve(density, fluid, free, spacing)
    peak = float(np.sqrt((unit**2).sum(0)).max())
    if peak == 0:
        return None
    coarse, smallest = fields.unfolded(
        _flowed(unit / np.float32(peak), share * radius, spacing), spacing
    )
    shape = inside.shape
    field = np.stack([fields.upsampled(part, step, shape) for part in coarse])
    size = np.sqrt(np.einsum("i...,i...", field, field))
    moving = inside & (size > LEAST_MM)
    if not moving.any():
        return None
    tight = box(moving)
    where = placed(tight, where)
    moving, field, size = moving[tight], field[(slice(None), *tight)], size[tight]
    shorter = (1 - LEAST_MM / size[moving]) / grid.spacing.astype(np.float32)[:, None]
    start = np.array([w.start for w in where], np.float32)[:, None]
    source = np.argwhere(moving).T.astype(np.float32) + start - field[:, moving] * shorter
    largest = float(size.max()) - LEAST_MM
    return Displacement(where, moving, source, largest, smallest)


def _flowed(unit: Field, wanted: float, spacing: NDArray) -> Field:
    """The flow along `unit` (largest velocity 1) whose largest displacement is about `wanted` mm.

    A flow comes less far than its first step says, where it began in slower tissue.
    """
    speed = wanted
    for _ in range(FLOWS):
        field = fields.flowed(unit * np.float32(speed), spacing)
        speed *= wanted / float(np.sqrt((field**2).sum(0)).max())
    return field


def solve(
    density: NDArray[np.float32], fluid: NDArray[np.float32], free: Mask, spacing: NDArray
) -> Field:
    """The displacement (3, I, J, K) by a tumour of `density` (0..1), unscaled, 0 where not `free`.

    It minimises  sum shear/2 |grad u|^2 + (lame + shear)/2 (div u)^2 - b . u  by conjugate
    gradients with the diagonal as preconditioner. `fluid` is the share of CSF.
    """
    shear = (SHEAR["tissue"] + fluid * (SHEAR["csf"] - SHEAR["tissue"])).astype(np.float32)
    lame = LAME["tissue"] + fluid * (LAME["csf"] - LAME["tissue"])
    bulk = (lame + shear).astype(np.float32)
    h = spacing.astype(np.float32)
    # The box's own faces are held, so that rolling around them meets zeros.
    free = free.copy()
    for axis in range(3):
        faces = np.moveaxis(free, axis, 0)
        faces[[0, -1]] = False
    edges = [0.5 * (shear + np.roll(shear, -1, axis)) / h[axis] ** 2 for axis in range(3)]
    diagonal = sum(edge + np.roll(edge, 1, axis) for axis, edge in enumerate(edges))
    diagonal = diagonal + np.stack([
        (np.roll(bulk, 1, axis) + np.roll(bulk, -1, axis)) / (4 * h[axis] ** 2) for axis in range(3)
    ])  # fmt: skip

    def operator(u: Field) -> Field:
        out = np.zeros_like(u)
        divergence = np.zeros_like(shear)
        for axis in range(3):
            flux = edges[axis] * (np.roll(u, -1, axis + 1) - u)
            out -= flux - np.roll(flux, 1, axis + 1)
            divergence += (np.roll(u[axis], -1, axis) - np.roll(u[axis], 1, axis)) / (2 * h[axis])
        pressure = bulk * divergence
        for axis in range(3):
            slope = np.roll(pressure, -1, axis) - np.roll(pressure, 1, axis)
            out[axis] -= slope / (2 * h[axis])
        return out * free

    gradient = np.stack(list(np.gradient(density, *map(float, h))))
    residual = (-np.tanh(density) * gradient * free).astype(np.float32)
    u = np.zeros_like(residual)
    scaled = residual / diagonal
    direction = scaled
    rho = first = float((residual * scaled).sum())
    for _ in range(ITERATIONS):
        if rho <= TOLERANCE**2 * first:
            break
        image = operator(direction)
        alpha = np.float32(rho / float((direction * image).sum()))
        u += alpha * direction
        residual -= alpha * image
        scaled = residual / diagonal
        rho, previous = float((residual * scaled).sum()), rho
        direction = scaled + np.float32(rho / previous) * direction
    return u


def blocks_in(coarse: Mask, where: Box, grid: Grid) -> Mask:
    """A mask of blocks (see `steps`) at every voxel of the box `where`."""
    index = [np.arange(s.start, s.stop) // int(n) for s, n in zip(where, steps(grid), strict=True)]
    return coarse[np.ix_(*index)]
