"""What makes one subject's scans unusable: every file is read, every problem named in one line."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tumorfab.stage import InputError
from tumorfab.volume import Grid, Volume, load, load_labels

SPACING_MM = (0.1, 20.0)
# Stripped heads hold at least half of exact zeros in a full field of view, less when cropped
# tightly to the brain; scans with skull hold few, for air is noise there.
MIN_BACKGROUND = 0.2
LABELS = frozenset({0, 1, 2, 3, 4})


@dataclass(frozen=True)
class Verdict:
    """The outcome for one subject: problems, one line each, and whether its label map is empty."""

    problems: tuple[str, ...]
    empty: bool = False


def check_subject(images: dict[str, str], seg: str, one_grid: bool, stripped: bool) -> Verdict:
    """Read all files of one subject and list what is wrong with them.

    `images` maps modality to path, the reference first; `seg` is the label map's path or "", and
    lies on the grid of the reference. With `one_grid` all images do; with `stripped` the background
    must be exactly 0.
    """
    problems: list[str] = []
    grids: dict[str, Grid] = {}
    empty = False
    for path in images.values():
        try:
            with np.errstate(over="ignore"):  # beyond float32 is infinite, and reported as such
                volume = load(path)
        except InputError as error:
            problems.append(str(error))
            continue
        grids[path] = volume.grid
        problems += [f"{path}: {problem}" for problem in _image_problems(volume, stripped)]
    if seg:
        try:
            labels = load_labels(seg)
            problems += [f"{seg}: {problem}" for problem in _label_problems(labels)]
            grids[seg] = labels.grid
            empty = not labels.data.any()
        except InputError as error:
            problems.append(str(error))
    reference = next(iter(images.values()), None)
    if reference in grids:
        others = [path for path in grids if path != reference and (one_grid or path == seg)]
        problems += [
            f"{path}: is on another grid than {reference} (shape {grids[path].shape} against "
            f"{grids[reference].shape}, or another affine); resample it onto that grid"
            for path in others
            if not grids[path].matches(grids[reference])
        ]
    return Verdict(tuple(problems), empty)


def _image_problems(volume: Volume, stripped: bool) -> list[str]:
    problems = _geometry_problems(volume.grid)
    data = volume.data
    finite = np.isfinite(data)
    if not finite.all():
        return [*problems, f"{np.sum(~finite)} voxels are NaN or infinite; replace them"]
    if data.min() == data.max():
        return [*problems, f"is constant (every voxel is {data.min():g}); export it again"]
    background = 1 - np.count_nonzero(data) / data.size
    if stripped and background < MIN_BACKGROUND:
        problems.append(
            f"does not look skull-stripped (only {background:.0%} of its voxels are exactly 0); "
            "strip the skull and set the background to 0"
        )
    return problems


def _label_problems(labels: Volume) -> list[str]:
    problems = _geometry_problems(labels.grid)
    found = set(np.unique(labels.data).tolist())
    if found - LABELS:
        names = ", ".join(map(str, sorted(found - LABELS)))
        problems.append(f"has labels {names} outside 0..4; map them to 1 NCR, 2 ED, 3 ET")
    if {3, 4} <= found:
        problems.append("has both label 3 and label 4, which both stand for ET; keep one of them")
    return problems


def _geometry_problems(grid: Grid) -> list[str]:
    affine, spacing = grid.affine, grid.spacing
    if not np.isfinite(affine).all():
        return ["its affine holds NaN or infinity; export it again with its geometry"]
    if not affine[:3, :3].any():
        return ["has no affine (sform and qform codes are 0); export it again with its geometry"]
    low, high = SPACING_MM
    if spacing.min() < low or spacing.max() > high:
        sizes = " x ".join(f"{s:g}" for s in spacing)
        return [f"has a spacing of {sizes} mm, {low:g} to {high:g} is plausible; mend its header"]
    return _axes_problems(affine[:3, :3] / spacing)


def _axes_problems(axes: NDArray[np.float64]) -> list[str]:
    """`axes` (3, 3): directions of I, J, K as unit columns."""
    if abs(np.linalg.det(axes)) < 1e-3:
        return ["has a singular affine (two axes coincide); mend its header"]
    if np.abs(axes.T @ axes - np.eye(3)).max() > 0.01:
        return ["has a sheared affine (its axes are not at right angles); resample it"]
    return []
