"""Can a classifier tell synthetic tumours from real ones, and where does it look?

Patches centred on the tumour's boundary are described by how rough the image is in shells inside
and outside of it. A forest is trained on all donors and hosts but some, and asked about those.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import LeaveOneGroupOut

from benchmarks.texture import FAR_MM, Mask, Spacing, Tumour, distant, gradient
from tumorfab.roi import signed_distance
from tumorfab.stage import InputError
from tumorfab.volume import Image

PATCHES = 32  # per tumour
PATCH_MM = 16.0
FEWEST = 8  # voxels of a shell in a patch
SHELLS = {
    "inside 4-8 mm": (-8.0, -4.0),
    "inside 2-4 mm": (-4.0, -2.0),
    "inside 0-2 mm": (-2.0, 0.0),
    "outside 0-2 mm": (0.0, 2.0),
    "outside 2-4 mm": (2.0, 4.0),
    "outside 4-8 mm": (4.0, 8.0),
}
# What the classifier may see. `far` holds no trace of the tumour: it tells how well scanners and
# brains alone give away which is which.
ZONES = {
    "far": ("far",),
    "boundary": ("inside 0-2 mm", "outside 0-2 mm"),
    "inside": ("lesion", "inside 2-4 mm", "inside 4-8 mm"),
    "outside": ("outside 2-4 mm", "outside 4-8 mm"),
    "all but far": ("lesion", *SHELLS),
}


def patches(tumour: Tumour, rng: np.random.Generator) -> pd.DataFrame:
    """One row per patch; columns are (place, measure) with a place of `ZONES`.

    Roughness is a logarithm: in the shells relative to the brain's tissue at least 16 mm away from
    the tumour, since scanners differ in noise and sharpness; in `far`, absolute, of a patch there.
    `lesion` holds mean and sd of the tumour's intensities in the patch. What a patch lacks is NaN.
    """
    depth = signed_distance(tumour.labels > 0, tumour.spacing)
    safe, far = ndimage.binary_erosion(tumour.brain, iterations=2), distant(tumour)
    edge = safe & (depth <= 0) & (depth > -tumour.spacing.max())
    if not far.any() or not edge.any():
        raise InputError(
            f"donor {tumour.donor} in {tumour.host}: no boundary, or no tissue {FAR_MM:g} mm away "
            "from it; leave this case out"
        )
    shells = {name: safe & (depth > low) & (depth <= high) for name, (low, high) in SHELLS.items()}
    rough = {
        f"{modality} {name}": values
        for modality, image in tumour.images.items()
        for name, values in roughness(image, tumour.spacing).items()
    }
    usual = {name: float(values[far].mean()) for name, values in rough.items()}
    rows = []
    for centre, elsewhere in zip(_drawn(edge, rng), _drawn(far, rng), strict=True):
        here, there = (_cube(at, tumour.spacing) for at in (centre, elsewhere))
        row = {("far", name): _log_mean(x[there], far[there]) for name, x in rough.items()}
        for shell, mask in shells.items():
            for name, x in rough.items():
                row[shell, name] = _log_mean(x[here], mask[here]) - _log(usual[name])
        for modality, image in tumour.images.items():
            lesion = image[here][tumour.labels[here] > 0]
            row["lesion", f"{modality} mean"] = float(lesion.mean())
            row["lesion", f"{modality} sd"] = float(lesion.std())
        rows.append(row)
    return pd.DataFrame(rows, columns=pd.MultiIndex.from_tuples(rows[0]))


def roughness(image: Image, spacing: Spacing) -> dict[str, Image]:
    """Per voxel: magnitude of the gradient, and energy of what a mean over 3 voxels removes."""
    detail = image - ndimage.uniform_filter(image, 3)
    return {"gradient": gradient(image, spacing), "detail": detail**2}


def groups(donors: list[str], hosts: list[str]) -> NDArray[np.int32]:
    """A number per tumour, such that no donor and no host is in two groups.

    Raises `InputError` when all hang together, so that nothing could be left out.
    """
    names, at = np.unique([*donors, *hosts], return_inverse=True)
    ends = at[: len(donors)], at[len(donors) :]
    links = coo_array((np.ones(len(donors)), ends), shape=(len(names), len(names)))
    count, group = connected_components(links, directed=False)
    if count < 2:
        raise InputError("all tumours share donors or hosts; give each host one donor")
    return np.asarray(group[ends[0]])


def aucs(
    real: list[pd.DataFrame],
    synthetic: list[pd.DataFrame],
    group: NDArray[np.int32],
    zone: str,
    asked: Sequence[int] | None = None,
) -> NDArray[np.float64]:
    """Area under the ROC curve in each group that holds both kinds, or in those of them that are
    `asked` for, of a forest trained on the other groups.

    `real` and `synthetic` hold the patches of a tumour each; `group` has a number for each of them,
    in this order. 0.5: cannot be told apart; 1: always.
    """
    tables = [table[list(ZONES[zone])] for table in (*real, *synthetic)]
    kind = np.repeat([0, 1], [len(real), len(synthetic)])
    length = [len(table) for table in tables]
    x = pd.concat(tables).to_numpy()
    y, where = np.repeat(kind, length), np.repeat(group, length)
    found = []
    for train, test in LeaveOneGroupOut().split(x, y, where):
        wanted = asked is None or where[test[0]] in asked
        if wanted and len(np.unique(y[test])) == 2:
            forest = RandomForestClassifier(
                100, min_samples_leaf=5, class_weight="balanced", random_state=0
            )
            share = forest.fit(x[train], y[train]).predict_proba(x[test])[:, 1]
            found.append(roc_auc_score(y[test], share))
    return np.array(found)


def _drawn(mask: Mask, rng: np.random.Generator) -> NDArray[np.int64]:
    voxels = np.argwhere(mask)
    return voxels[rng.integers(len(voxels), size=PATCHES)]


def _cube(centre: NDArray[np.int64], spacing: Spacing) -> tuple[slice, ...]:
    half = np.rint(PATCH_MM / 2 / spacing).astype(int)
    return tuple(slice(max(0, c - h), c + h + 1) for c, h in zip(centre, half, strict=True))


def _log_mean(values: Image, mask: Mask) -> float:
    inside = values[mask]
    return _log(float(inside.mean())) if inside.size >= FEWEST else np.nan


def _log(value: float) -> float:
    return float(np.log(value + 1e-6))
