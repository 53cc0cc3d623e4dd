"""Intensities relative to a brain's own white and grey matter.

Donor and host were scanned on different machines. Expressed relative to its own tissue, a tumour
voxel means the same in both brains: 0.5 is white matter, -0.5 is grey matter where the two differ
(T1w), and the sign follows the modality.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tumorfab.stage import InputError
from tumorfab.volume import Image


@dataclass(frozen=True)
class Reference:
    """Map from image units to tissue-relative ones: `relative = (x - centre) / scale`."""

    centre: float
    scale: float

    def relative(self, image: NDArray) -> NDArray:
        """Image units to tissue-relative units."""
        return (image - self.centre) / self.scale

    def absolute(self, image: NDArray) -> NDArray:
        """Tissue-relative units to image units."""
        return image * self.scale + self.centre


def reference(
    image: Image, wm: Image, gm: Image, exclude: NDArray[np.bool_] | None = None
) -> Reference:
    """Reference of one modality of one brain.

    `image`, `wm`, `gm` (posteriors in 0..1) and `exclude` (tumour, left out) are (I, J, K) on one
    grid. The centre is midway between the medians of white and grey matter. The scale is their
    distance, or the spread within the tissues where that is larger (FLAIR, where WM and GM nearly
    meet). The sign of the contrast is kept by the image, not by the scale, which is positive.
    Raises `InputError` when either tissue is missing.
    """
    keep = np.ones(image.shape, bool) if exclude is None else ~exclude
    values = [image[(tissue > 0.7) & keep] for tissue in (wm, gm)]
    if min(v.size for v in values) < 20:
        raise InputError("tissue maps hold no white or no grey matter; check the registration")
    white, grey = (float(np.median(v)) for v in values)
    spread = max(float(np.percentile(v, 75) - np.percentile(v, 25)) / 1.349 for v in values)
    return Reference((white + grey) / 2, max(abs(white - grey), spread, 1e-6))
