"""Intensities relative to a brain's own white matter and CSF.

Donor and host were scanned on different machines. Expressed relative to its own tissue, a tumour
voxel means the same in both brains: 0 is white matter, and CSF lies at distance 1 from it.

Grey and white matter would be the nearer anchors, but their distance is what differs most between
scanners: in T1w it is a fifth of the distance to CSF in some brains and less than half that in
others, so that tumours measured by it became brighter or darker than they are anywhere.
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
    image: Image, wm: Image, csf: Image, exclude: NDArray[np.bool_] | None = None
) -> Reference:
    """Reference of one modality of one brain.

    `image`, `wm`, `csf` (posteriors in 0..1) and `exclude` (tumour, left out) are (I, J, K) on one
    grid. The centre is the median of white matter; the scale its distance from that of CSF, or the
    spread within white matter where that is larger. The sign of the contrast is kept by the image,
    not by the scale, which is positive. Raises `InputError` when either tissue is missing.
    """
    keep = np.ones(image.shape, bool) if exclude is None else ~exclude
    white, fluid = (image[(tissue > 0.7) & keep] for tissue in (wm, csf))
    if min(white.size, fluid.size) < 20:
        missing = "white matter" if white.size < 20 else "CSF"
        raise InputError(f"tissue maps hold no {missing}; check the registration")
    centre = float(np.median(white))
    spread = float(np.percentile(white, 75) - np.percentile(white, 25)) / 1.349
    return Reference(centre, max(abs(centre - float(np.median(fluid))), spread, 1e-6))
