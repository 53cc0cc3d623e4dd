"""What a tumour looks like in a host: in units of the host's own tissue, in all modalities jointly.

Intensities are relative to white matter (`contrast`), so that neither the donor's nor the
host's scanner shows. Arrays: images (M, I, J, K), everything else (I, J, K).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tumorfab import fields
from tumorfab.contrast import FINE_MM
from tumorfab.roi import PARTIAL_MM, Look, Roi, mixed, soft
from tumorfab.volume import Image

Mask = NDArray[np.bool_]

# Detail (mm) of the variation within oedema: of those tried, nearest to real oedema's spectrum.
KNOTS_MM = 8.0
# Oedema's class mean is reached on average; no voxel's share of it exceeds this.
MOST_DENSE = 1.5


def between(one: Look, other: Look, share: float) -> Look:
    """A look on the way from one tumour's to another's: classes and modalities move together."""
    return {
        name: {what: (1 - share) * one[name][what] + share * other[name][what] for what in found}
        for name, found in one.items()
    }


def contrasted(look: Look, factors: Sequence[float]) -> Look:
    """A look whose classes differ from white matter by `factors` (one per modality) more. Few
    donors have few contrasts; patients not seen have others."""
    by = np.array(factors)
    changed = {"mean": by, "covariance": np.outer(by, by)}
    return {
        name: {what: value * changed.get(what, 1.0) for what, value in found.items()}
        for name, found in look.items()
    }


def oedematous(
    images: NDArray[np.float32],
    density: Image,
    tissue: Mask,
    look: Look,
    grains: NDArray[np.float64],
    spacing: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """`images` with oedema of `density` 0..1 (see `oedema.density`) in them.

    The mean becomes that of the donor's oedema. The host's coarse anatomy shows through, weaker
    where the donor's oedema is more uniform; where it is less so, a smooth random field makes up
    for it, in modalities jointly. Fine structure is the host's own, weakened until its grain, with
    `grains` (M) of the host's white matter as 1, is at most that of the donor's oedema.
    """
    labelled = density > 0.4
    if not labelled.any():
        return images
    weight = np.minimum(density / density[labelled].mean(), MOST_DENSE)
    coarse = np.stack([fields.coarse(image, tissue, spacing, FINE_MM) for image in images])
    fine = images - coarse
    anatomy = coarse[:, labelled]
    variance, uneven = np.diag(look["ED"]["covariance"]), fine[:, labelled].var(1)
    finer = np.minimum(1, look["ED"]["grain"] * grains / np.maximum(np.sqrt(uneven), 1e-9))
    free = np.maximum(0, variance - finer**2 * uneven)
    kept = np.sqrt(np.minimum(1, free / np.maximum(anatomy.var(1), 1e-9)))
    lacking = np.sqrt(np.maximum(0, free - kept**2 * anatomy.var(1)))
    correlation = look["ED"]["covariance"] / np.maximum(
        np.sqrt(np.outer(variance, variance)), 1e-12
    )
    root = (lacking[:, None] * _root(correlation)).astype(np.float32)
    smooth = np.stack([fields.noise(rng, density.shape, spacing, KNOTS_MM) for _ in images])
    shift = np.tensordot(root, smooth, 1)
    shift += _column(look["ED"]["mean"] - anatomy.mean(1))
    shift *= weight
    # Anatomy and grain can fade to nothing, not turn round.
    fading = _column(kept - 1) * (coarse - _column(anatomy.mean(1))) + _column(finer - 1) * fine
    return np.asarray(images + shift + np.minimum(weight, 1) * fading, np.float32)


def _column(values: NDArray) -> NDArray[np.float32]:
    """One value per modality, as images take them."""
    return values.astype(np.float32)[:, None, None, None]


def filled(
    surround: NDArray[np.float32],
    inside: Image,
    necrosis: Image,
    at: NDArray[np.float32],
    roi: Roi,
    look: Look,
) -> NDArray[np.float32]:
    """`surround` with the core in it: `inside` (0..1) of each voxel is core, with the classes'
    means and the donor's texture at the positions `at` (3, I, J, K; voxels of the ROI)."""
    here = inside > 0
    dead = soft(necrosis[here], PARTIAL_MM)
    share = {"NCR": dead, "ET": 1 - dead}
    mean, sd = mixed(look, share)
    positions = at[:, here]
    # Cubic, since linear interpolation would make the lesion smoother than its surroundings.
    texture = np.stack([fields.interpolated(t, positions, 3) for t in roi.texture.values()])
    out = surround.copy()
    out[:, here] += inside[here] * (mean + sd * texture - surround[:, here])
    return out


def _root(correlation: NDArray[np.float64]) -> NDArray[np.float32]:
    """A matrix that gives independent fields this correlation."""
    values, vectors = np.linalg.eigh(correlation)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)), np.float32)
