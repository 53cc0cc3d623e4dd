"""Volumes on disk and in memory: the only file that touches NIfTI headers.

Arrays are indexed (I, J, K) in the order of the file; nothing is flipped on loading. `affine` is
nibabel's: voxel indices to RAS+ millimetres. `Grid` is shape plus affine.
"""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from isal import igzip
from numpy.typing import NDArray

from tumorfab.stage import InputError, atomic

Affine = NDArray[np.float64]
Image = NDArray[np.float32]
Labels = NDArray[np.uint8]
Box = tuple[slice, ...]

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Grid:
    """A voxel grid: `shape` in voxels, `affine` (4, 4) from voxel indices to RAS+ mm."""

    shape: tuple[int, int, int]
    affine: Affine

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Voxel edge lengths in mm along I, J, K."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel in mm^3."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def matches(self, other: "Grid") -> bool:
        """Whether both put every voxel at the same place, to 0.01 mm (headers are float32)."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(3, -1)
        apart = (self.affine - other.affine) @ np.vstack([corners, np.ones(8)])
        return bool(np.abs(apart).max() < 0.01)

    def coarsened(self, spacing: float) -> "Grid":
        """The grid of isotropic `spacing` mm over this one's field of view, with its centre."""
        extent = np.array(self.shape) * self.spacing
        shape = tuple(int(n) for n in np.maximum(1, np.ceil(extent / spacing - 1e-3)))
        affine = self.affine.copy()
        affine[:3, :3] *= spacing / self.spacing
        centre = self.affine @ [*(np.array(self.shape) - 1) / 2, 1]
        affine[:3, 3] = centre[:3] - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
        return Grid((shape[0], shape[1], shape[2]), affine)


@dataclass(frozen=True, eq=False)
class Volume:
    """One 3D array with its affine."""

    data: NDArray
    affine: Affine

    @property
    def grid(self) -> Grid:
        """The voxel grid of this volume."""
        i, j, k = self.data.shape
        return Grid((i, j, k), self.affine)


def box(mask: NDArray[np.bool_], margin: int = 0) -> tuple[slice, slice, slice]:
    """The smallest box around the True voxels of a (I, J, K) mask, `margin` voxels wider on each
    side where the volume goes on. Raises `ValueError` for an empty mask."""
    ranges = []
    for axis, size in enumerate(mask.shape):
        hit = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        if not len(hit):
            raise ValueError("an empty mask has no box")
        ranges.append(slice(max(0, int(hit[0]) - margin), min(size, int(hit[-1]) + 1 + margin)))
    return ranges[0], ranges[1], ranges[2]


def within(inner: Box, outer: Box) -> Box:
    """The box `inner` of a volume as a box of the part that `outer` cuts out of it."""
    return tuple(
        slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True)
    )


def placed(inner: Box, outer: Box) -> Box:
    """The inverse of `within`: a box of the part that `outer` cuts out, as one of the volume."""
    return tuple(
        slice(o.start + i.start, o.start + i.stop) for i, o in zip(inner, outer, strict=True)
    )


def ball_radius(mm3: float) -> float:
    """Radius in mm of the ball of a volume."""
    return float((3 * mm3 / (4 * np.pi)) ** (1 / 3))


def block_means(array: Image, step: NDArray[np.int_]) -> Image:
    """Means over blocks of `step` voxels along I, J, K; what a block lacks at the far edge repeats
    the last voxel."""
    lacking = [(0, int(-n % s)) for n, s in zip(array.shape, step, strict=True)]
    out = np.pad(array, lacking, "edge") if np.any(lacking) else array
    i, j, k = (int(s) for s in step)
    # One axis after another: numpy is slow at sums over several.
    out = out.reshape(out.shape[0] // i, i, *out.shape[1:]).sum(1, dtype=np.float32)
    out = out.reshape(out.shape[0], out.shape[1] // j, j, out.shape[2]).sum(2)
    out = out.reshape(*out.shape[:2], out.shape[2] // k, k).sum(3)
    return np.asarray(out / np.float32(i * j * k), np.float32)


def load(path: Path | str) -> Volume:
    """Load a 3D image as float32 (a trailing axis of length 1 is dropped).

    Raises `InputError` when the file is missing, not NIfTI, truncated or not 3D.
    """
    data, affine = _read(path)
    return Volume(data.astype(np.float32, copy=False), affine)


def load_channels(path: Path | str) -> list[Volume]:
    """Load the 3D volumes of a 4D file in its order, as float32. Raises `InputError` as `load`."""
    data, affine = _read(path, dimensions=4)
    channels = np.moveaxis(data, -1, 0).astype(np.float32, copy=False)
    return [Volume(channel, affine) for channel in channels]


def load_labels(path: Path | str) -> Volume:
    """Load a 3D label map as uint8. Raises `InputError` on values that are not whole numbers."""
    data, affine = _read(path)
    rounded = np.rint(data)
    if not np.array_equal(rounded, data) or rounded.min() < 0 or rounded.max() > 255:
        raise InputError(f"{path}: not a label map: its values are not whole numbers in 0..255")
    return Volume(rounded.astype(np.uint8), affine)


def load_on(path: Path | str, grid: Grid, labels: bool = False) -> NDArray:
    """The array of a volume that must lie on `grid`. Raises `InputError` if it does not."""
    volume = load_labels(path) if labels else load(path)
    if not volume.grid.matches(grid):
        raise InputError(
            f"{path}: is on another grid (shape {volume.data.shape}) than expected ({grid.shape}); "
            "delete it and run again"
        )
    return volume.data


def load_grid(path: Path | str) -> Grid:
    """The grid of a volume, from its header alone. Raises `InputError` as `load` does."""
    image = _open(path)
    if len(image.shape) < 3:
        raise InputError(f"{path}: has {len(image.shape)} dimensions, 3 are needed")
    i, j, k = image.shape[:3]
    return Grid((i, j, k), _affine(image))


def _open(path: Path | str) -> nib.Nifti1Image:
    try:
        image = nib.load(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:  # nibabel raises many kinds for a broken header
        raise InputError(f"{path}: not a readable NIfTI file ({first_line(error)})") from None
    if not isinstance(image, nib.Nifti1Image):
        raise InputError(f"{path}: is {type(image).__name__}, not NIfTI; convert it to .nii.gz")
    return image


def _affine(image: nib.Nifti1Image) -> Affine:
    """The affine that the file states.

    Where nibabel mends what is missing, a zero shows it here: all of it where the file has neither
    sform nor qform (nibabel makes one up), a column where the qform's spacing is 0 (it takes 1 mm).
    """
    affine = np.array(image.affine, dtype=np.float64)
    if int(image.header["sform_code"]) > 0:
        return affine
    if int(image.header["qform_code"]) <= 0:
        return np.zeros((4, 4))
    with image.file_map["image"].get_prepare_fileobj("rb") as handle:
        stated = type(image.header).from_fileobj(handle, check=False)
    affine[:3, :3] *= stated["pixdim"][1:4] != 0
    return affine


def _read(path: Path | str, dimensions: int = 3) -> tuple[NDArray, Affine]:
    image = _open(path)
    try:
        data = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}: cannot be read to its end ({first_line(error)}); copy it again"
        ) from None
    while data.ndim > dimensions and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim != dimensions or not data.size:
        raise InputError(f"{path}: has shape {data.shape}, one {dimensions}D volume is needed")
    if data.dtype.kind not in "biuf":
        raise InputError(f"{path}: holds {data.dtype} voxels, not one number each; convert it")
    return data, _affine(image)


def first_line(error: BaseException) -> str:
    """What an exception says, in one line; its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def save(path: Path | str, data: NDArray, affine: Affine) -> None:
    """Write a volume atomically as .nii.gz: float as int16 with a scale, bool and uint8 as uint8.

    The bytes depend on the arguments alone (no time stamp). int16 keeps better than 1/30,000 of the
    peak, well below the noise of any scan; zero stays exactly zero, so a background stays one. The
    scale is a power of two (see `lattice`), so voxels that were loaded and not changed are written
    back bit for bit as long as the peak does not outgrow `lattice`'s range.
    """
    if data.dtype == bool or data.dtype == np.uint8:
        stored, slope = data.astype(np.uint8), 1.0
    elif np.issubdtype(data.dtype, np.floating):
        peak = float(data.max(initial=0.0)) - float(data.min(initial=0.0))
        if not np.isfinite(peak):
            raise ValueError(f"{path}: refusing to write NaN or infinite voxels")
        slope = lattice(data)
        stored = np.rint(data / slope).astype(np.int16)
    else:
        raise TypeError(f"volumes are float, uint8 or bool, not {data.dtype}")
    header = nib.Nifti1Header()
    header.set_data_dtype(stored.dtype)
    header.set_xyzt_units("mm", "sec")
    image = nib.Nifti1Image(stored, affine, header)
    image.header.set_slope_inter(slope, 0.0)
    image.set_sform(affine, code="aligned")
    image.set_qform(affine, code="aligned")
    head = image.header.copy()
    head.set_data_offset(352)
    head["magic"] = b"n+1"
    payload = head.binaryblock + b"\0" * 4 + stored.tobytes(order="F")
    with atomic(path) as temporary:
        # igzip writes a name-free, time-free header through compress(): same bytes every time.
        temporary.write_bytes(igzip.compress(payload, compresslevel=1, mtime=0))


def lattice(data: NDArray) -> float:
    """The step between the values that `save` can write for `data`.

    It is the smallest power of two with which the peak fits int16. Everything within 32767 steps of
    zero can be stored with it.
    """
    peak = max(float(data.max(initial=0.0)), -float(data.min(initial=0.0)))
    return 2.0 ** np.ceil(np.log2(peak / 32767)) if peak > 0 else 1.0


def to_sitk(volume: Volume) -> sitk.Image:
    """SimpleITK image (LPS) of a volume, sharing no memory with it."""
    data = volume.data
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    lps = _LPS @ volume.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    # ITK insists on orthonormal directions; headers in float32 are off by 1e-7.
    u, _, vt = np.linalg.svd(lps[:3, :3] / spacing)
    image.SetSpacing([float(s) for s in spacing])
    image.SetDirection((u @ vt).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def from_sitk(image: sitk.Image) -> Volume:
    """The inverse of `to_sitk`."""
    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image).T, _LPS @ lps)


def resample(
    volume: Volume, grid: Grid, transform: sitk.Transform | None = None, labels: bool = False
) -> NDArray:
    """Resample onto `grid` in one interpolation; outside the field of view is 0.

    `transform` maps points of `grid` to points of `volume` (ITK's convention, LPS mm); None is the
    identity, and then equal grids return the very voxels. Images use a cubic B-spline, which keeps
    the sharpness that linear interpolation loses, clipped to the input's range so that it cannot
    ring. On a coarser grid a Gaussian first removes what the grid cannot hold. Labels are
    interpolated class by class and the largest wins, so thin classes survive better than with
    nearest neighbour.
    """
    if transform is None:
        if volume.grid.matches(grid):
            return volume.data
        transform = sitk.Transform(3, sitk.sitkIdentity)
    blur = _antialias(volume.grid, grid)
    if labels:
        values = np.unique(volume.data)
        best = np.zeros(grid.shape, np.float32)
        chosen = np.zeros(grid.shape, np.uint8)
        for value in values:
            indicator = Volume((volume.data == value).astype(np.float32), volume.affine)
            share = _interpolate(indicator, grid, transform, blur, sitk.sitkLinear)
            chosen[share > best] = value
            best = np.maximum(best, share)
        return chosen
    # 0 is a legitimate value: the one outside the field of view.
    low, high = min(0.0, float(volume.data.min())), max(0.0, float(volume.data.max()))
    image = Volume(volume.data.astype(np.float32, copy=False), volume.affine)
    out = _interpolate(image, grid, transform, blur, sitk.sitkBSpline)
    return np.clip(out, low, high)


def _antialias(source: Grid, target: Grid) -> NDArray[np.float64]:
    """Gaussian sigma in mm per source axis that brings the source's resolution to the target's."""
    wanted = float(np.mean(target.spacing))
    # FWHM 2.355 sigma; a voxel of edge s blurs as a box of variance s^2 / 12.
    return np.sqrt(np.maximum(wanted**2 - source.spacing**2, 0.0) / 12.0)


def _interpolate(
    volume: Volume,
    grid: Grid,
    transform: sitk.Transform,
    blur: NDArray[np.float64],
    interpolator: int,
) -> NDArray:
    image = to_sitk(volume)
    if (blur > 0.1 * volume.grid.spacing).any():
        image = sitk.DiscreteGaussian(image, (np.maximum(blur, 1e-6) ** 2).tolist())
    reference = to_sitk(Volume(np.zeros(grid.shape, np.uint8), grid.affine))
    return from_sitk(
        sitk.Resample(image, reference, transform, interpolator, 0.0, sitk.sitkFloat32)
    ).data
