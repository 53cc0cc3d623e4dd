"""growth: conservation, front speed, closed boundaries, stability."""

from itertools import islice, takewhile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tumorfab import growth


def tissue(seed: int, shape: tuple[int, int, int] = (12, 11, 10)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet([0.6, 0.6, 0.6], size=shape).astype(np.float32)
    return shares[..., 0], shares[..., 1]


def test_diffusivity_is_ten_times_larger_in_white_matter_and_zero_in_csf() -> None:
    grey = np.array([[[1.0, 0.0, 0.0, 0.2]]], np.float32)
    white = np.array([[[0.0, 1.0, 0.0, 0.2]]], np.float32)
    found = growth.diffusivity(grey, white, 0.5)
    np.testing.assert_allclose(found[0, 0], [0.05, 0.5, 0, 0], rtol=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 5.0), st.floats(0.5, 4.0))
def test_mass_is_conserved_without_proliferation(seed: int, d_white: float, spacing: float) -> None:
    diffusion = growth.diffusivity(*tissue(seed), d_white)
    start = np.random.default_rng(seed).random(diffusion.shape).astype(np.float32)
    inside = start[diffusion > 0].sum(dtype=np.float64)
    *_, (_, last) = islice(growth.simulate(start, diffusion, 0.0, spacing), 60)
    assert last.sum(dtype=np.float64) == pytest.approx(inside, rel=1e-5)
    assert np.abs(last - start)[diffusion > 0].max() > 0.05


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-3, 50.0), st.floats(1e-3, 1.0), st.floats(0.5, 4.0))
def test_density_stays_within_bounds_and_out_of_csf(
    seed: int, d_white: float, rho: float, spacing: float
) -> None:
    diffusion = growth.diffusivity(*tissue(seed), d_white)
    start = np.random.default_rng(seed).random(diffusion.shape).astype(np.float32)
    *_, (_, last) = islice(growth.simulate(start, diffusion, rho, spacing), 60)
    assert last.min() >= 0
    assert last.max() <= 1
    assert (last[diffusion == 0] == 0).all()


def test_fastest_ripple_dies_out() -> None:
    """A checkerboard is the first to blow up when the time step is beyond the scheme's limit."""
    parity = np.indices((10, 10, 10)).sum(0) % 2
    start = np.where(parity, 0.9, 0.1).astype(np.float32)
    diffusion = np.full(start.shape, 0.4, np.float32)
    *_, (_, last) = islice(growth.simulate(start, diffusion, 0.0, 2.0), 60)
    np.testing.assert_allclose(last, 0.5, atol=0.01)


def test_reaction_alone_is_the_logistic_curve() -> None:
    diffusion = np.full((3, 3, 3), 1e-9, np.float32)
    start = np.full((3, 3, 3), 0.01, np.float32)
    days, last = next(x for x in growth.simulate(start, diffusion, 0.05, 2.0) if x[0] > 60)
    assert last[1, 1, 1] == pytest.approx(1 / (1 + 99 * np.exp(-0.05 * days)), rel=1e-4)


def test_diffusion_alone_spreads_as_the_heat_kernel() -> None:
    """Variance of a point source grows by 2 D t along each axis."""
    diffusion = np.full((61, 1, 1), 0.3, np.float32)
    start = np.zeros((61, 1, 1), np.float32)
    start[30] = 1
    days, last = next(x for x in growth.simulate(start, diffusion, 0.0, 2.0) if x[0] > 150)
    x = 2.0 * (np.arange(61) - 30)
    assert (last[:, 0, 0] * x**2).sum() == pytest.approx(2 * 0.3 * days, rel=1e-3)


@pytest.mark.parametrize(("d", "rho"), [(0.3, 0.02), (0.1, 0.01)])
def test_front_travels_at_the_speed_of_fisher(d: float, rho: float) -> None:
    """2 sqrt(D rho), less Bramson's 3 sqrt(D / rho) / (2 t)."""
    spacing, n = 1.0, 400
    diffusion = np.full((n, 1, 1), d, np.float32)
    start = np.zeros((n, 1, 1), np.float32)
    start[:5] = 1
    steps = takewhile(lambda x: x[0] < 30 / rho, growth.simulate(start, diffusion, rho, spacing))
    front = [(days, _crossing(c[:, 0, 0])) for days, c in steps]
    (t0, x0), (t1, x1) = front[len(front) // 2], front[-1]
    expected = 2 * np.sqrt(d * rho) * (t1 - t0) - 1.5 * np.sqrt(d / rho) * np.log(t1 / t0)
    assert spacing * (x1 - x0) == pytest.approx(expected, rel=0.04)


def _crossing(profile: np.ndarray) -> float:
    i = int(np.flatnonzero(profile >= 0.5)[-1])
    return i + (profile[i] - 0.5) / (profile[i] - profile[i + 1])


def test_front_is_about_root_ten_faster_in_white_than_in_grey_matter() -> None:
    white = np.zeros((501, 1, 1), np.float32)
    white[250:] = 1
    start = np.zeros_like(white)
    start[250] = 1
    diffusion = growth.diffusivity(1 - white, white, 0.5)
    _, last = next(x for x in growth.simulate(start, diffusion, 0.02, 1.0) if x[0] > 900)
    reached = np.flatnonzero(last[:, 0, 0] >= 0.5)
    assert (reached[-1] - 250) / (250 - reached[0]) == pytest.approx(10**0.5, rel=0.15)


def test_grow_stops_at_the_volume() -> None:
    ones = np.ones((30, 30, 30), np.float32)
    start = np.zeros_like(ones)
    start[15, 15, 15] = 1
    last = growth.grow(start, growth.diffusivity(0 * ones, ones, 0.2), 0.02, 2.0, 10.0, 0.2)
    assert 10.0 <= (last >= 0.2).sum() * 0.008 < 11.0


def test_grow_says_when_the_tissue_is_too_small() -> None:
    ones = np.ones((5, 5, 5), np.float32)
    with pytest.raises(ValueError, match="holds no tumour of 10 ml"):
        growth.grow(ones / 2, growth.diffusivity(0 * ones, ones, 0.2), 0.02, 2.0, 10.0, 0.2)
