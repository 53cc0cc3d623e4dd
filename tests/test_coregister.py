"""Co-registration of modalities: it finds what moved, and knows when it did not."""

import numpy as np
import pytest
from heads import head

from tumorfab import brain, coregister, demo
from tumorfab.brain import Extraction
from tumorfab.volume import Volume


def lopsided(modality: str) -> tuple[Volume, Extraction]:
    """A head with a bright mass on one side, so that left and right can be told apart."""
    subject = head(4.0, modality)
    data = subject.scan.data.copy()
    where = np.argwhere(subject.mask)
    middle = np.quantile(where, [0.5, 0.5, 0.75], axis=0).diagonal()
    near = np.linalg.norm(where - middle, axis=1) < 5
    data[tuple(where[near].T)] = 320
    found = Extraction(subject.mask, subject.truth, 1.0, 0.0, 0.0)
    return Volume(data, subject.scan.affine), found


def test_it_does_not_stray_where_voxels_are_few():
    # At 9 mm this head's T2w once wandered off by 38 mm.
    t1, t2 = demo.healthy("H04", 1, 3.0, ["T1w", "T2w"]).values()
    found = brain.extract(t1, "T1w")
    moved = coregister.align(t1, t2, found.mask)
    assert np.linalg.norm(moved.TransformPoint((0.0, 0.0, 0.0))) < 3
    numbers = coregister.agreement(t1, t2, found, moved)
    assert numbers["aligned"] > numbers["displaced"] + 0.2
    assert coregister.fault(numbers) == ""


@pytest.mark.parametrize("swap", [False, True])
def test_left_and_right_swapped_between_modalities(swap):
    reference, found = lopsided("T1w")
    other, _ = lopsided("T2w")
    if swap:  # K runs to the right
        other = Volume(other.data[:, :, ::-1].copy(), other.affine)
    moved = coregister.align(reference, other, found.mask)
    fault = coregister.fault(coregister.agreement(reference, other, found, moved))
    assert fault == ("it agrees better with left and right swapped" if swap else "")


def test_a_better_fit_elsewhere_is_a_fault():
    numbers = {"aligned": 0.5, "displaced": 0.6, "mirrored": 0.1}
    assert coregister.fault(numbers) == "it agrees better 6 mm away"
