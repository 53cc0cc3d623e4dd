import numpy as np
import pytest
from heads import dice
from scipy import ndimage

from tumorfab import mni152, preprocess, stage, template, tissue, volume

MM = np.full(3, 4.0)


@pytest.fixture(scope="module")
def anatomy() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True tissues (argmax), their mask, and priors that are a voxel off, as after alignment."""
    mni = mni152.template(4.0)
    shares = np.stack([mni.csf, mni.gm, mni.wm])
    priors = np.roll(shares, 1, axis=2)
    return np.where(mni.mask, shares.argmax(0), -1), mni.mask, priors


def scan(truth: np.ndarray, levels: tuple[float, ...], noise: float) -> np.ndarray:
    image = np.select([truth == k for k in range(3)], levels, 0.0)
    return image + noise * stage.rng(0, "tissue").standard_normal(truth.shape)


@pytest.mark.parametrize("levels", [(0.3, 0.7, 1.0), (1.5, 0.8, 0.5), (0.2, 1.0, 0.85)])
def test_tissues_in_any_contrast(anatomy, levels):
    truth, mask, priors = anatomy
    out = tissue.posteriors(scan(truth, levels, 0.04), mask, priors, MM)
    assert np.allclose(out[:, mask].sum(0), 1, atol=1e-5)
    assert np.all(out[:, ~mask] == 0)
    found = np.where(mask, out.argmax(0), -1)
    for k in range(3):
        assert dice(found == k, truth == k) > 0.9, tissue.CLASSES[k]


def test_intensity_unit_does_not_matter(anatomy):
    truth, mask, priors = anatomy
    image = scan(truth, (0.3, 0.7, 1.0), 0.04)
    same = tissue.posteriors(1000 * image - 300, mask, priors, MM)
    assert np.allclose(same, tissue.posteriors(image, mask, priors, MM), atol=1e-3)


def test_a_tumour_leaves_the_healthy_tissue_alone(anatomy):
    truth, mask, priors = anatomy
    healthy = scan(truth, (0.3, 0.7, 1.0), 0.04)
    ball = np.zeros(mask.shape, bool)
    ball[tuple(int(n) for n in np.add(np.argwhere(mask).mean(0), [8, 0, 4]))] = True
    ball = (ndimage.distance_transform_edt(~ball) < 6) & mask
    sick = np.where(ball, 2.5, healthy)
    before, after = (tissue.posteriors(image, mask, priors, MM) for image in (healthy, sick))
    changed = before.argmax(0)[mask & ~ball] != after.argmax(0)[mask & ~ball]
    assert ball.sum() > 800
    assert changed.mean() < 0.01


def test_intensity_decides_where_the_priors_end(anatomy):
    truth, mask, priors = anatomy
    clipped = priors.copy()
    clipped[:, :, :20] = 0
    out = tissue.posteriors(scan(truth, (0.3, 0.7, 1.0), 0.04), mask, clipped, MM)
    beyond = np.where(mask, out.argmax(0), -1)[:, :16], truth[:, :16]
    for k in range(3):
        assert dice(beyond[0] == k, beyond[1] == k) > 0.8


def test_nothing_to_tell_apart():
    flat = np.ones((4, 4, 4), np.float32)
    priors = np.full((3, 4, 4, 4), 1 / 3, np.float32)
    with pytest.raises(ValueError, match="constant"):
        tissue.posteriors(flat, flat > 0, priors, MM)
    with pytest.raises(ValueError, match="empty"):
        tissue.posteriors(flat, flat > 2, priors, MM)


@pytest.mark.real_data
@pytest.mark.parametrize("subject", ["1000", "1002"])
def test_oasis_tissues(real_data, subject):
    """Against the labels of MICCAI 2012, with priors that are aligned by an affine transform."""
    folder = real_data / "healthy_oasis_t1_1mm_stripped"
    scan = volume.load(folder / f"{subject}_SS.nii.gz")
    truth = volume.load_labels(folder / f"{subject}_tissues.nii.gz").data
    params = {"n4_shrink_mm": 4.0, "min_correlation": 0.8, "brain_volume_ml": [900, 2100]}
    outcome = preprocess.preprocess_native({"T1w": (folder, scan)}, "none", params)
    image, mask = outcome.images["T1w"].image, outcome.mask
    maps = template.warped(outcome.transforms["T1w"].GetInverse(), image.grid)
    priors = np.stack([maps[name] for name in tissue.CLASSES])
    out = tissue.posteriors(image.data, mask, priors, image.grid.spacing)
    found = np.where(mask, 1 + out.argmax(0), 0)
    overlap = {name: dice(found == k, truth == k) for k, name in enumerate(tissue.CLASSES, 1)}
    assert overlap["GM"] > 0.83
    assert overlap["WM"] > 0.87
    assert overlap["CSF"] > 0.75
