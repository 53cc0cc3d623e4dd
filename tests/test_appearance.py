import numpy as np
import pytest
import shapes
from hypothesis import given, settings
from hypothesis import strategies as st

from tumorfab import appearance, contrast
from tumorfab.roi import PARTIAL_MM, soft

ROI, IMAGES = shapes.tumour(9.0)
OTHER, _ = shapes.tumour(6.0, donor="B", necrotic=0.7, seed=3)
SHAPE = (40, 40, 40)
SPACING = np.full(3, 2.0)
BALL = shapes.ellipsoid(SHAPE, (19.5, 19.5, 19.5), 9.0)
TISSUE = np.ones(SHAPE, bool)


def unmoved(edge_mm=PARTIAL_MM, around=7.0):
    """The donor's own tumour filled into even surroundings."""
    surround = np.full((2, *ROI.labels.shape), around, np.float32)
    at = np.indices(ROI.labels.shape).astype(np.float32)
    inside = soft(ROI.core, edge_mm)
    return appearance.filled(surround, inside, ROI.necrosis, at, ROI, ROI.look), inside, surround


def test_an_unturned_unmixed_tumour_comes_back():
    filled, inside, _ = unmoved()
    deep = inside == 1
    assert deep.sum() > 1000
    original = np.stack(list(IMAGES.values()))
    # All but the few voxels whose texture is that of another structure (`roi.MOST_SD`).
    assert np.quantile(np.abs(filled - original)[:, deep], 0.99) < 0.01
    for value in (1, 3):
        here = deep & (ROI.labels == value)
        np.testing.assert_allclose(filled[:, here].mean(1), original[:, here].mean(1), atol=0.02)


def test_around_the_core_nothing_changes_and_the_boundary_is_a_mixture():
    filled, inside, surround = unmoved(edge_mm=4.0)
    np.testing.assert_array_equal(filled[:, inside == 0], surround[:, inside == 0])
    boundary = (inside > 0) & (inside < 1)
    assert np.isclose(inside[boundary], 0.75).sum() > 100
    for around in (7.0, -7.0):
        other = unmoved(edge_mm=4.0, around=around)[0]
        # Whatever the tumour's part of a voxel is, the other part is the surroundings'.
        np.testing.assert_allclose(
            (other - filled)[:, boundary],
            np.tile((1 - inside[boundary]) * (around - 7), (2, 1)),
            atol=1e-4,
        )


@settings(max_examples=15, deadline=None)
@given(st.floats(0, 1))
def test_a_look_in_between_moves_all_classes_and_modalities_together(share):
    found = appearance.between(ROI.look, OTHER.look, share)
    for name in ("NCR", "ED", "ET"):
        for what in ("mean", "covariance"):
            one, other = ROI.look[name][what], OTHER.look[name][what]
            np.testing.assert_allclose(found[name][what], one + share * (other - one), atol=1e-12)
        # A mixture of covariances is one.
        assert np.linalg.eigvalsh(found[name]["covariance"]).min() >= -1e-12


def look(mean, covariance, grain=1.0):
    one = {"mean": np.array(mean, float), "covariance": np.array(covariance, float)}
    return {"NCR": one, "ED": {**one, "grain": np.full(len(mean), grain)}, "ET": one}


def painted(
    mean=(1.0, 2.0), covariance=((0.04, 0.03), (0.03, 0.09)), density=None, noise=0.02, grain=1.0
):
    """Oedema in two modalities of a host of even tissue with noise."""
    rng = np.random.default_rng(0)
    host = (np.array([0.0, 0.0])[:, None, None, None] + rng.normal(0, noise, (2, *SHAPE))).astype(
        np.float32
    )
    if density is None:
        density = BALL.astype(np.float32)
    given, grains = look(mean, covariance, grain), np.full(2, noise)
    out = appearance.oedematous(
        host, density, TISSUE, given, grains, SPACING, np.random.default_rng(1)
    )
    return host, out


def test_contrast_scales_what_differs_from_white_matter_in_each_modality():
    found = appearance.contrasted(ROI.look, [0.5, 2.0])
    for name in ("NCR", "ED", "ET"):
        given = ROI.look[name]
        np.testing.assert_allclose(found[name]["mean"], given["mean"] * [0.5, 2.0])
        np.testing.assert_allclose(
            found[name]["covariance"], given["covariance"] * [[0.25, 1], [1, 4]]
        )
    np.testing.assert_array_equal(found["ED"]["grain"], ROI.look["ED"]["grain"])
    same = appearance.contrasted(ROI.look, [1.0, 1.0])
    np.testing.assert_array_equal(same["ET"]["covariance"], ROI.look["ET"]["covariance"])


def test_oedema_has_the_donors_mean_and_spread():
    _, out = painted()
    np.testing.assert_allclose(out[:, BALL].mean(1), [1.0, 2.0], atol=0.15)
    np.testing.assert_allclose(out[:, BALL].std(1), [0.2, 0.3], rtol=0.35)


def test_modalities_vary_together_as_the_donors_do():
    together, against = (
        np.corrcoef(painted(covariance=((0.04, c), (c, 0.04)))[1][:, BALL])[0, 1]
        for c in (0.035, -0.035)
    )
    assert together > 0.6
    assert against < -0.6


def test_outside_oedema_the_host_is_untouched():
    host, out = painted()
    np.testing.assert_array_equal(out[:, ~BALL], host[:, ~BALL])
    host, out = painted(density=np.zeros(SHAPE, np.float32))
    np.testing.assert_array_equal(out, host)


def test_the_fine_structure_stays_the_hosts():
    host, out = painted(covariance=np.eye(2) * 0.12**2, noise=0.1)
    inner = shapes.ellipsoid(SHAPE, (19.5, 19.5, 19.5), 7.0)
    both = inner & np.roll(inner, -1, 0)

    def fine(image):
        return (np.roll(image, -1, 0) - image)[both]

    for before, after in zip(host, out, strict=True):
        assert np.corrcoef(fine(before), fine(after))[0, 1] > 0.9


def test_grain_is_weakened_to_the_donors_but_never_added():
    # With no variance left that a random field would have to make up for.
    host, out = painted(covariance=np.eye(2) * 0.04**2, noise=0.1, grain=0.4)
    inner = shapes.ellipsoid(SHAPE, (19.5, 19.5, 19.5), 7.0)

    def grain(image):
        return contrast.grain(image, inner, SPACING)

    for before, after in zip(host, out, strict=True):
        assert grain(after) == pytest.approx(0.4 * grain(before), rel=0.2)
    host, out = painted(covariance=np.eye(2) * 0.04**2, noise=0.1, grain=3.0)
    assert grain(out[0]) == pytest.approx(grain(host[0]), rel=0.1)


def test_less_density_is_less_oedema():
    density = np.where(BALL, 1.0, 0).astype(np.float32)
    density[20:] *= 0.5
    _, out = painted(density=density)
    dense, thin = BALL.copy(), BALL.copy()
    dense[20:], thin[:20] = False, False
    ratio = out[:, thin].mean(1) / out[:, dense].mean(1)
    np.testing.assert_allclose(ratio, 0.5, atol=0.15)
    # On average it is the donor's.
    np.testing.assert_allclose(out[:, BALL].mean(1), [1.0, 2.0], rtol=0.2)


def test_csf_does_not_leak_into_the_tissue_beside_it():
    """The coarse level that oedema replaces is that of tissue alone."""
    host = np.zeros((2, *SHAPE), np.float32)
    host[:, :12] = -9.0  # CSF
    tissue = np.ones(SHAPE, bool)
    tissue[:12] = False
    density = np.where(tissue & BALL, 1, 0).astype(np.float32)
    given = look((1.0, 2.0), np.eye(2) * 1e-4)
    out = appearance.oedematous(
        host, density, tissue, given, np.ones(2), SPACING, np.random.default_rng(1)
    )
    np.testing.assert_allclose(out[0][density > 0], 1.0, atol=0.1)


def test_equal_generators_give_equal_bytes():
    assert painted()[1].tobytes() == painted()[1].tobytes()


@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_modalities(count):
    host = np.zeros((count, *SHAPE), np.float32)
    given = look(np.ones(count), np.eye(count) * 0.01)
    out = appearance.oedematous(
        host,
        BALL.astype(np.float32),
        TISSUE,
        given,
        np.ones(count),
        SPACING,
        np.random.default_rng(0),
    )
    np.testing.assert_allclose(out[:, BALL].mean(1), 1, atol=0.05)
