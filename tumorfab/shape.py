"""Shape of a synthetic tumour's core: a real one moved, turned, scaled, mirrored, warped, grown or
shrunk, and mixed with another.

All of it acts on signed distances, so that labels stay nested: necrosis is a part of the core
whatever happens to either. Interpolation between two tumours' distances gives shapes that neither
has (K cases give more than K shapes).
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tumorfab import fields, stage
from tumorfab.roi import Roi
from tumorfab.volume import Box, Grid, Image

# Detail of the random warp (mm).
WARP_KNOTS_MM = 16.0
# Room (mm) around the core's reach, for warp, growth and the soft edge.
ROOM_MM = 6.0


@dataclass(frozen=True)
class Pose:
    """How a ROI's shape is changed and where it goes, in plain JSON-ready values. `site` is the
    voxel of the host that receives the centre of mass of the core."""

    site: list[int]
    rotation_deg: list[float]
    scale: list[float]
    mirror: bool
    warp_mm: float
    warp_seed: int
    grow_mm: float
    partner_share: float


@dataclass(frozen=True, eq=False)
class Cast:
    """A shape in the host: signed distances (mm) of core and necrosis in the box `where`, and `at`
    (3, ...), the position in the ROI's voxels that each voxel there shows."""

    where: Box
    core: Image
    necrosis: Image
    at: NDArray[np.float32]


def centre(roi: Roi) -> NDArray[np.float64]:
    """Centre of mass of the core in voxels."""
    return np.array(ndimage.center_of_mass(roi.core < 0))


def forward(grid: Grid, pose: Pose) -> NDArray[np.float64]:
    """Matrix (3, 3) from offsets in the ROI to offsets in the host, both in mm along I, J, K."""
    mirror = np.eye(3)
    if pose.mirror:
        left_right = int(np.abs(grid.affine[0, :3]).argmax())
        mirror[left_right, left_right] = -1
    rotation = Rotation.from_euler("xyz", pose.rotation_deg, degrees=True).as_matrix()
    return np.asarray(rotation @ np.diag(pose.scale) @ mirror)


def voxels(grid: Grid, roi: Roi, pose: Pose) -> NDArray[np.int_]:
    """The host's voxels (N, 3) that the core reaches, roughly: without warp, growth and partner."""
    offset = (np.argwhere(roi.core < 0) - centre(roi)) * roi.spacing
    return np.rint(offset @ forward(grid, pose).T / grid.spacing + pose.site).astype(int)


def cast(grid: Grid, roi: Roi, partner: Roi, pose: Pose) -> Cast | None:
    """The shape in the host; None where it lies outside the grid."""
    matrix = forward(grid, pose)
    where = _reach(grid, roi, partner, pose, matrix)
    size = tuple(s.stop - s.start for s in where)
    if 0 in size:
        return None
    rng = stage.rng(pose.warp_seed, "warp")
    warp = fields.warp(rng, size, grid.spacing, WARP_KNOTS_MM, pose.warp_mm)
    start = np.array([s.start for s in where])[:, None, None, None]
    spacing = grid.spacing[:, None, None, None]
    index = np.indices(size, np.float32)
    offset = (index + (start - np.array(pose.site)[:, None, None, None])) * spacing + warp
    in_roi = np.tensordot(np.linalg.inv(matrix), offset, 1).astype(np.float32)

    own = _at(roi, in_roi)
    core, necrosis = (_sampled(d, own, roi.spacing) for d in (roi.core, roi.necrosis))
    if pose.partner_share:
        # Of equal volume, so that the share decides on form alone.
        ratio = np.float32((_core_mm3(partner) / _core_mm3(roi)) ** (1 / 3))
        other = _at(partner, in_roi * ratio)
        share = np.float32(pose.partner_share)
        core = (1 - share) * core + share / ratio * _sampled(partner.core, other, partner.spacing)
        necrosis = (1 - share) * necrosis + share / ratio * _sampled(
            partner.necrosis, other, partner.spacing
        )
    # Both boundaries move, so that an enhancing rim keeps its thickness and none appears.
    stretch, grow = _stretch(pose), np.float32(pose.grow_mm)
    return Cast(where, core * stretch - grow, necrosis * stretch - grow, own)


def whole(roi: Roi, cast: Cast, pose: Pose) -> Image:
    """Signed distance (mm) of the ROI's whole tumour, where its core was cast; of no partner."""
    return _sampled(roi.whole, cast.at, roi.spacing) * _stretch(pose) - np.float32(pose.grow_mm)


def _stretch(pose: Pose) -> np.float32:
    """By how much distances grow with the ROI: a mean factor serves all directions."""
    return np.float32(np.prod(pose.scale) ** (1 / 3))


def _core_mm3(roi: Roi) -> float:
    return float(np.count_nonzero(roi.core < 0) * np.prod(roi.spacing))


def _at(roi: Roi, offset: NDArray[np.float32]) -> NDArray[np.float32]:
    """Offsets in mm from the core's centre as positions in voxels."""
    unit = roi.spacing.astype(np.float32)[:, None, None, None]
    return offset / unit + centre(roi).astype(np.float32)[:, None, None, None]


def _sampled(distance: Image, at: NDArray[np.float32], spacing: NDArray) -> Image:
    """`distance` at positions in voxels; outside its box it goes on growing."""
    last = (np.array(distance.shape) - 1)[:, None, None, None]
    inside = np.clip(at, 0, last)
    beyond = np.sqrt((((at - inside) * spacing[:, None, None, None]) ** 2).sum(0))
    values = ndimage.map_coordinates(distance, inside, order=1)
    return np.asarray(values + beyond, np.float32)


def _reach(grid: Grid, roi: Roi, partner: Roi, pose: Pose, matrix: NDArray) -> Box:
    """The box of the host that the core of either tumour can reach."""
    radius = np.zeros(3)
    for each in {id(r): r for r in (roi, partner)}.values():
        found = np.argwhere(each.core < 0)
        ratio = (_core_mm3(each) / _core_mm3(roi)) ** (1 / 3)
        sides = (np.array([found.min(0), found.max(0)]) - centre(each)) * each.spacing / ratio
        corners = np.array(list(product(*sides.T))) @ matrix.T
        radius = np.maximum(radius, np.abs(corners).max(0))
    reach = (radius + ROOM_MM + max(0.0, pose.grow_mm)) / grid.spacing
    low = np.clip(np.floor(pose.site - reach).astype(int), 0, grid.shape)
    high = np.clip(np.ceil(pose.site + reach).astype(int) + 1, 0, grid.shape)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
