"""Free-form deformation: a known warp is undone, nothing folds, nothing moves without need."""

import numpy as np
import pytest
from scipy import ndimage

from tumorfab import deform, mni152, volume
from tumorfab.volume import Volume

MNI = mni152.template(4.0)


def warped(amplitude_mm: float) -> Volume:
    """MNI152 under a smooth displacement of that amplitude."""
    index = np.indices(MNI.t1.data.shape).astype(float)
    wave = np.sin(index * 2 * np.pi / 16)  # 64 mm
    moved = index + amplitude_mm / 4 * wave[[1, 2, 0]]
    data = ndimage.map_coordinates(MNI.t1.data, moved, order=1)
    return Volume(data.astype(np.float32), MNI.t1.affine)


def correlation(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    return float(np.corrcoef(a[mask], b[mask])[0, 1])


def test_a_known_warp_is_undone():
    target = warped(5.0)
    mask = target.data > 0
    found = deform.deformation(target, MNI.t1, mask)
    before = correlation(target.data, MNI.t1.data, mask)
    after = correlation(target.data, volume.resample(MNI.t1, target.grid, found), mask)
    assert after > before + 0.3 * (1 - before)  # control points are 20 mm apart
    assert deform.least_jacobian(found, volume.to_sitk(target)) >= deform.LEAST_JACOBIAN


def test_what_lies_together_stays():
    found = deform.deformation(MNI.t1, MNI.t1, MNI.mask)
    points = [(0.0, 0.0, 0.0), (30.0, 20.0, 10.0), (-40.0, 30.0, 20.0)]
    moved = [np.linalg.norm(np.subtract(found.TransformPoint(p), p)) for p in points]
    assert max(moved) < 0.5


def test_a_deformation_that_would_fold_is_weakened(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(deform, "LEAST_JACOBIAN", 0.9)
    target = warped(8.0)
    found = deform.deformation(target, MNI.t1, target.data > 0)
    frame = volume.to_sitk(volume.Volume(target.data, target.affine))
    assert deform.least_jacobian(found, frame) > 0.85
