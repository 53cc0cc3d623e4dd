"""Tumour growth in brain tissue: the Fisher-Kolmogorov reaction-diffusion equation.

    dc/dt = div(D grad c) + rho c (1 - c),    no flux into CSF or out of the brain

c is the tumour cell density as a share of what the tissue can carry (0 to 1), D the diffusivity in
mm^2/day, larger in white than in grey matter, rho the proliferation rate in 1/day (Swanson et al.,
Cell Proliferation 2000; Harpold et al., J Neuropathol Exp Neurol 2007). Arrays are (I, J, K).

The tumours of the embedded phantom cohort come from here. This module and `demo` import neither
`bank` nor `place`: were the "real" tumours of the demo made by the very code that makes the
synthetic ones, the comparison between them would be circular.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Density = NDArray[np.float32]

WHITE_TO_GREY = 10.0
"""D of white over D of grey matter: infiltration follows the tracts."""


def diffusivity(grey: Density, white: Density, d_white: float) -> Density:
    """D in mm^2/day from tissue probabilities in 0..1; `d_white` is that of pure white matter.

    Exactly 0 where less than half of the voxel is tissue: CSF and everything outside the brain.
    """
    mixed = d_white * (white + grey / WHITE_TO_GREY)
    return np.where(grey + white >= 0.5, mixed, 0).astype(np.float32)


def time_step(diffusion: Density, rho: float, spacing: float) -> float:
    """Days per step: within the explicit scheme's limit h^2 / (6 D), and short against 1 / rho."""
    limit = spacing**2 / (6 * max(float(diffusion.max(initial=0)), 1e-12))
    return min(0.9 * limit, 0.1 / max(rho, 1e-12))


def simulate(
    density: Density, diffusion: Density, rho: float, spacing: float
) -> Iterator[tuple[float, Density]]:
    """Yield (days, density) after each time step, without end.

    `spacing` is the voxel edge in mm. Each step is a finite-volume diffusion step, then the exact
    solution of the logistic reaction; density stays within 0..1 and, with rho = 0, its sum is kept.
    The diffusivity of a face is the harmonic mean of its two voxels', so that a voxel with D = 0 is
    closed. What starts outside the tissue (D = 0) is dropped.
    """
    step = time_step(diffusion, rho, spacing)
    rate = [np.float32(step / spacing**2) * _faces(diffusion, axis) for axis in range(3)]
    decay = np.float32(np.exp(-rho * step))
    now: Density = np.where(diffusion > 0, density, 0).astype(np.float32)
    days = 0.0
    while True:
        change = np.zeros_like(now)
        for axis in range(3):
            flux = rate[axis] * np.diff(now, axis=axis)
            change[_part(axis, None, -1)] += flux
            change[_part(axis, 1, None)] -= flux
        spread = np.clip(now + change, 0, 1)
        now = np.asarray(spread / (spread + (1 - spread) * decay), np.float32)
        days += step
        yield days, now


def grow(
    density: Density,
    diffusion: Density,
    rho: float,
    spacing: float,
    volume_ml: float,
    visible: float,
) -> Density:
    """Grow until the part with density >= `visible` measures `volume_ml`; returns the density.

    Raises `ValueError` when the tissue within reach of the start cannot hold that volume.
    """
    voxel_ml = spacing**3 / 1000
    for days, now in simulate(density, diffusion, rho, spacing):
        if np.count_nonzero(now >= visible) * voxel_ml >= volume_ml:
            return now
        # Doubled a hundred times over, the whole of the tissue within reach is full.
        if days * rho > 100:
            break
    raise ValueError(f"the tissue around the start holds no tumour of {volume_ml:.0f} ml")


def _part(axis: int, start: int | None, stop: int | None) -> tuple[slice, ...]:
    return tuple(slice(start, stop) if a == axis else slice(None) for a in range(3))


def _faces(diffusion: Density, axis: int) -> Density:
    low, high = diffusion[_part(axis, None, -1)], diffusion[_part(axis, 1, None)]
    both = low + high
    return np.divide(2 * low * high, both, out=np.zeros_like(both), where=both > 0)
