import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from heads import dice, error_mm, head, pose

from tumorfab import brain, mni152, preprocess, register, volume
from tumorfab.stage import InputError
from tumorfab.volume import Volume

PARAMS = {"n4_shrink_mm": 4.0, "min_correlation": 0.8, "brain_volume_ml": [900, 2100]}


def arguments(
    folder: Path, cohort: str, method: str, scans: dict[str, Volume], **params
) -> list[str]:
    space = "shared" if cohort == "annotated" else "native"
    args = ["--subject", "X", "--cohort", cohort, "--space", space, "--brain", method,
            "--out", str(folder / "out")]  # fmt: skip
    for modality, scan in scans.items():
        path = folder / f"{modality}.nii.gz"
        volume.save(path, scan.data, scan.affine)
        args += ["--image", f"{modality}={path}"]
    return [*args, "--params", json.dumps(PARAMS | params)]


def moved() -> sitk.AffineTransform:
    """The pose after the head moved between two scans."""
    step = sitk.AffineTransform(3)
    step.Rotate(0, 1, np.deg2rad(2))
    step.SetTranslation((3.0, -2.0, 1.0))
    return register.compose(pose(), step)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("healthy")
    scans = {"T1w": head(4.0).scan, "T2w": head(4.0, "T2w", moved()).scan}
    preprocess.main(arguments(folder, "healthy", "registration", scans))
    return folder / "out"


def test_healthy_files(healthy):
    assert {path.name for path in healthy.iterdir()} == {
        "sub-X_desc-N4_T1w.nii.gz",
        "sub-X_desc-N4_T2w.nii.gz",
        "sub-X_desc-brain_mask.nii.gz",
        "sub-X_from-T1w_to-MNI152NLin2009aSym_mode-image_xfm.txt",
        "sub-X_from-T2w_to-MNI152NLin2009aSym_mode-image_xfm.txt",
        "sub-X_desc-preproc.json",
    }
    mask = volume.load_labels(healthy / "sub-X_desc-brain_mask.nii.gz").data > 0
    assert dice(mask, head(4.0).mask) > 0.93


@pytest.mark.parametrize(("modality", "truth"), [("T1w", pose()), ("T2w", moved())])
def test_each_modality_gets_its_own_transform(healthy, modality, truth):
    name = f"sub-X_from-{modality}_to-{mni152.SPACE}_mode-image_xfm.txt"
    assert error_mm(sitk.ReadTransform(str(healthy / name)), truth) < 2


def test_evidence(healthy):
    evidence = json.loads((healthy / "sub-X_desc-preproc.json").read_text())
    assert evidence["correlation_with_template"] > 0.85
    together = evidence["coregistration"]["T2w"]
    assert together["aligned"] > together["displaced"]
    assert 1200 < evidence["brain_volume_ml"] < 1700
    assert evidence["template_brain_outside_view"] == 0
    low, high = evidence["bias_field"]["T1w"]
    assert low < 1 < high


def test_same_bytes_with_any_number_of_threads(healthy, tmp_path):
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    try:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(3 if threads != 3 else 2)
        scans = {"T1w": head(4.0).scan, "T2w": head(4.0, "T2w", moved()).scan}
        preprocess.main(arguments(tmp_path, "healthy", "registration", scans))
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    for path in healthy.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name


def test_known_bias_is_removed():
    subject = head(4.0, stripped=True)
    z = np.linspace(-0.3, 0.3, subject.mask.shape[1])[None, :, None]
    field = np.exp(z + 0.2 * z**2).astype(np.float32)
    biased = Volume(subject.scan.data * field, subject.scan.affine)
    found = preprocess.correct_bias(biased, subject.mask, 4.0)
    # What N4 makes of the anatomy alone is not the field's: compare with and without it.
    plain = preprocess.correct_bias(subject.scan, subject.mask, 4.0)
    removed, own = (
        np.log(before.data[subject.mask] / after.image.data[subject.mask])
        for before, after in ((biased, found), (subject.scan, plain))
    )
    assert removed.mean() == pytest.approx(0, abs=1e-4)
    known = np.log((field + 0 * biased.data)[subject.mask])
    assert np.corrcoef(removed - own, known)[0, 1] > 0.95
    assert np.polyfit(known, removed - own, 1)[0] > 0.7
    assert np.array_equal(found.image.data == 0, biased.data == 0)


def test_annotated_is_not_resampled(tmp_path):
    subject = head(4.0, stripped=True)
    preprocess.main(arguments(tmp_path, "annotated", "none", {"T1w": subject.scan}))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "sub-X_desc-N4_T1w.nii.gz", "sub-X_desc-brain_mask.nii.gz", "sub-X_desc-preproc.json",
    }  # fmt: skip
    image = volume.load(tmp_path / "out" / "sub-X_desc-N4_T1w.nii.gz")
    assert image.grid.matches(subject.scan.grid)
    assert np.array_equal(image.data == 0, ~subject.mask)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"min_correlation": 1.0}, r"sub-X: .*T1w.nii.gz: correlation with the template is 0\.\d+"),
        ({"brain_volume_ml": [100, 200]}, r"sub-X: .*T1w.nii.gz: brain volume in ml is \d+"),
    ],
)
def test_implausible_healthy_scan(tmp_path, params, message):
    scans = {"T1w": head(6.0, stripped=True).scan}
    with pytest.raises(InputError, match=message):
        preprocess.main(arguments(tmp_path, "healthy", "none", scans, **params))
    assert not (tmp_path / "out").exists()


def test_noise_is_no_brain(tmp_path):
    noise = np.random.default_rng(0).random((40, 40, 40)).astype(np.float32)
    scans = {"T1w": Volume(noise, np.diag([6.0, 6, 6, 1]))}
    with pytest.raises(InputError, match=r"sub-X: .*T1w.nii.gz: "):
        preprocess.main(arguments(tmp_path, "healthy", "registration", scans))
    assert not (tmp_path / "out").exists()


def test_a_tumour_takes_no_part_in_the_alignment(tmp_path):
    subject = head(4.0, stripped=True)
    centre = np.argwhere(subject.mask).mean(0) + np.array([5, -6, 8])
    index = np.indices(subject.mask.shape).reshape(3, -1).T
    tumour = (np.linalg.norm(index - centre, axis=1) < 9).reshape(subject.mask.shape)
    # A mass brighter than anything else, and displaced tissue's worth of it.
    scan = Volume(np.where(tumour & subject.mask, 900, subject.scan.data), subject.scan.affine)
    seen = error_mm(brain.locate(scan, subject.mask, "T1w").transform, subject.truth)
    assert seen > 2  # or the tumour was no hindrance
    args = arguments(tmp_path, "annotated", "none", {"T1w": scan})
    args[args.index("shared")] = "native"
    volume.save(tmp_path / "seg.nii.gz", tumour.astype(np.uint8), scan.affine)
    preprocess.main([*args, "--seg", str(tmp_path / "seg.nii.gz")])
    xfm = tmp_path / "out" / f"sub-X_from-T1w_to-{mni152.SPACE}_mode-image_xfm.txt"
    assert error_mm(sitk.ReadTransform(str(xfm)), subject.truth) < 0.8 * seen


def test_annotated_with_skull(tmp_path):
    with pytest.raises(InputError, match=r"sub-X: .*T1w.nii.gz: not skull-stripped"):
        preprocess.main(arguments(tmp_path, "annotated", "none", {"T1w": head(6.0).scan}))
    assert not (tmp_path / "out").exists()


def test_annotated_modalities_on_two_grids(tmp_path):
    scans = {m: head(mm, m, stripped=True).scan for m, mm in (("T1w", 4.0), ("T2w", 6.0))}
    with pytest.raises(InputError, match=r"T2w.nii.gz: is on another grid than .*T1w.nii.gz"):
        preprocess.main(arguments(tmp_path, "annotated", "none", scans))


def test_annotated_needs_method_none(tmp_path):
    scans = {"T1w": head(6.0, stripped=True).scan}
    with pytest.raises(InputError, match="--brain: scans in a shared space are stripped already"):
        preprocess.main(arguments(tmp_path, "annotated", "registration", scans))


def test_spacing_of_another_unit_is_said(tmp_path):
    scan = head(4.0).scan
    scans = {"T1w": Volume(scan.data, scan.affine @ np.diag([0.1, 0.1, 0.1, 1.0]))}
    with pytest.raises(
        InputError, match=r"T1w.nii.gz: its field of view is 26 x 26 x 21 mm, 60 to"
    ):
        preprocess.main(arguments(tmp_path, "healthy", "registration", scans))
