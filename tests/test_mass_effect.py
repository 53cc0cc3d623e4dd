import numpy as np
import pytest
import shapes

from tumorfab import fields, mass_effect
from tumorfab.anatomy import Plane

GRID = shapes.grid(4.0, 40, 44, 36)
MIDDLE = (19.5, 21.5, 17.5)
BRAIN = shapes.ellipsoid(GRID.shape, MIDDLE, 15.5)
# The midsagittal plane, through the middle of the ball.
PLANE = Plane(tuple(4.0 * v for v in MIDDLE), (1.0, 0.0, 0.0))
NO_CSF = np.zeros(GRID.shape, np.float32)
SITE = np.array([27, 22, 18])
RADIUS = 3.5  # voxels


def displaced(share=0.3, csf=NO_CSF, falx=None, site=SITE, grid=GRID, brain=BRAIN, radius=RADIUS):
    tumour = shapes.ellipsoid(grid.shape, site, radius) & brain
    at = mass_effect.box(tumour, 1)
    if falx is None:
        falx = np.zeros(-(-np.array(grid.shape) // mass_effect.steps(grid)), bool)
    return mass_effect.displace(tumour[at], at, brain, csf, falx, grid, share)


def whole(found, grid=GRID):
    """The displacement (3, I, J, K) in mm on the whole grid, 0 where nothing moves."""
    field = np.zeros((3, *grid.shape))
    at = np.argwhere(found.moving) + [s.start for s in found.where]
    field[:, *at.T] = (at - found.source.T).T * grid.spacing[:, None]
    return field


def carried(found, mask):
    """A mask after the displacement: shares of voxels on the whole grid."""
    out = mask.astype(np.float32)
    out[found.where] = found.carry(out)
    return out


@pytest.fixture(scope="module")
def plain():
    return displaced()


def test_the_brain_moves_away_from_the_tumour(plain):
    field = whole(plain)
    size = np.sqrt((field**2).sum(0))
    away = np.indices(GRID.shape) - SITE[:, None, None, None]
    distance = np.sqrt((away**2).sum(0))
    clear = (size > 1.0) & (distance > 2)
    outward = (field * away).sum(0)[clear] / (size * distance)[clear]
    assert clear.sum() > 200
    assert (outward > 0).mean() > 0.97
    assert np.average(outward, weights=size[clear]) > 0.9
    # Most of it near the tumour's boundary, little far away.
    assert size[distance > 12].max(initial=0) < 0.4 * size.max()


@pytest.mark.parametrize("share", [0.1, 0.2, 0.35])
def test_the_peak_is_the_share_of_the_radius(share):
    found = displaced(share, radius=5.0)
    tumour = shapes.ellipsoid(GRID.shape, SITE, 5.0)
    radius = (3 * tumour.sum() * 64 / (4 * np.pi)) ** (1 / 3)
    # Less the length by which displacements fade out, so that they begin without a step.
    assert found.largest_mm == pytest.approx(share * radius - mass_effect.LEAST_MM, abs=0.1)
    assert np.sqrt((whole(found) ** 2).sum(0)).max() == pytest.approx(found.largest_mm, abs=1e-3)


@pytest.mark.parametrize("edge", [4.0, 2.5])
def test_nothing_folds_at_full_resolution(edge):
    grid = shapes.grid(edge, 40, 44, 36)
    found = displaced(0.6, grid=grid, radius=6.0)
    at_voxels = fields.jacobian(whole(found, grid).astype(np.float32), grid.spacing)
    assert at_voxels[BRAIN].min() > 0
    assert found.jacobian >= fields.LEAST_JACOBIAN


def test_a_displacement_that_would_fold_is_made_weaker():
    """A small tumour beside much CSF, which gives way without end."""
    csf = np.where(np.arange(40)[:, None, None] > 27, 1, NO_CSF).astype(np.float32)
    strong = displaced(3.0, csf)
    assert strong.jacobian >= fields.LEAST_JACOBIAN
    assert strong.largest_mm < 3.0 * RADIUS * 4


def test_nothing_moves_outside_the_brain(plain):
    assert not whole(plain)[:, ~BRAIN].any()
    # The skull holds the outermost layer.
    shell = BRAIN & ~mass_effect.ndimage.binary_erosion(BRAIN)
    assert np.abs(whole(plain)[:, shell]).max(initial=0) < 0.5
    # Where the tumour touches the skull, on a grid finer than the equation's, it holds too.
    grid = shapes.grid(2.0, 64, 64, 64)
    brain = shapes.ellipsoid(grid.shape, (31.5, 31.5, 31.5), 28.3)
    found = displaced(0.3, grid=grid, brain=brain, site=np.array([54, 32, 32]), radius=8.0,
                      csf=np.zeros(grid.shape, np.float32))  # fmt: skip
    assert not whole(found, grid)[:, ~brain].any()
    assert np.abs(whole(found, grid)).max() > 2


def test_the_falx_lies_between_the_hemispheres_above_their_middle():
    sheet = mass_effect.falx(BRAIN, GRID, PLANE)  # here a block is a voxel
    found = np.argwhere(sheet)
    assert set(found[:, 0]) <= {19, 20}
    assert (found[:, 2] > MIDDLE[2] - 0.5).all()
    assert sheet[19, 21, 32]  # the vertex
    assert not sheet[19, 21, 19]  # deep: the corpus callosum can shift
    assert not sheet[~BRAIN].any()


def test_the_falx_does_not_move_and_shields_the_other_side():
    sheet = mass_effect.falx(BRAIN, GRID, PLANE)
    site = np.array([25, 22, 25])
    free, held = (
        displaced(0.3, falx=falx, site=site, radius=5.0) for falx in (np.zeros_like(sheet), sheet)
    )
    assert not whole(held)[:, sheet].any()
    assert np.abs(whole(free)[:, sheet]).max() > 1
    beyond = [np.abs(whole(found)[0, :19, :, 24:]).sum() for found in (held, free)]
    assert beyond[0] < 0.5 * beyond[1]


def test_the_midline_shifts_away_from_the_tumour():
    sheet = mass_effect.falx(BRAIN, GRID, PLANE)
    found = displaced(0.3, falx=sheet, site=np.array([25, 22, 16]), radius=5.0)
    midline = whole(found)[0, 19, 18:27, 12:19]
    assert midline.min() < -2.0  # the tumour is on the right, +x
    assert midline.max() <= 0


def test_csf_gives_way_more_than_tissue():
    """A slab beside the tumour, once of CSF and once of tissue."""
    slab = np.zeros(GRID.shape, bool)
    slab[19:22, 17:28, 13:24] = True
    lost = [
        1 - carried(displaced(0.2, csf, radius=5.0), slab).sum() / slab.sum()
        for csf in (slab.astype(np.float32), NO_CSF)
    ]
    assert lost[1] > 0
    assert lost[0] > 1.3 * lost[1]


def test_a_ventricle_beside_the_tumour_shrinks():
    ventricle = shapes.ellipsoid(GRID.shape, (18.5, 22, 18), (2.5, 5, 3))
    site = np.array([27, 22, 18])
    found = displaced(0.35, ventricle.astype(np.float32), site=site, radius=5.0)
    after = carried(found, ventricle) > 0.5
    assert 0.3 * ventricle.sum() < after.sum() < 0.95 * ventricle.sum()


def test_without_a_share_nothing_moves():
    assert displaced(0.0) is None
    assert displaced(0.01) is None  # less than what counts


def test_a_tumour_at_the_edge_of_the_volume_is_no_problem():
    site = np.array([38, 22, 18])
    brain = np.ones(GRID.shape, bool)
    found = displaced(0.3, site=site, brain=brain)
    assert np.isfinite(found.source).all()
    assert found.largest_mm > 1


def test_equal_input_gives_equal_bytes(plain):
    again = displaced()
    assert again.source.tobytes() == plain.source.tobytes()
    assert again.where == plain.where


@pytest.mark.parametrize("order", [1, 3])
def test_carrying_keeps_a_constant_and_the_range(plain, order):
    full = np.full(GRID.shape, 3.0, np.float32)
    np.testing.assert_allclose(plain.carry(full, order), 3.0, atol=1e-4)
    mask = BRAIN.astype(np.float32)
    inner = plain.carry(mask, order)
    assert inner.min() >= 0
    assert inner.max() <= 1
    still = ~plain.moving
    np.testing.assert_array_equal(inner[still], mask[plain.where][still])


def test_blocks_at_voxels():
    grid = shapes.grid(2.5, 8, 6, 4)  # blocks of two voxels
    coarse = np.zeros((4, 3, 2), bool)
    coarse[1, 2, 0] = True
    fine = mass_effect.blocks_in(coarse, (slice(1, 8), slice(0, 6), slice(0, 4)), grid)
    assert sorted(map(tuple, np.argwhere(fine))) == [
        (i, j, k) for i in (1, 2) for j in (4, 5) for k in (0, 1)
    ]
