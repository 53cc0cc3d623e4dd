"""Posteriors of CSF, GM and WM: a Gaussian mixture with spatial priors, fitted by EM.

After Ashburner and Friston, "Unified segmentation", NeuroImage 2005: its mixing proportions and
update rules, without warping of the priors and without bias (`preprocess` has removed that); and
with a uniform outlier class, so that a tumour or a vessel pulls no class towards itself (as Van
Leemput et al., IEEE TMI 2001, treat lesions). Only the priors say which class is which, so that the
method holds for any contrast.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float32]

CLASSES = ("CSF", "GM", "WM")
# The priors are blurred by this much (sd in mm): an affine alignment leaves the folds that far off.
BLUR_MM = 4.0
# Each prior gets at least this share of every voxel, so that intensity can overrule it.
FLOOR = 0.05
# A priori share of voxels that are none of the three (vessels, lesions).
OUTLIERS = 0.05
ITERATIONS = 60
TOLERANCE = 1e-4


def posteriors(
    image: Image, mask: NDArray[np.bool_], priors: Image, spacing: NDArray[np.float64]
) -> Image:
    """Posterior probabilities (3, I, J, K) of `CLASSES`, summing to 1 in `mask` and 0 outside.

    `image` (I, J, K) in any unit, `priors` (3, I, J, K) on the same grid of `spacing` mm. Raises
    `ValueError` when the mask is empty or the image is constant in it.
    """
    values = image[mask].astype(np.float64)
    if values.size == 0 or values.min() == values.max():
        raise ValueError("no tissue to tell apart: the mask is empty or the image constant in it")
    prior = _softened(priors, mask, spacing)
    means, variances = _from_priors(values, prior)
    shares = np.ones((3, 1))  # how much larger or smaller each tissue is than the priors say
    low, high = np.percentile(values, (0.1, 99.9))
    span = max(float(high - low), 1e-12)
    for _ in range(ITERATIONS):
        joint = _mixed(prior, shares) * _density(values, means, variances)
        weight = joint / (joint.sum(0) + OUTLIERS / (1 - OUTLIERS) / span)
        total = np.maximum(weight.sum(1), 1e-12)
        previous, means = means, weight @ values / total
        spread = (weight * (values - means[:, None]) ** 2).sum(1) / total
        variances = np.maximum(spread, (0.01 * span) ** 2)
        shares = (total / (prior / (prior * shares).sum(0)).sum(1))[:, None]
        if np.abs(means - previous).max() < TOLERANCE * span:
            break
    joint = _mixed(prior, shares) * _density(values, means, variances) + 1e-300
    out = np.zeros((3, *image.shape), np.float32)
    out[:, mask] = joint / joint.sum(0)
    return out


def _mixed(prior: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    mixed = prior * shares
    return mixed / mixed.sum(0)


def _softened(
    priors: Image, mask: NDArray[np.bool_], spacing: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Blurred priors of the voxels in `mask`, (3, N), summing to 1.

    Beyond the template's own mask, which no affine alignment fits exactly, intensity alone decides.
    """
    blurred = np.stack([ndimage.gaussian_filter(p, BLUR_MM / spacing)[mask] for p in priors])
    blurred += np.maximum(0.0, 1 - blurred.sum(0)) / 3
    blurred = np.maximum(blurred, FLOOR).astype(np.float64)
    return blurred / blurred.sum(0)


def _from_priors(
    values: NDArray[np.float64], prior: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted median and spread of the voxels that each prior is surest of."""
    order = np.argsort(values)
    means, variances = [], []
    for share in prior:
        sure = np.where(share >= np.quantile(share, 0.9), share, 0)[order]
        mass = np.cumsum(sure) / sure.sum()
        q1, median, q3 = values[order][np.searchsorted(mass, (0.25, 0.5, 0.75))]
        means.append(median)
        variances.append(max(((q3 - q1) / 1.349) ** 2, 1e-6 * values.var()))
    return np.array(means), np.array(variances)


def _density(
    values: NDArray[np.float64], means: NDArray[np.float64], variances: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Gaussian densities (3, N)."""
    z = (values - means[:, None]) ** 2 / variances[:, None]
    return np.exp(-0.5 * z) / np.sqrt(2 * np.pi * variances[:, None])
