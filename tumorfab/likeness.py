"""How much a tumour is a copy of a training tumour: its shape, and its texture at the best match.

Texture is what is left of the intensities without the mean and spread of each class (`roi`), so a
copy that is brighter is still a copy, and two tumours are not alike for both having a dark middle.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tumorfab.roi import FEW, Roi
from tumorfab.volume import box


@dataclass(frozen=True, eq=False)
class Core:
    """The core of a tumour in the box that it fills: `inside` (I, J, K), and its `texture`
    (M, I, J, K) in standard deviations."""

    inside: NDArray[np.bool_]
    texture: NDArray[np.float32]

    def mirrored(self, axis: int) -> "Core":
        """The core with one of its axes turned round."""
        return Core(np.flip(self.inside, axis), np.flip(self.texture, axis + 1))


@dataclass(frozen=True)
class Match:
    """The training tumour that another is most like, the Dice of their cores and the correlation
    of their textures."""

    name: str
    dice: float
    correlation: float


def core(roi: Roi, modalities: list[str]) -> Core:
    """The core (NCR and ET) of a tumour that was taken apart."""
    inside = np.isin(roi.labels, (1, 3))
    where = box(inside)
    return Core(inside[where], np.stack([roi.texture[m][where] for m in modalities]))


def alike(one: Core, other: Core) -> tuple[float, float]:
    """Dice of two cores laid on each other by their centres of mass, to the voxel, and the
    correlation of their textures where both are, averaged over the modalities (0 where they share
    too little)."""
    centres = [np.array(ndimage.center_of_mass(c.inside)) for c in (one, other)]
    here, there = _overlap(one.inside.shape, other.inside.shape, np.rint(centres[1] - centres[0]))
    both = one.inside[here] & other.inside[there]
    shared = np.count_nonzero(both)
    dice = 2 * shared / (np.count_nonzero(one.inside) + np.count_nonzero(other.inside))
    if shared < FEW:
        return float(dice), 0.0
    ours, theirs = (
        c.texture[(slice(None), *part)][:, both].astype(np.float64)
        for c, part in ((one, here), (other, there))
    )
    return float(dice), float(np.mean(list(map(_correlation, ours, theirs))))


def nearest(found: Core, known: Mapping[str, Core], left_right: int) -> Match | None:
    """The known tumour that a core is most like as it is or mirrored about the axis `left_right`:
    by the product of Dice and correlation. None where nothing is known."""
    matches = [
        Match(name, *alike(side, core))
        for side in (found, found.mirrored(left_right))
        for name, core in known.items()
    ]
    return max(matches, key=lambda m: (m.dice * max(m.correlation, 0), m.dice), default=None)


def _overlap(
    one: tuple[int, ...], other: tuple[int, ...], shift: NDArray[np.float64]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The boxes that two arrays share when voxel x of `one` lies on voxel x + shift of `other`."""
    low = np.maximum(0, -shift).astype(int)
    high = np.maximum(low, np.minimum(one, np.array(other) - shift)).astype(int)
    moved = shift.astype(int)
    here = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    there = tuple(slice(int(a), int(b)) for a, b in zip(low + moved, high + moved, strict=True))
    return here, there


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0
