"""Copies of training tumours are found, and nothing else is called one."""

import numpy as np
import pytest
import shapes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tumorfab import likeness
from tumorfab.likeness import Core

SHAPE = (30, 34, 28)


def core(seed, radius=9, centre=(14, 16, 13), modalities=2):
    """A lopsided core with a texture of its own."""
    rng = np.random.default_rng(seed)
    inside = shapes.ellipsoid(SHAPE, centre, radius)
    inside |= shapes.ellipsoid(SHAPE, np.add(centre, rng.integers(-4, 5, 3)), radius - 2)
    texture = [ndimage.gaussian_filter(rng.normal(size=SHAPE), 1) for _ in range(modalities)]
    where = likeness.box(inside)
    return Core(inside[where], np.stack([part[where] for part in texture]).astype(np.float32))


def padded(found, before):
    widths = [(n, 3) for n in before]
    return Core(np.pad(found.inside, widths), np.pad(found.texture, [(0, 0), *widths]))


@settings(max_examples=15, deadline=None)
@given(st.tuples(*[st.integers(0, 5)] * 3), st.integers(0, 9), st.floats(0.5, 2))
def test_a_copy_is_found_wherever_it_lies_and_however_it_was_brightened(before, seed, gain):
    original = core(seed)
    copy = padded(original, before)
    copy = Core(copy.inside, np.float32(gain) * copy.texture + 3)
    assert likeness.alike(copy, original) == pytest.approx((1, 1), abs=1e-5)
    assert likeness.alike(original, copy) == pytest.approx((1, 1), abs=1e-5)


def test_the_original_of_a_mirrored_copy_is_found_among_others():
    known = {f"A{i}-0": core(i) for i in range(4)}
    found = likeness.nearest(known["A2-0"].mirrored(0), known, left_right=0)
    assert found.name == "A2-0"
    assert (found.dice, found.correlation) == pytest.approx((1, 1), abs=1e-5)
    found = likeness.nearest(known["A2-0"].mirrored(1), known, left_right=0)
    assert found.correlation < 0.5  # a tumour upside down is another one


def test_the_same_shape_with_another_texture_is_no_copy():
    one = core(0)
    dice, correlation = likeness.alike(one, Core(one.inside, one.texture[:, ::-1]))
    assert dice == 1
    assert abs(correlation) < 0.3


def test_the_same_texture_in_half_of_the_shape_is_less_alike():
    whole = core(0)
    half = Core(whole.inside & (np.indices(whole.inside.shape)[0] < 10), whole.texture)
    assert likeness.alike(whole, half)[0] < 0.8


def test_every_modality_counts():
    one = core(0)
    half = Core(one.inside, np.stack([one.texture[0], one.texture[1][::-1]]))
    assert likeness.alike(one, half)[1] == pytest.approx(0.5, abs=0.2)


def test_flat_and_tiny_cores_have_no_texture_to_compare():
    flat = Core(np.ones((5, 5, 5), bool), np.zeros((1, 5, 5, 5), np.float32))
    assert likeness.alike(flat, flat) == (1, 0)
    tiny = Core(np.ones((2, 2, 2), bool), np.ones((1, 2, 2, 2), np.float32))
    assert likeness.alike(tiny, tiny) == (1, 0)
    assert likeness.nearest(flat, {}, 0) is None
