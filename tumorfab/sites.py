"""Where in a brain a tumour may begin: the cohort's lesion frequency times the host's own tissue.

Coordinates are RAS+ mm; regions are told apart by the nearest of a few landmarks in MNI152, which
is coarse (a lobe, not a gyrus) and needs no atlas.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tumorfab.anatomy import Plane
from tumorfab.roi import core_mm3
from tumorfab.volume import Grid, ball_radius

# Landmarks (|x|, y, z) in MNI152 by region: our choice, read off the template.
LANDMARKS = {
    "frontal": [(25, 45, 10), (35, 15, 40), (12, 30, 40), (20, 50, -10), (15, 0, 60)],
    "temporal": [(50, -10, -20), (55, -40, 0), (35, 5, -30), (45, -35, -15)],
    "parietal": [(40, -50, 45), (15, -60, 50), (50, -30, 35), (30, -35, 60)],
    "occipital": [(20, -90, 5), (30, -75, 15), (15, -75, -5), (35, -80, -5)],
    "insula": [(38, 5, 2), (38, -12, 8)],
    "deep": [(15, -15, 8), (25, 0, 5), (12, 10, 10), (22, -25, 22), (10, 15, 24)],
    "cerebellum": [(25, -65, -40), (10, -60, -25), (40, -60, -35), (8, -70, -45)],
    "brainstem": [(4, -28, -20), (4, -28, -35), (4, -36, -52), (8, -26, -10)],
}
# Brain stem tumours are another disease: only where they are asked for.
RARE = ("brainstem",)
# A lesion of the cohort makes its surroundings likely up to about this far (sd in mm).
SPREAD_MM = 15.0
# Share of sites that are drawn without regard to the cohort, which is small.
UNIFORM = 0.25
# Sites are looked for on every so many mm.
STEP_MM = 2.0


def region(mni_mm: NDArray[np.float64]) -> NDArray[np.str_]:
    """Name of the region of each of (N, 3) points of MNI152."""
    names = [name for name, marks in LANDMARKS.items() for _ in marks]
    marks = np.array([mark for found in LANDMARKS.values() for mark in found], float)
    folded = np.column_stack([np.abs(mni_mm[:, 0]), mni_mm[:, 1:]])
    apart = ((folded[:, None] - marks) ** 2).sum(-1)
    return np.array(names)[apart.argmin(1)]


def frequency(
    points: NDArray[np.float64], lesions: list[dict[str, Any]], plane: Plane
) -> NDArray[np.float64]:
    """How often the cohort has a tumour near each of (N, 3) points, up to a factor: at every lesion
    and at its mirror image a Gaussian with the variance of a ball of its core blurred by
    `SPREAD_MM`."""
    total = np.zeros(len(points))
    for lesion in lesions:
        variance = SPREAD_MM**2 + ball_radius(core_mm3(lesion)) ** 2 / 5
        place = np.array(lesion["centre_mm"])[None]
        for centre in (place, plane.mirrored(place)):
            apart = ((points - centre) ** 2).sum(1)
            total += np.exp(-apart / (2 * variance)) / variance**1.5
    return total


def candidates(
    tissue: NDArray[np.bool_],
    grid: Grid,
    to_mni: NDArray[np.float64],
    plane: Plane,
    lesions: list[dict[str, Any]],
    wanted: str,
    side: str,
) -> tuple[NDArray[np.int_], NDArray[np.float64]]:
    """Voxels (N, 3) at which a tumour may begin, and how likely each is.

    `tissue` is where tumours may be; `wanted` a region or `any`, `side` left, right or `any`.
    """
    step = np.maximum(1, np.rint(STEP_MM / grid.spacing)).astype(int)
    voxels = np.argwhere(tissue[:: step[0], :: step[1], :: step[2]]) * step
    points = voxels @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    found = region(points @ to_mni[:3, :3].T + to_mni[:3, 3])
    right = plane.distance(points) > 0
    keep = ~np.isin(found, RARE) if wanted == "any" else found == wanted
    if side != "any":
        keep &= right if side == "right" else ~right
    voxels, points = voxels[keep], points[keep]
    if not len(points):
        return voxels, np.zeros(0)
    weight = frequency(points, lesions, plane)
    weight /= max(weight.sum(), 1e-300)
    return voxels, (1 - UNIFORM) * weight + UNIFORM / len(points)


def voxel(mni_mm: list[float], to_mni: NDArray[np.float64], grid: Grid) -> list[int]:
    """The voxel at a point of MNI152."""
    point = np.linalg.inv(to_mni @ grid.affine) @ [*mni_mm, 1]
    return [int(v) for v in np.rint(point[:3])]
