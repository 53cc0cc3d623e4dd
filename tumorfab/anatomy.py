"""What mass effect and placement must know of a brain beyond its tissues: the lateral ventricles
and the midsagittal plane."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from tumorfab.volume import Affine, Grid, Image

Mask = NDArray[np.bool_]

# CSF farther than this (mm) from its template ventricle is another's, however it connects.
REACH_MM = 15.0
# The plane is sought on samples this far apart (mm), and within these angles and this distance of
# the template's.
SAMPLE_MM = 4.0
MOST_DEGREES, MOST_MM = 12.0, 12.0


@dataclass(frozen=True)
class Plane:
    """A plane by a `point` in RAS+ mm and its unit `normal`, which points to the right."""

    point: tuple[float, float, float]
    normal: tuple[float, float, float]

    def distance(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Signed distance in mm of (N, 3) points, positive to the right."""
        return (points - np.array(self.point)) @ np.array(self.normal)

    def mirrored(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mirror images of (N, 3) points."""
        return points - 2 * self.distance(points)[:, None] * np.array(self.normal)


def ventricles(csf: Image, expected: Mask, other: Mask, spacing: NDArray[np.float64]) -> Mask:
    """The lateral ventricles of one brain.

    `csf` (I, J, K) is its CSF posterior; `expected` are the template's lateral ventricles and
    `other` the rest of the template's CSF on the same grid. CSF belongs to whichever of the two is
    nearer, and to the ventricles only in pieces that touch the expected ones.
    """
    near = ndimage.distance_transform_edt(~expected, sampling=spacing)
    far = ndimage.distance_transform_edt(~other, sampling=spacing)
    candidates = (csf > 0.5) & (near < np.minimum(far, REACH_MM))
    pieces, _ = ndimage.label(candidates)
    touching = np.unique(pieces[expected & candidates])
    return np.isin(pieces, touching[touching > 0])


def midsagittal(image: Image, mask: Mask, grid: Grid, start: Plane) -> Plane:
    """The plane about which the brain is most symmetric, near `start`.

    Maximises the correlation of the image (0 outside `mask`) with its mirror image over two angles
    and a shift. Raises `ValueError` when the mask is empty.
    """
    if not mask.any():
        raise ValueError("no brain voxels")
    blurred = ndimage.gaussian_filter(np.where(mask, image, 0), SAMPLE_MM / 2 / grid.spacing)
    steps = np.maximum(1, np.rint(SAMPLE_MM / grid.spacing)).astype(int)
    index = np.argwhere(mask[:: steps[0], :: steps[1], :: steps[2]]) * steps
    points = _mm(index, grid.affine)
    values = blurred[tuple(index.T)].astype(np.float64)
    to_index = np.linalg.inv(grid.affine)
    middle = points.mean(0)

    def asymmetry(params: NDArray[np.float64]) -> float:
        there = _turned(start, middle, params).mirrored(points)
        at = (there @ to_index[:3, :3].T + to_index[:3, 3]).T
        mirrored = ndimage.map_coordinates(blurred, at, order=1)
        if mirrored.std() == 0:
            return 1.0
        return -float(np.corrcoef(values, mirrored)[0, 1])

    bounds = [(-MOST_DEGREES, MOST_DEGREES)] * 2 + [(-MOST_MM, MOST_MM)]
    found = optimize.minimize(
        asymmetry, np.zeros(3), method="Powell", bounds=bounds, options={"xtol": 0.02}
    )
    return _turned(start, middle, found.x)


def mapped(matrix: NDArray[np.float64]) -> Plane:
    """The plane of points p (RAS+ mm) whose image `matrix` (4, 4) p has x = 0."""
    row = matrix[0]
    length = float(np.linalg.norm(row[:3]))
    normal = row[:3] / length
    return Plane(_triple(-normal * row[3] / length), _triple(normal))


def _turned(start: Plane, middle: NDArray[np.float64], params: NDArray[np.float64]) -> Plane:
    """`start` through the point of it nearest to `middle`, turned by two angles (degrees) and
    shifted along its normal (mm)."""
    yaw, roll = np.deg2rad(params[:2])
    normal = np.array(start.normal)
    front = np.cross([0.0, 0.0, 1.0], normal)
    front /= np.linalg.norm(front)
    up = np.cross(normal, front)
    turned = normal + np.tan(yaw) * front + np.tan(roll) * up
    turned /= np.linalg.norm(turned)
    foot = middle - start.distance(middle[None])[0] * normal
    return Plane(_triple(foot + params[2] * turned), _triple(turned))


def _mm(index: NDArray, affine: Affine) -> NDArray[np.float64]:
    return np.asarray(index @ affine[:3, :3].T + affine[:3, 3])


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
