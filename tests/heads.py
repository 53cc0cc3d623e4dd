"""Whole heads and stripped brains of known anatomy and pose, small enough for tests."""

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from tumorfab import mni152, stage, volume
from tumorfab.volume import Grid, Volume

# CSF, GM, WM, scalp
CONTRAST = {"T1w": (60, 150, 220, 260), "T2w": (300, 160, 110, 90)}
# A scanner's axes: I to the back, J to the feet, K to the right.
PSR = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
PSR[1, 1], PSR[2, 1] = 0.0, -1.0


def scanner_grid(mm: float) -> Grid:
    """PSR, 264 x 264 x 208 mm, about the head's centre, off the world's origin."""
    extent = np.array([264.0, 264.0, 208.0])
    i, j, k = (int(n) for n in extent // mm)
    affine = PSR @ np.diag([mm, mm, mm, 1])
    affine[:3, 3] = np.array([15.0, -30, 12]) - affine[:3, :3] @ ((np.array([i, j, k]) - 1) / 2)
    return Grid((i, j, k), affine)


def pose(
    shift: tuple[float, ...] = (15.0, -12.0, 30.0), pitch: float = 8.0
) -> sitk.AffineTransform:
    """Template points to points of a head that is smaller than the template and tilted."""
    transform = sitk.AffineTransform(3)
    transform.Scale(0.92)
    transform.Rotate(1, 2, np.deg2rad(pitch))
    transform.Rotate(0, 1, np.deg2rad(4))
    transform.SetTranslation((-shift[0], -shift[1], shift[2]))
    return transform


def stretched_pose(stretch: tuple[float, float, float]) -> sitk.AffineTransform:
    """Template points to points of a head whose axes are stretched."""
    transform = sitk.AffineTransform(3)
    transform.Scale(stretch)
    return transform


@dataclass(frozen=True)
class Head:
    """A scan, the true brain mask on its grid, and the true transform from template points."""

    scan: Volume
    mask: NDArray[np.bool_]
    truth: sitk.AffineTransform


def head(
    mm: float = 4.0,
    modality: str = "T1w",
    truth: sitk.AffineTransform | None = None,
    stripped: bool = False,
) -> Head:
    """MNI152's anatomy with 4 mm of CSF and bone, 8 mm of scalp and a neck, in PSR, with noise."""
    truth = truth or pose()
    mni = mni152.template(2.0)
    wide = np.pad(mni.mask, 30)
    affine = mni.t1.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ [30.0, 30, 30]
    outside = ndimage.distance_transform_edt(~wide) * 2
    x, y, z = np.moveaxis(np.moveaxis(np.indices(wide.shape), 0, -1) @ affine[:3, :3].T, -1, 0)
    x, y, z = x + affine[0, 3], y + affine[1, 3], z + affine[2, 3]
    neck = (np.hypot(x, y + 30) < 55) & (z < -40) & (outside > 6)
    csf, gm, wm, scalp = CONTRAST[modality]
    image = np.where((outside > 6) & (outside < 16) | neck, float(scalp), 0.0)
    tissues = (csf, mni.csf), (gm, mni.gm), (wm, mni.wm)
    image += sum(value * np.pad(share, 30) for value, share in tissues)
    grid, back = scanner_grid(mm), sitk.AffineTransform(truth.GetInverse())
    data = volume.resample(Volume(image.astype(np.float32), affine), grid, back)
    share = volume.resample(Volume(wide.astype(np.float32), affine), grid, back)
    mask = share >= 0.5
    noisy = np.abs(data + 5 * stage.rng(0, "head", modality).standard_normal(data.shape))
    scan = np.where(mask, noisy + 1, 0) if stripped else noisy
    return Head(Volume(scan.astype(np.float32), grid.affine), mask, truth)


def dice(a: NDArray, b: NDArray) -> float:
    """Overlap of two masks."""
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


def error_mm(found: sitk.Transform, truth: sitk.Transform) -> float:
    """Mean distance between two transforms over the template's brain."""
    mni = mni152.template(4.0)
    points = np.argwhere(mni.mask)[::50] @ mni.t1.affine[:3, :3].T + mni.t1.affine[:3, 3]
    lps = (points * [-1, -1, 1]).tolist()
    apart = [np.subtract(found.TransformPoint(point), truth.TransformPoint(point)) for point in lps]
    return float(np.linalg.norm(apart, axis=1).mean())
