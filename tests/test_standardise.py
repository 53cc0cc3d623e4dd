import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from heads import Head, dice, error_mm, head, pose
from hypothesis import given
from hypothesis import strategies as st

from tumorfab import brain, mni152, register, resample, standardise, template, tissue, volume
from tumorfab.stage import InputError, write_json
from tumorfab.volume import Volume


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A template from one annotated case A, and a healthy subject H, both preprocessed."""
    folder = tmp_path_factory.mktemp("study")
    for name, subject in (("A", annotated()), ("H", head(4.0, stripped=True))):
        stem = f"{folder}/{name}/sub-{name}"
        volume.save(f"{stem}_desc-N4_T1w.nii.gz", subject.scan.data, subject.scan.affine)
        volume.save(f"{stem}_desc-brain_mask.nii.gz", subject.mask, subject.scan.affine)
    xfm = f"{folder}/H/sub-H_from-T1w_to-{mni152.SPACE}_mode-image_xfm.txt"
    sitk.WriteTransform(pose(), xfm)
    for name, space in (("A", "shared"), ("H", "native")):
        write_json(folder / name / f"sub-{name}_desc-preproc.json", {"space": space})
    make_template(folder)
    return folder


def annotated() -> Head:
    """A stripped brain in a space of its own, away from the healthy subject's."""
    base = head(4.0, stripped=True)
    affine = base.scan.affine.copy()
    affine[:3, 3] += [85, 102, 50]
    shift = sitk.TranslationTransform(3, (-85.0, -102.0, 50.0))  # ITK's axes are LPS
    return Head(Volume(base.scan.data, affine), base.mask, register.compose(base.truth, shift))


def make_template(folder: Path, spacing: float = 0, label: str = "S") -> None:
    stem = folder / "A" / "sub-A_desc-"
    template.main(
        ["--image", f"A={stem}N4_T1w.nii.gz", "--mask", f"{stem}brain_mask.nii.gz",
         "--label", label, "--spacing", str(spacing), "--modality", "T1w",
         "--out", str(folder / "template")]
    )  # fmt: skip


def arguments(folder: Path, name: str, cohort: str, *more: str) -> list[str]:
    return [
        "--subject", name, "--cohort", cohort, "--modality", "T1w", "--anat", str(folder / name),
        "--template", str(folder / "template"), "--label", "S",
        "--params", json.dumps({"deformable": False}), *more,
    ]  # fmt: skip


def write_seg(folder: Path, *values: int) -> Path:
    subject = annotated()
    labels = np.zeros(subject.mask.shape, np.uint8)
    for at, value in enumerate(values):
        labels[30 + at, 30:33, 20:24] = value
    path = folder / f"seg{''.join(map(str, values))}.nii.gz"
    volume.save(path, labels, subject.scan.affine)
    return path


def test_template_lies_on_the_cases(study):
    subject = annotated()
    folder = study / "template"
    found = sitk.ReadTransform(str(template.transform_path(folder, "S")))
    assert error_mm(found.GetInverse(), subject.truth) < 1
    mask = volume.load_on(folder / "template_space-S_desc-brain_mask.nii.gz", subject.scan.grid) > 0
    assert dice(mask, subject.mask) > 0.97
    total = sum(
        volume.load_on(folder / f"template_space-S_label-{name}_probseg.nii.gz", subject.scan.grid)
        for name in tissue.CLASSES
    )
    assert np.allclose(total[mask], 1, atol=1e-3)
    assert np.all(total[~mask] == 0)
    assert json.loads((folder / "template.json").read_text())["correlation"] > 0.9


def test_coarser_analysis_grid(study):
    make_template(study, spacing=8.0, label="coarse")
    grid = volume.load_grid(study / "template" / "template_space-coarse_T1w.nii.gz")
    assert grid.matches(annotated().scan.grid.coarsened(8.0))


def test_template_refuses_what_is_no_brain(study, tmp_path):
    subject = annotated()
    noise = np.random.default_rng(0).random(subject.mask.shape).astype(np.float32) + 1
    slab = np.zeros_like(subject.mask)
    slab[:, :12] = True
    (tmp_path / "A").mkdir()
    affine = subject.scan.affine
    volume.save(tmp_path / "A" / "sub-A_desc-N4_T1w.nii.gz", np.where(slab, noise, 0), affine)
    volume.save(tmp_path / "A" / "sub-A_desc-brain_mask.nii.gz", slab, affine)
    with pytest.raises(InputError, match="MNI152 could not be aligned to the training cases"):
        make_template(tmp_path)
    assert not (tmp_path / "template").exists()


def test_template_needs_a_mask_for_each_image(study):
    image = study / "A" / "sub-A_desc-N4_T1w.nii.gz"
    with pytest.raises(InputError, match="1 masks for 2 images"):
        template.main(
            ["--image", f"A={image}", "--image", f"B={image}", "--label", "S", "--out", str(study),
             "--mask", str(study / "A" / "sub-A_desc-brain_mask.nii.gz")]
        )  # fmt: skip


def test_annotated_voxels_are_untouched(study):
    seg = write_seg(study, 1, 2, 4)
    standardise.main(arguments(study, "A", "annotated", "--seg", str(seg)))
    subject = annotated()
    stem = f"{study}/A/sub-A_space-S"
    image = volume.load_on(f"{stem}_desc-preproc_T1w.nii.gz", subject.scan.grid)
    native = volume.load(study / "A" / "sub-A_desc-N4_T1w.nii.gz").data
    scale = json.loads(Path(f"{stem}_desc-preproc.json").read_text())["intensity"]["T1w"]
    mask = volume.load_on(f"{stem}_desc-brain_mask.nii.gz", subject.scan.grid) > 0
    assert np.array_equal(mask, subject.mask)
    assert np.all(image[~mask] == 0)
    assert np.allclose(image[mask] * scale["scale"] + scale["centre"], native[mask], atol=0.1)
    labels = volume.load_labels(f"{stem}_dseg.nii.gz").data
    expected = volume.load_labels(seg).data
    assert np.array_equal(labels, np.where(expected == 4, 3, expected))


def test_healthy_arrives_in_the_space_of_the_cases(study):
    standardise.main(arguments(study, "H", "healthy"))
    stem, grid = f"{study}/H/sub-H_space-S", annotated().scan.grid
    mask = volume.load_on(f"{stem}_desc-brain_mask.nii.gz", grid) > 0
    assert dice(mask, annotated().mask) > 0.97
    image = volume.load_on(f"{stem}_desc-preproc_T1w.nii.gz", grid)
    both = mask & annotated().mask
    assert np.corrcoef(image[both], annotated().scan.data[both])[0, 1] > 0.95
    total = sum(
        volume.load_on(f"{stem}_label-{name}_probseg.nii.gz", grid) for name in tissue.CLASSES
    )
    assert np.allclose(total[mask], 1, atol=1e-3)
    assert not Path(f"{stem}_dseg.nii.gz").exists()


def test_deformed_priors_move_no_scan(study, tmp_path):
    standardise.main(arguments(study, "H", "healthy"))
    (tmp_path / "template").symlink_to(study / "template")
    (tmp_path / "H").mkdir()
    for path in (study / "H").iterdir():
        if "space-S" not in path.name:
            (tmp_path / "H" / path.name).symlink_to(path)
    args = arguments(tmp_path, "H", "healthy")
    args[args.index("--params") + 1] = json.dumps({"deformable": True})
    standardise.main(args)
    linear, deformed = (folder / "H" / "sub-H_space-S" for folder in (study, tmp_path))
    for name in ("desc-preproc_T1w", "desc-brain_mask"):
        assert Path(f"{linear}_{name}.nii.gz").read_bytes() == (
            Path(f"{deformed}_{name}.nii.gz").read_bytes()
        )
    one, two = (
        volume.load(f"{stem}_label-GM_probseg.nii.gz").data > 0.5 for stem in (linear, deformed)
    )
    assert not np.array_equal(one, two)
    assert dice(one, two) > 0.9  # the template lies on itself: there is little to deform


def test_labels_beyond_brats(study):
    seg = write_seg(study, 1, 5)
    with pytest.raises(InputError, match=r"seg15.nii.gz: has labels 5 outside 0..4"):
        standardise.main(arguments(study, "A", "annotated", "--seg", str(seg)))


def test_seg_goes_with_annotated_cases_only(study):
    with pytest.raises(InputError, match="--seg: needed for annotated"):
        standardise.main(arguments(study, "A", "annotated"))


def test_missing_transform(study, tmp_path):
    (tmp_path / "template").symlink_to(study / "template")
    (tmp_path / "H").mkdir()
    mask = study / "H" / "sub-H_desc-brain_mask.nii.gz"
    for path in (mask, mask.with_name("sub-H_desc-preproc.json")):
        (tmp_path / "H" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=r"mode-image_xfm.txt: no such file"):
        standardise.main(arguments(tmp_path, "H", "healthy"))


@given(gain=st.floats(0.1, 1000), offset=st.floats(-100, 100))
def test_normalisation_removes_gain_and_offset_and_can_be_undone(gain, offset):
    image = np.random.default_rng(0).normal(10, 3, (9, 8, 7))
    mask = np.zeros(image.shape, bool)
    mask[1:8, 1:7, 1:6] = True
    plain, _ = standardise.normalise(image, mask)
    scaled, undo = standardise.normalise(gain * image + offset, mask)
    assert np.allclose(plain, scaled, atol=1e-3)
    assert np.all(scaled[~mask] == 0)
    back = scaled * undo["scale"] + undo["centre"]
    assert np.allclose(back[mask], (gain * image + offset)[mask], rtol=1e-4, atol=1e-3 * gain)


def test_normalisation_needs_a_brain():
    flat = np.ones((4, 4, 4))
    with pytest.raises(ValueError, match="no brain"):
        standardise.normalise(flat, flat > 1)
    with pytest.raises(ValueError, match="one intensity"):
        standardise.normalise(flat, flat > 0)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("modality", "ending"), [("T1w", "t1"), ("T1c", "t1ce"), ("T2w", "t2"), ("FLAIR", "flair")]
)
def test_template_on_brats(real_data, modality, ending):
    scans = [
        volume.load(real_data / "tumour_brats2021" / case / f"{case}_{ending}.nii.gz")
        for case in ("BraTS2021_00006", "BraTS2021_00495", "BraTS2021_01476", "BraTS2021_01478")
    ]
    masks = [brain.stripped(scan) for scan in scans]
    mask = np.mean(masks, axis=0) >= 0.5
    mean = Volume(template.mean_brain([scan.data for scan in scans], masks), scans[0].affine)
    found = template.align(mean, mask, modality)
    back = sitk.AffineTransform(found.transform.GetInverse())
    assert brain.agreement(mean, back, brain.AROUND_MM) > 0.8
    # Aligned without the brain's edge the template came out a sixth too small.
    assert dice(template.warped(found.transform, mean.grid)["mask"], mask) > 0.92


def test_a_label_map_goes_to_the_native_scan_and_back(study, tmp_path):
    standardise.main(arguments(study, "H", "healthy"))
    healthy, results = head(4.0, stripped=True), tmp_path / "results"
    (results / "sub-H").mkdir(parents=True)
    (results / "sub-H" / "anat").symlink_to(study / "H")
    (results / "template").symlink_to(study / "template")
    where = study / "H" / "sub-H_space-S_desc-brain_mask.nii.gz"
    shared = ["--results", str(results), "--subject", "H", "--modality", "T1w", "--label", "S"]
    native, again = tmp_path / "native.nii.gz", tmp_path / "again.nii.gz"
    resample.main([str(where), str(native), "--inverse", *shared])
    carried = volume.load_labels(native)
    assert carried.grid.matches(healthy.scan.grid)
    assert dice(carried.data > 0, healthy.mask) > 0.97
    resample.main([str(native), str(again), *shared])
    there = volume.load_labels(where)
    assert volume.load_labels(again).grid.matches(there.grid)
    assert dice(volume.load_labels(again).data > 0, there.data > 0) > 0.97


def test_a_case_of_the_analysis_space_is_carried_as_it_is(study, tmp_path):
    seg = write_seg(study, 1, 2, 3)
    results = tmp_path / "results"
    (results / "sub-A").mkdir(parents=True)
    (results / "sub-A" / "anat").symlink_to(study / "A")
    (results / "template").symlink_to(study / "template")
    out = tmp_path / "out.nii.gz"
    resample.main(
        [str(seg), str(out), "--inverse", "--results", str(results), "--subject", "A",
         "--modality", "T1w", "--label", "S"]
    )  # fmt: skip
    assert np.array_equal(volume.load_labels(out).data, volume.load_labels(seg).data)


def test_without_cases_the_analysis_space_is_mni(tmp_path):
    template.main(["--label", "S", "--spacing", "4", "--out", str(tmp_path)])
    mask = volume.load_labels(tmp_path / "template_space-S_desc-brain_mask.nii.gz")
    assert np.allclose(mask.grid.spacing, 4)
    assert mask.data.sum() * 64 == pytest.approx(mni152.template().mask.sum(), rel=0.02)
    to_mni = sitk.ReadTransform(str(template.transform_path(tmp_path, "S")))
    assert to_mni.TransformPoint((10.0, 20.0, 30.0)) == (10.0, 20.0, 30.0)
