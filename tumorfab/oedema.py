"""Oedema: fluid that spreads from the tumour's core through the host's own tissue.

It runs along white matter, hardly enters the cortex, and stops at CSF, ventricles and falx: the
time of arrival of a front (Dijkstra's shortest path over 26 neighbours, the discrete counterpart of
fast marching; Sethian, PNAS 1996) whose speed is that of the tissue, varied at random so that the
front is irregular. The volume that is asked for decides when it stops. Our reading: infiltration
and fluid are not told apart, and there are no fibre directions, only where white matter is.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.graph import MCP_Geometric

from tumorfab import fields, stage
from tumorfab.volume import Image, block_means

Mask = NDArray[np.bool_]

# Speed of the front in grey matter, white matter being 1.
GREY_SPEED = 0.12
# Variation of the speed (standard deviation of its logarithm) and its detail (mm).
UNEVEN, KNOTS_MM = 0.35, 7.0
# The front is computed on voxels of about this edge (mm).
SOLVE_MM = 2.0
# A block with more CSF than this is closed.
CLOSED = 0.5
# Closing gaps of 8 mm makes patients' labels larger by 1 to 5 %, fluid by 7 %, its outline by 1 %.
OUTLINE_MM = 8.0


@dataclass(frozen=True, eq=False)
class Spread:
    """`arrival` (I, J, K): how far (mm of pure white matter) the front had come when it reached a
    voxel, 0 in the core, far beyond `edge` where it never did; `edge`: how far it came in all."""

    arrival: Image
    edge: float


def spread(
    core: Mask, csf: Image, white: Image, closed: Mask, spacing: NDArray, volume_mm3: float,
    seed: int,
) -> Spread:  # fmt: skip
    """The front around `core` when it has taken `volume_mm3`, or all that it can reach.

    `csf` and `white` are tissue shares in 0..1, `closed` is where nothing enters: outside the
    brain, ventricles, falx, other tumours.
    """
    step = np.maximum(1, np.rint(SOLVE_MM / spacing)).astype(int)
    mm = spacing * step
    fluid, fibre, shut, start = (
        block_means(np.asarray(part, np.float32), step) for part in (csf, white, closed, core)
    )
    seeds = start >= 0.5
    if not seeds.any():
        seeds = start == start.max()
    rng = stage.rng(seed, "oedema")
    uneven = np.exp(UNEVEN * fields.noise(rng, seeds.shape, mm, KNOTS_MM))
    speed = (GREY_SPEED + (1 - GREY_SPEED) * fibre) * uneven
    cost = np.where((shut < 0.5) & (fluid < CLOSED), 1 / speed, -1.0)
    cost[seeds] = 1e-6
    wanted = volume_mm3 / float(np.prod(mm))
    # The front stops when it has twice what it needs: interpolation to voxels sees beyond the edge.
    coverage = min(1.0, (2 * wanted + np.count_nonzero(seeds) + 27) / cost.size)
    front = MCP_Geometric(cost, sampling=tuple(mm))
    times, _ = front.find_costs(np.argwhere(seeds), max_coverage=coverage)
    reached = np.sort(times[np.isfinite(times) & ~seeds])
    if wanted < 1 or not reached.size:
        return Spread(np.where(core, 0, np.inf).astype(np.float32), 0.0)
    edge = float(reached[min(int(wanted), reached.size) - 1])
    # What was not reached lies behind the edge, how far nobody knows: far enough to be nothing.
    finite = np.where(np.isfinite(times), times, 3 * edge + 4 * mm.max())
    arrival = np.where(core, 0, _linear(finite.astype(np.float32), step, core.shape))
    # Interpolation moves the front a little: the edge is where the volume is reached for good.
    room = arrival[~core & ~closed & (csf < CLOSED)]
    count = min(int(volume_mm3 / np.prod(spacing)), room.size)
    edge = min(float(np.partition(room, count - 1)[count - 1]), float(reached[-1])) if count else 0
    return Spread(arrival.astype(np.float32), edge)


def density(found: Spread, csf: Image, closed: Mask, width_mm: float, fade: float) -> Image:
    """How much oedema a voxel holds, 0..1: falling by the share `fade` from the core to the edge,
    where it ends over `width_mm`; none in CSF. 0.5 of what it would be at the edge is the edge."""
    if found.edge == 0:
        return np.zeros(found.arrival.shape, np.float32)
    inside = np.clip(0.5 + (found.edge - found.arrival) / width_mm, 0, 1)
    graded = 1 - fade * np.clip(found.arrival / found.edge, 0, 1)
    return np.where(closed, 0, inside * graded * (1 - csf)).astype(np.float32)


def outlined(fluid: Mask, closed: Mask, spacing: NDArray) -> Mask:
    """The outline that an annotator draws around `fluid` (I, J, K), with no regard for narrow sulci
    and thin fingers: where the mean over `OUTLINE_MM` is more fluid than not; never in `closed`."""
    share = fields.coarse(fluid.astype(np.float32), ~closed, spacing, OUTLINE_MM)
    return np.asarray((share > 0.5) & ~closed)


def _linear(coarse: Image, step: NDArray[np.int_], shape: tuple[int, ...]) -> Image:
    """`coarse`, at the centres of blocks, at every voxel: linear along one axis after another."""
    out = coarse
    for axis, (n, size) in enumerate(zip(step, shape, strict=True)):
        last = coarse.shape[axis] - 1
        at = np.clip((np.arange(size) - (n - 1) / 2) / n, 0, last)
        low = np.minimum(at.astype(int), max(last - 1, 0))
        share = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        high = np.minimum(low + 1, last)
        out = np.take(out, low, axis) * (1 - share) + np.take(out, high, axis) * share
    return out
