"""An annotated training patient as a host of synthetic tumours: no scanner gap to the real cases.

Two ways. Either the patient's tumour stays and stays labelled, and `room` says where a second one
may grow. Or `healed` puts the mirror image of the healthy side in its place, so that a brain
without a tumour is left.
"""

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from tumorfab import deform, volume
from tumorfab.anatomy import Mask, Plane
from tumorfab.volume import Grid, Image, Labels, Volume

# Up to this share of a tumour across the midsagittal plane is the annotation's roughness.
MOST_ACROSS = 0.02
# Up to this share of a tumour may have tumour for its mirror image; it stays, without a label.
MOST_LEFT = 0.005
# Tissue this near to the label (mm) is taken to be infiltrated or displaced, and is replaced too.
REACH_MM = 8.0
# Beyond that, the patient's own tissue fades in over this width.
EDGE_MM = 4.0
# The two sides are compared, for shape and intensity, in tissue this near to what is replaced.
RIM_MM = 30.0
# Less of it (ml) than this does not say how the sides correspond.
LEAST_RIM_ML = 5.0
# Texture is what a Gaussian of this sd, in voxels, takes away.
FINE_VOXELS = 1.0


Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Healed:
    """A patient without the tumour; all arrays (I, J, K) on the patient's grid."""

    images: dict[str, Image]
    tissues: dict[str, Image]
    ventricles: Mask


def room(labels: Labels, brain: Mask, plane: Plane, grid: Grid, away_mm: float) -> Mask:
    """Where a second tumour may grow: the brain's other hemisphere, `away_mm` from the first.

    All arrays are (I, J, K) on `grid`. Empty when both hemispheres hold tumour; all of the brain
    when none does.
    """
    tumour = labels > 0
    if not tumour.any():
        return brain.copy()
    right = _right(plane, grid)
    share = float(np.mean(right[tumour]))
    if min(share, 1 - share) > MOST_ACROSS:
        return np.zeros(grid.shape, bool)
    return brain & (_distance(tumour, grid) >= away_mm) & (right == (share < 0.5))


def healed(
    images: dict[str, Image],
    tissues: dict[str, Image],
    ventricles: Mask,
    brain: Mask,
    labels: Labels,
    plane: Plane,
    grid: Grid,
) -> Healed:
    """The patient with the mirrored, registered healthy side in the tumour's place.

    All arrays are (I, J, K) on `grid`; `images` (the first one guides the registration) and
    `tissues` (posteriors) are 0 outside `brain`. Voxels farther than `REACH_MM` + `EDGE_MM` from
    the tumour stay as they are, bit for bit. Raises `ValueError` with the reason when there is no
    tumour, when both hemispheres hold it, when its mirror image does, or when too little healthy
    tissue is around it.
    """
    tumour = labels > 0
    if not tumour.any():
        raise ValueError("no tumour")
    share = float(np.mean(_right(plane, grid)[tumour]))
    if (across := min(share, 1 - share)) > MOST_ACROSS:
        raise ValueError(f"{across:.0%} of the tumour lies across the midsagittal plane")
    box = volume.box(tumour, int(np.ceil((REACH_MM + RIM_MM) / grid.spacing.min())))
    there = _across(next(iter(images.values())), brain, tumour, plane, grid, box)
    near = _part(grid, box)
    echo = _moved(Volume(tumour, grid.affine), near, there) > 0.5
    if (left := float(np.mean(echo[tumour[box]]))) > MOST_LEFT:
        raise ValueError(f"{left:.1%} of the tumour has tumour for its mirror image")
    weight = _weight(tumour[box], echo, near) * brain[box]
    rim = brain[box] & _rim(tumour[box], echo, near)

    nearest = _nearest(brain)
    posteriors = {
        t: _moved(Volume(x[nearest], grid.affine), near, there) for t, x in tissues.items()
    }
    alike = [rim & (tissues[t][box] > 0.5) & (posteriors[t] > 0.5) for t in ("GM", "WM")]
    fitted = {}
    for name, image in images.items():
        moved = _textured(Volume(image[nearest], grid.affine), near, there)
        moved = _matched(moved, image[box], alike[0] | alike[1])
        fitted[name] = _pasted(image, box, _blended(image[box], moved, weight))
    mixed = _shares({t: x[box] for t, x in tissues.items()}, posteriors, weight)
    inner = _moved(Volume(ventricles, grid.affine), near, there) > 0.5
    return Healed(
        fitted,
        {t: _pasted(x, box, mixed[t]) for t, x in tissues.items()},
        _pasted(ventricles, box, np.where(weight > 0.5, inner, ventricles[box])),
    )


def _across(
    image: Image, brain: Mask, tumour: Mask, plane: Plane, grid: Grid, box: Box
) -> sitk.DisplacementFieldTransform:
    """Points of `box` to points of the other side that show the same anatomy.

    The reflection, after a deformation that carries the mirrored brain to the own one around the
    tumour, which has moved what is there. Raises `ValueError` where too little is left around it.
    """
    near, swap = _part(grid, box), reflection(plane)
    other = _moved(Volume(image[_nearest(brain)], grid.affine), near, swap)
    echo = _moved(Volume(tumour, grid.affine), near, swap) > 0.5
    rim = brain[box] & _rim(tumour[box], echo, near)
    if (ml := np.count_nonzero(rim) * grid.voxel_volume / 1000) < LEAST_RIM_ML:
        raise ValueError(f"{ml:.1f} ml of healthy tissue around the tumour are too few to register")
    own = Volume(image[box], near.affine)
    shape = deform.deformation(own, Volume(other, near.affine), rim)
    frame = volume.to_sitk(own)
    # As a table of displacements: the same at the voxels, and quick to look up. ITK applies the
    # last transform first.
    field = sitk.TransformToDisplacementField(
        sitk.CompositeTransform([swap, shape]), sitk.sitkVectorFloat64, frame.GetSize(),
        frame.GetOrigin(), frame.GetSpacing(), frame.GetDirection(),
    )  # fmt: skip
    return sitk.DisplacementFieldTransform(field)


def reflection(plane: Plane) -> sitk.AffineTransform:
    """Points to their mirror images, in ITK's LPS mm."""
    flip = np.array([-1.0, -1.0, 1.0])
    normal = np.array(plane.normal) * flip
    transform = sitk.AffineTransform(3)
    transform.SetCenter((np.array(plane.point) * flip).tolist())
    transform.SetMatrix((np.eye(3) - 2 * np.outer(normal, normal)).ravel().tolist())
    return transform


def _right(plane: Plane, grid: Grid) -> Mask:
    """Which voxels of `grid` lie to the right of the plane."""
    normal = np.array(plane.normal)
    row = normal @ grid.affine[:3, :3]
    i, j, k = np.ogrid[tuple(slice(n) for n in grid.shape)]
    offset = normal @ (grid.affine[:3, 3] - plane.point)
    return np.asarray(row[0] * i + row[1] * j + row[2] * k + offset > 0)


def _part(grid: Grid, box: Box) -> Grid:
    """The grid of the voxels in `box`."""
    start, stop = np.array([(s.start, s.stop) for s in box]).T
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ start
    i, j, k = (int(n) for n in stop - start)
    return Grid((i, j, k), affine)


def _pasted(whole: NDArray, box: Box, part: NDArray) -> NDArray:
    """A copy of `whole` with `part` in `box`."""
    out = whole.copy()
    out[box] = part
    return out


def _nearest(brain: Mask) -> tuple[NDArray[np.int32], ...]:
    """Index of the nearest brain voxel. Images are continued outside the brain by it: the outlines
    of the two sides differ, and the 0 of the background is no tissue."""
    return tuple(
        ndimage.distance_transform_edt(~brain, return_distances=False, return_indices=True)
    )


def _moved(image: Volume, grid: Grid, transform: sitk.Transform) -> Image:
    floats = Volume(image.data.astype(np.float32, copy=False), image.affine)
    return np.asarray(volume.resample(floats, grid, transform), np.float32)


def _textured(image: Volume, grid: Grid, transform: sitk.Transform) -> Image:
    """`image` moved with its texture intact.

    Interpolation averages noise and leaves the outcome smoother than the rest of the brain. So only
    what is coarse is interpolated; what is fine comes from the nearest voxel, as it is.
    """
    coarse = ndimage.gaussian_filter(image.data, FINE_VOXELS)
    fine = volume.to_sitk(Volume(image.data - coarse, image.affine))
    frame = volume.to_sitk(Volume(np.zeros(grid.shape, np.uint8), grid.affine))
    picked = sitk.Resample(fine, frame, transform, sitk.sitkNearestNeighbor, 0.0, sitk.sitkFloat32)
    smooth = _moved(Volume(coarse, image.affine), grid, transform)
    return smooth + np.asarray(volume.from_sitk(picked).data)


def _distance(mask: Mask, grid: Grid) -> NDArray[np.float64]:
    """Distance in mm to the nearest voxel of `mask`; infinite where there is none."""
    if not mask.any():
        return np.full(grid.shape, np.inf)
    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=grid.spacing))


def _weight(tumour: Mask, echo: Mask, grid: Grid) -> Image:
    """Share of the mirror image in every voxel: 1 in the tumour and close to it, 0 far away, and
    falling where its mirror image `echo`, of no use there, is as near."""
    from_tumour, from_echo = _distance(tumour, grid), _distance(echo, grid)
    reach = np.clip((REACH_MM + EDGE_MM - from_tumour) / EDGE_MM, 0, 1)
    side = np.clip(0.5 + (from_echo - from_tumour) / EDGE_MM, 0, 1)
    return np.where(tumour, 1, reach * side).astype(np.float32)


def _rim(tumour: Mask, echo: Mask, grid: Grid) -> Mask:
    """Tissue around what is replaced, on its own side, where neither side holds tumour."""
    from_tumour, from_echo = _distance(tumour, grid), _distance(echo, grid)
    near = (from_tumour > REACH_MM) & (from_tumour < REACH_MM + RIM_MM)
    return near & (from_echo > REACH_MM) & (from_tumour < from_echo)


def _matched(moved: Image, image: Image, alike: Mask) -> Image:
    """`moved` as bright as `image`, by the median difference where both show the same tissue.

    No gain is fitted: what bias correction leaves of a difference in it is small, and around a
    tumour the spread of intensities also tells of narrowed sulci.
    """
    if not alike.any():
        return moved
    return moved + np.float32(np.median(image[alike] - moved[alike]))


def _blended(image: Image, moved: Image, weight: Image) -> Image:
    """`image` turning into `moved` with `weight`, softly but for texture, which changes at once:
    a mean of two noises is smoother than either, and would show as a shell around the region.
    """
    difference = moved - image
    coarse = ndimage.gaussian_filter(difference, FINE_VOXELS)
    fine = np.where(weight > 0.5, difference - coarse, 0)
    return np.where(weight > 0, image + weight * coarse + fine, image).astype(np.float32)


def _shares(tissues: dict[str, Image], moved: dict[str, Image], weight: Image) -> dict[str, Image]:
    """Tissue maps turning into `moved` with `weight`, summing to 1 where they do."""
    mixed = {t: np.maximum(x + weight * (moved[t] - x), 1e-6) for t, x in tissues.items()}
    total = np.sum(list(mixed.values()), axis=0)
    return {t: np.where(weight > 0, mixed[t] / total, x) for t, x in tissues.items()}
