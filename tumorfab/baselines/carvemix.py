"""CarveMix: a lesion and its surroundings, carved from one training case, replace the same voxels
of another (Zhang et al., MICCAI 2021).

With X, Y the images and labels of donor i and host j, and D the signed distance (mm) to the
donor's lesion, negative inside:

    M = 1 where D <= t, else 0;  X = X_i M + X_j (1 - M);  Y = Y_i M + Y_j (1 - M)
    t ~ U(-d/2, 0) or U(0, d), each with probability 1/2;  d = |min D|

The paper's lesions have one class. Here all classes together are the lesion. The authors' script
measures the distance outside the lesion to label 1 alone, which is the same for one class and
something else for several: `published` does so too.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tumorfab.baselines import pairs
from tumorfab.baselines.pairs import Case, Mixed
from tumorfab.stage import run
from tumorfab.volume import Labels, box


@dataclass(frozen=True)
class Carve:
    """The signed distance (mm) from the lesion up to which voxels are carved."""

    distance_mm: float


def depth(labels: Labels, spacing: NDArray[np.float64]) -> float:
    """The largest distance (mm) of a lesion's voxel from the nearest one that is none."""
    lesion = labels[box(labels > 0, 1)] > 0
    return float(ndimage.distance_transform_edt(lesion, sampling=spacing).max())


def signed_distance(
    labels: Labels, spacing: NDArray[np.float64], published: bool = False
) -> NDArray[np.float64]:
    """D (mm) of a label map (I, J, K): inside, minus the distance to the nearest voxel without a
    lesion; outside, that to the nearest one with it, or, as `published`, to the nearest of label 1
    (infinite where there is none)."""
    lesion = labels > 0
    target = labels == 1 if published else lesion
    inside = ndimage.distance_transform_edt(lesion, sampling=spacing)
    if not target.any():
        return np.where(lesion, -inside, np.inf)
    return np.where(lesion, -inside, ndimage.distance_transform_edt(~target, sampling=spacing))


def sample(rng: np.random.Generator, host: Case, donor: Case) -> Carve:
    """Draw the size of what is carved; the paper's mixture of two uniform distributions."""
    most = depth(donor.labels, donor.grid.spacing)
    low, high = (-most / 2, 0.0) if rng.random() < 0.5 else (0.0, most)
    return Carve(float(rng.uniform(low, high)))


def apply(host: Case, donor: Case, draw: Carve, published: bool = False) -> Mixed:
    """The host's images and labels with what was carved from the donor; deterministic."""
    spacing = donor.grid.spacing
    # Nothing farther than the distance is carved, and one voxel more keeps the distances exact.
    reach = int(np.ceil(max(draw.distance_mm, 0.0) / spacing.min())) + 1
    where = box(donor.labels > 0, reach)
    carved = np.zeros(donor.grid.shape, bool)
    carved[where] = signed_distance(donor.labels[where], spacing, published) <= draw.distance_mm
    return pairs.replaced(host, carved, donor.images, donor.labels)


def main(argv: list[str] | None = None) -> None:
    """Command line of the stage: all samples of one host in one process."""
    parser = pairs.parser("baselines.carvemix", __doc__.splitlines()[0])
    parser.add_argument("--host", required=True, help="the training case that receives lesions")
    parser.add_argument(
        "--published", action="store_true", help="outside distance to label 1, as their script"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    name = "carvemix_published" if args.published else "carvemix"
    pairs.run(name, "carvemix", sample, partial(apply, published=args.published), args)


if __name__ == "__main__":
    run(main)
