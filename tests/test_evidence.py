"""Failure detection: every planted fault is found, and a sound head passes."""

import numpy as np
import pytest
from heads import head, stretched_pose

from tumorfab import evidence, mni152
from tumorfab.volume import Volume


@pytest.fixture(scope="module")
def sound():
    return head(4.0)


def numbers(subject, **changed):
    scan = changed.get("scan", subject.scan)
    return evidence.measure(scan, scan, subject.mask, changed.get("truth", subject.truth))


def failures(found, modality="T1w"):
    return evidence.judge(found, modality, {})


def test_a_sound_head_passes(sound):
    assert failures(numbers(sound)) == ([], [])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_empty_slices_are_counted_along_any_axis(sound, axis):
    data = sound.scan.data.copy()
    middle = int(np.argwhere(sound.mask).mean(0)[axis])
    at = [slice(None)] * 3
    at[axis] = slice(middle, middle + 3)
    data[tuple(at)] = 0
    found = numbers(sound, scan=Volume(data, sound.scan.affine))
    assert found["empty_slices"] == 3
    assert failures(found)[0][0].startswith("empty slices inside the brain is 3, at most 0.5")


@pytest.mark.parametrize(("modality", "claimed"), [("T2w", "T1w"), ("T1w", "T2w")])
def test_another_modality_than_claimed_fails(modality, claimed):
    found = numbers(head(4.0, modality))
    failed, _ = failures(found, claimed)
    assert len(failed) == 2
    assert all("check whether it is the modality" in line for line in failed)
    assert failures(found, modality) == ([], [])


def test_noise_is_measured_in_units_of_contrast(sound):
    rng = np.random.default_rng(1)
    before = numbers(sound)["noise"]
    spread = np.subtract(*np.percentile(sound.scan.data[sound.mask], (75, 25))) / 1.349
    noisy = sound.scan.data + rng.normal(0, spread, sound.scan.data.shape)
    found = numbers(sound, scan=Volume(noisy.astype(np.float32), sound.scan.affine))
    assert before < 0.25
    assert found["noise"] > 0.6
    failed, flagged = failures(found)
    assert any(line.startswith("noise") for line in failed + flagged)


def test_stretch_and_lopsided_mask_are_seen(sound):
    stretched = stretched_pose((1.0, 1.0, 1.8))
    assert numbers(sound, truth=stretched)["stretch"] == pytest.approx(1.8, rel=0.01)
    half = sound.mask & (np.arange(sound.mask.shape[2]) > np.argwhere(sound.mask)[:, 2].mean())
    assert evidence.mirror_dice(Volume(half, sound.scan.affine), sound.truth) < 0.3
    assert evidence.mirror_dice(Volume(sound.mask, sound.scan.affine), sound.truth) > 0.95


def test_limits_of_the_config_replace_the_failing_range():
    found = {"brain_volume_ml": 1000.0}
    assert evidence.judge(found, "T1w", {}) == ([], [])
    failed, _ = evidence.judge(found, "T1w", {"brain_volume_ml": (1200, 1500)})
    assert failed == [
        "brain volume in ml is 1e+03, at least 1200 is expected; check spacing and brain mask"
    ]


def test_flags_are_not_failures():
    failed, flagged = evidence.judge({"template_brain_outside_view": 0.05}, "T1w", {})
    assert not failed
    assert flagged == [
        "share of the brain outside the field of view is 0.05, at most 0.01 is expected; "
        "check whether the scan is cropped"
    ]


def test_mirror_keeps_the_template():
    mask = mni152.template(4.0)
    assert evidence.mirror_dice(Volume(mask.mask, mask.t1.affine), evidence.mirror()) > 0.98
