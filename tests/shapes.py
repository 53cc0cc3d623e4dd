"""Shapes of known size and the ROIs made of them."""

import numpy as np
from numpy.typing import NDArray

from tumorfab import roi
from tumorfab.volume import Grid


def grid(edge: float, *size: int) -> Grid:
    """Voxels of `edge` mm, axes along R, A, S, the origin in the first voxel."""
    return Grid(size, np.diag([edge, edge, edge, 1.0]))


def ellipsoid(
    shape: tuple[int, ...], middle: tuple[float, ...], semi_axes: tuple[float, ...] | float
) -> NDArray[np.bool_]:
    """Voxels within the ellipsoid; everything in voxels."""
    offset = np.indices(shape) - np.array(middle)[:, None, None, None]
    return ((offset / np.broadcast_to(semi_axes, 3)[:, None, None, None]) ** 2).sum(0) <= 1


def tumour(
    semi_axes: tuple[float, ...] | float = 6.0,
    spacing: float = 2.0,
    donor: str = "A",
    necrotic: float = 0.5,
    seed: int = 0,
) -> tuple[roi.Roi, dict[str, NDArray]]:
    """An ellipsoidal tumour (voxels) with necrosis in its middle and oedema around it, in a cube of
    33 voxels, and the tissue-relative images that it was made from."""
    shape, middle = (33, 33, 33), (16, 16, 16)
    axes = np.broadcast_to(semi_axes, 3)
    labels = np.zeros(shape, np.uint8)
    labels[ellipsoid(shape, middle, axes + 3)] = 2
    labels[ellipsoid(shape, middle, axes)] = 3
    labels[ellipsoid(shape, middle, axes * necrotic)] = 1
    rng = np.random.default_rng(seed)
    values = {"T1w": (0.5, -2.0, -1.0, 1.0), "T2w": (-0.5, 3.0, 2.0, 1.5)}
    images = {m: np.array(v)[labels] + rng.normal(0, 0.2, shape) for m, v in values.items()}
    return roi.analysed(
        donor, 0, labels, images, dict.fromkeys(images, 0.1), np.full(3, spacing)
    ), images
