"""What all pictures share: style and colours, slices of volumes, PNG and SVG bytes.

The bytes depend on the arguments alone: no time stamps, no random ids, no user style.
"""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import matplotlib.style
import nibabel as nib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tumorfab.volume import Affine

matplotlib.use("Agg")

# Colours that colour-blind readers can tell apart, also over grey images.
LABEL_NAMES = {1: "necrotic core", 2: "oedema", 3: "enhancing tumour"}
LABEL_COLOURS = {1: "#3b82f6", 2: "#f2b705", 3: "#e5484d"}
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.edgecolor": "#8a929c",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.7,
    "xtick.color": "#3c444d",
    "ytick.color": "#3c444d",
    "legend.frameon": False,
    "svg.hashsalt": "tumorfab",
}
# The axis of a right-anterior-superior array along which the slices of a plane follow each other.
PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib as the pictures want it, whatever the user's settings are."""
    with matplotlib.style.context(["default", STYLE]):
        yield


def encoded(figure: Figure, kind: str) -> bytes:
    """The figure as a file; `kind` is svg or png."""
    buffer = io.BytesIO()
    metadata = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}[kind]
    figure.savefig(buffer, format=kind, dpi=100, metadata=metadata)
    return buffer.getvalue()


def uri(content: bytes, kind: str) -> str:
    """A data URI of an svg or png file, for pages that need no other file."""
    media = {"svg": "image/svg+xml", "png": "image/png"}[kind]
    return f"data:{media};base64,{base64.b64encode(content).decode('ascii')}"


@dataclass(frozen=True, eq=False)
class View:
    """How one slice of a grid is shown: radiological (the patient's right is on the left of the
    picture; in a sagittal one the front is), front or crown up, cropped to the brain.

    `across` is an axis of `PLANES`, `index` counts along it, `pixel_mm` is a pixel's width and
    height.
    """

    orientation: NDArray[np.float64]
    across: int
    index: int
    crop: tuple[slice, slice]
    pixel_mm: tuple[float, float]

    @classmethod
    def through(
        cls,
        focus: NDArray[np.bool_],
        brain: NDArray[np.bool_],
        affine: Affine,
        plane: str = "axial",
        margin_mm: float = 4.0,
    ) -> "View":
        """The slice through the middle of `focus` (of `brain` where `focus` is empty).

        Both masks are (I, J, K) on the grid of `affine`; the picture shows both and `margin_mm`
        around them. The middle is the median along the axis, so the slice always shows some of the
        focus, however it is shaped.
        """
        orientation = nib.orientations.io_orientation(affine)
        spacing = np.empty(3)
        spacing[orientation[:, 0].astype(int)] = np.linalg.norm(affine[:3, :3], axis=0)
        across = PLANES[plane]
        width, height = np.delete(spacing, across).tolist()
        wanted = focus if focus.any() else brain if brain.any() else np.ones_like(brain)
        summed = np.cumsum(_per_slice(wanted, orientation, across))
        index = int(np.searchsorted(summed, summed[-1] // 2, side="right"))
        shown = np.any(nib.orientations.apply_orientation(brain | focus, orientation), axis=across)
        shown = shown[::-1, ::-1].T if shown.any() else np.ones_like(shown.T)
        rows, columns = (
            slice(max(0, int(at.min()) - margin), min(size, int(at.max()) + margin + 1))
            for at, size, margin in zip(
                np.nonzero(shown),
                shown.shape,
                (round(margin_mm / height), round(margin_mm / width)),
                strict=True,
            )
        )
        return cls(orientation, across, index, (rows, columns), (width, height))

    @property
    def aspect(self) -> float:
        """Height of a pixel over its width."""
        return self.pixel_mm[1] / self.pixel_mm[0]

    @property
    def size_mm(self) -> tuple[float, float]:
        """Width and height of the picture."""
        rows, columns = (part.stop - part.start for part in self.crop)
        return columns * self.pixel_mm[0], rows * self.pixel_mm[1]

    def profile(self, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Voxels of an (I, J, K) mask in each slice along the axis that `index` counts."""
        return _per_slice(mask, self.orientation, self.across)

    def of(self, data: NDArray) -> NDArray:
        """The slice of an (I, J, K) array as a picture (rows, columns)."""
        turned = nib.orientations.apply_orientation(data, self.orientation)
        return turned.take(self.index, axis=self.across)[::-1, ::-1].T[self.crop]


def _per_slice(
    mask: NDArray[np.bool_], orientation: NDArray[np.float64], across: int
) -> NDArray[np.int64]:
    turned = nib.orientations.apply_orientation(mask, orientation)
    return np.count_nonzero(turned, axis=tuple({0, 1, 2} - {across}))


def window(values: NDArray) -> tuple[float, float]:
    """Black and white: the 0.5 and 99.5 percentiles of the values that are not 0."""
    low, high = np.percentile(np.append(values[values != 0], 0), [0.5, 99.5])
    return float(low), max(float(high), float(low) + 1e-6)
