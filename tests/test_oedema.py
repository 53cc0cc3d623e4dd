import numpy as np
import pytest
import shapes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tumorfab import oedema

SHAPE = (48, 48, 40)
SPACING = np.full(3, 2.0)
CORE = shapes.ellipsoid(SHAPE, (23.5, 24, 20), 5.0)
NONE = np.zeros(SHAPE, np.float32)
WHITE = np.ones(SHAPE, np.float32)
OPEN = np.zeros(SHAPE, bool)
EDGE_MM, FADE = 4.0, 0.3


def grown(volume_mm3, csf=NONE, white=WHITE, closed=OPEN, spacing=SPACING, seed=1, core=CORE):
    """The density, and the voxels that are labelled oedema."""
    found = oedema.spread(core, csf, white, closed, spacing, volume_mm3, seed)
    density = oedema.density(found, csf, closed, EDGE_MM, FADE)
    return density, (density >= 0.5 * (1 - FADE)) & ~core


@settings(max_examples=15, deadline=None)
@given(st.floats(5e3, 6e4), st.integers(0, 100))
def test_the_volume_is_what_was_asked_for(volume, seed):
    _, labelled = grown(volume, seed=seed)
    assert labelled.sum() * 8 == pytest.approx(volume, rel=0.1)


@pytest.mark.parametrize("volume", [5e3, 2e4])
def test_the_volume_does_not_depend_on_the_grid(volume):
    fine = (part.repeat(2, 0).repeat(2, 1).repeat(2, 2) for part in (CORE, NONE, WHITE, OPEN))
    core, csf, white, closed = fine
    _, labelled = grown(volume, csf, white, closed, SPACING / 2, core=core)
    assert labelled.sum() == pytest.approx(volume, rel=0.1)


def test_it_keeps_to_white_matter():
    white = np.where(np.arange(48)[:, None, None] < 24, WHITE, 0).astype(np.float32)
    _, labelled = grown(3e4, white=white)
    assert labelled[:24].sum() > 2.5 * labelled[24:].sum() > 0
    _, even = grown(3e4)
    assert even[:24].sum() < 1.3 * even[24:].sum()


def test_it_follows_a_tract():
    white = np.zeros(SHAPE, np.float32)
    white[:, 21:28, 17:24] = 1
    _, labelled = grown(1.2e4, white=white)
    reach = np.ptp(np.argwhere(labelled), axis=0)
    assert reach[0] > 1.5 * reach[1:].max()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_it_stays_out_of_csf_and_of_what_is_closed(seed):
    csf, closed = NONE.copy(), OPEN.copy()
    csf[30:33] = 1
    closed[:, 31:33] = True
    density, labelled = grown(4e4, csf=csf, closed=closed, seed=seed)
    assert not density[30:33].any()
    assert not density[:, 31:33].any()
    # A sheet has no way round it here: what is behind stays free.
    assert not labelled[33:].any()
    assert not labelled[:, 33:].any()
    assert labelled.sum() * 8 == pytest.approx(4e4, rel=0.15)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(1e3, 6e4))
def test_it_hangs_together_with_the_core(seed, volume):
    _, labelled = grown(volume, seed=seed)
    pieces, _ = ndimage.label(labelled | CORE, np.ones((3, 3, 3)))
    belongs = pieces == pieces[23, 24, 20]
    assert (labelled & ~belongs).sum() <= 0.01 * labelled.sum()


def test_where_there_is_no_room_it_takes_what_there_is():
    closed = ~shapes.ellipsoid(SHAPE, (23.5, 24, 20), 8.0)
    room = (~closed & ~CORE).sum() * 8
    _, labelled = grown(10 * room, closed=closed)
    assert 0.7 * room < labelled.sum() * 8 <= room
    density, labelled = grown(1e4, closed=~CORE)
    assert not labelled.any()
    assert not density.any()


def test_none_is_asked_none_is_made():
    density, labelled = grown(0.0)
    assert not density.any()
    assert not labelled.any()


def test_what_is_partly_csf_is_partly_oedema_and_what_is_closed_none():
    found = oedema.spread(CORE, NONE, WHITE, OPEN, SPACING, 3e4, 1)
    half, shut = np.full(SHAPE, 0.5, np.float32), OPEN.copy()
    shut[:20] = True
    pure, mixed, closed = (
        oedema.density(found, csf, where, EDGE_MM, FADE)
        for csf, where in ((NONE, OPEN), (half, OPEN), (NONE, shut))
    )
    np.testing.assert_allclose(mixed, pure / 2, atol=1e-6)
    assert not closed[:20].any()
    np.testing.assert_array_equal(closed[20:], pure[20:])
    assert pure[:20].any()


def test_it_fades_from_the_core_to_the_edge():
    density, labelled = grown(3e4)
    near = density[ndimage.binary_dilation(CORE) & ~CORE]
    outer = density[labelled & ndimage.binary_dilation(~labelled & ~CORE)]
    assert near.mean() > 0.85
    assert outer.mean() < near.mean() - 0.2
    assert density.max() <= 1
    assert density.min() == 0
    # Beyond the edge it ends within a few mm.
    away = ndimage.distance_transform_edt(~(labelled | CORE), sampling=SPACING)
    assert not density[away > 3 * EDGE_MM].any()


def test_the_seed_alone_decides_on_the_form():
    one, same, other = (grown(2e4, seed=seed)[0] for seed in (1, 1, 2))
    assert one.tobytes() == same.tobytes()
    assert ((one > 0.35) ^ (other > 0.35)).sum() > 0.1 * (one > 0.35).sum()


def test_a_core_smaller_than_a_block_still_has_oedema():
    core = np.zeros((40, 40, 40), bool)
    core[20, 20, 20] = True
    none, white = np.zeros(core.shape, np.float32), np.ones(core.shape, np.float32)
    _, labelled = grown(2e3, none, white, core & False, np.ones(3), core=core)
    assert labelled.sum() == pytest.approx(2e3, rel=0.2)


@pytest.mark.parametrize("edge_mm", [1.0, 2.0])
def test_the_outline_runs_across_sulci_and_not_along_fingers(edge_mm):
    shape = tuple(int(n) for n in np.rint(np.array([60, 60, 60]) / edge_mm))
    spacing = np.full(3, edge_mm)
    at = (np.indices(shape) + 0.5) * edge_mm
    ball = ((at - 30) ** 2).sum(0) < 20**2
    sulcus = (np.abs(at[0] - 31) < 1) & (at[1] > 30)
    finger = (np.hypot(at[1] - 30, at[2] - 30) < 2) & (at[0] > 45)
    ventricle = (np.abs(at[2] - 15) < 2) & ball
    fluid = (ball & ~sulcus & ~ventricle) | finger
    found = oedema.outlined(fluid, ventricle, spacing)
    deep = ((at - 30) ** 2).sum(0) < 14**2
    assert found[sulcus & deep & ~ventricle].all()
    assert not found[finger & (at[0] > 56)].any()
    assert not found[ventricle].any()
    assert found.sum() == pytest.approx((ball & ~ventricle).sum(), rel=0.07)
