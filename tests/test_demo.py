"""demo and phantom: geometry, smoothness, classes, determinism, bad input."""

import ast
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from tumorfab import demo, phantom, stage, volume
from tumorfab.volume import Grid, Volume

ROOT = Path(__file__).parent.parent
CASES = ["TF-00001", "TF-00005", "TF-00010"]


@pytest.fixture(scope="module")
def heads() -> dict[str, dict[str, Volume]]:
    return {s: demo.healthy(s, 1, 6.0, ["T1w", "T2w"]) for s in demo.names(3, 0)[0]}


@pytest.fixture(scope="module")
def cases() -> dict[str, dict[str, Volume]]:
    return {s: demo.annotated(s, 1, 6.0, ["T1w", "T2w"]) for s in CASES}


@pytest.fixture(scope="module")
def brain() -> phantom.Brain:
    return phantom.deformed_brain(np.random.default_rng(3), 2, 0.93)


def test_names() -> None:
    assert demo.names(2, 1) == (["H01", "H02"], ["TF-00001"])


def test_smooth_reproduces_linear_functions() -> None:
    """A cubic B-spline with linear coefficients is that line; index 1 lies on the first voxel."""
    grid = Grid((9, 7, 5), np.diag([2.0, 3.0, 4.0, 1.0]))
    i, j, k = np.indices((10, 9, 8)) - 1
    found = phantom.smooth(1.0 * i - 2.0 * j + 0.5 * k, grid, 5.0)
    x, y, z = np.indices(grid.shape) * grid.spacing.reshape(3, 1, 1, 1) / 5.0
    np.testing.assert_allclose(found, x - 2 * y + 0.5 * z, atol=1e-5)


def test_jacobian_of_a_linear_map() -> None:
    x, y, z = 2.0 * np.indices((5, 6, 7))
    found = phantom.jacobian(np.stack([1.5 * x + 0.2 * y, 0.8 * y, z - 0.1 * x]), 2.0)
    np.testing.assert_allclose(found, 1.5 * 0.8, rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_deformation_is_a_diffeomorphism_of_a_few_mm(seed: int) -> None:
    step = 8.0
    moved = phantom.displacement(np.random.default_rng(seed), (30, 32, 34), step)
    here = step * np.indices(moved.shape[1:])
    assert phantom.jacobian(here + moved, step).min() > 0.3
    length = np.sqrt((moved**2).sum(0))
    assert 2 < np.sqrt((length**2).mean()) < 6
    assert length.max() < 20


def test_scaled_and_squared_velocity_inverts_with_its_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    """exp(v) after exp(-v) is the identity, up to interpolation on the lattice."""

    class Mirrored:
        def __init__(self, sign: int) -> None:
            self.sign, self.generator = sign, np.random.default_rng(5)

        def standard_normal(self, shape: tuple[int, ...]) -> np.ndarray:
            return self.sign * self.generator.standard_normal(shape)

        def uniform(self, low: float, high: float) -> float:
            return (low + high) / 2

    step, shape = 8.0, (24, 26, 28)
    forth, back = (phantom.displacement(Mirrored(s), shape, step) for s in (1, -1))
    here = np.indices(shape).astype(float)
    there = here + back / step
    composed = back + np.stack(
        [ndimage.map_coordinates(c, there, order=1, mode="nearest") for c in forth]
    )
    inner = composed[:, 4:-4, 4:-4, 4:-4]
    assert np.abs(inner).max() < 0.15 * np.abs(forth).max()


def test_rotation_is_rigid_and_turns_the_right_way() -> None:
    turn = phantom.rotation((0, 0, 90))
    np.testing.assert_allclose(turn @ [1, 0, 0, 1], [0, 1, 0, 1], atol=1e-12)
    turn = phantom.rotation((10, -20, 30))
    np.testing.assert_allclose(turn @ turn.T, np.eye(4), atol=1e-12)


def test_brain_is_plausible(brain: phantom.Brain) -> None:
    ml = brain.mm**3 / 1000
    assert 1100 < brain.mask.sum() * ml < 2000
    assert (brain.grey + brain.white).max() < 1.01
    jac = phantom.jacobian(brain.at, brain.mm)
    assert jac[brain.mask > 0.5].min() > 0.2
    # Neck and scalp fit: the brain keeps clear of every side of the grid.
    assert all(c.min() > 10 for c in np.argwhere(brain.mask > 0.5).T)


def test_head_is_layered_from_the_brain_outwards(brain: phantom.Brain) -> None:
    layers = phantom.head_layers(np.random.default_rng(0), brain)
    mean = demo.BRIGHTNESS["T1w"]
    image = np.zeros(brain.grid.shape, np.float32)
    for kind, share in layers:
        assert share.min() >= 0, kind
        assert share.max() <= 1.01, kind
        image += share * (mean[kind] - image)
    x, y, z = brain.at
    column = np.unravel_index(np.hypot(x, y + 20).argmin(), x.shape)[:2]  # up to the crown
    cortex = np.flatnonzero(brain.grey[column] > 0.3)[-1]
    outward = image[column][cortex:]
    scalp = outward.argmax()
    assert outward[scalp] > 0.8
    assert (outward[-3:] == 0).all()
    assert outward[:scalp].min() < 0.2 < mean["CSF"], "no dark skull between brain and scalp"
    assert 4 < scalp * brain.mm < 25
    neck = z < -100
    assert 300 < (image[neck] > 0.2).sum() * 0.008 < 1500  # ml
    assert (image[z > 110] == 0).all()


def test_healthy_scans_differ_in_header_and_pose(heads: dict[str, dict[str, Volume]]) -> None:
    assert len({"".join(nib.aff2axcodes(h["_T1w"].affine)) for h in heads.values()}) > 1
    affines = [h["_T1w"].affine for h in heads.values()]
    assert not np.allclose(affines[0], affines[1])
    for scans in heads.values():
        assert sorted(scans) == ["_T1w", "_T2w"]
        grid = scans["_T1w"].grid
        assert grid.matches(scans["_T2w"].grid)
        np.testing.assert_allclose(grid.spacing, 6.0)
        assert sorted(grid.shape) == [32, 40, 40]


def test_head_does_not_touch_the_sides_but_the_neck_leaves_below(
    heads: dict[str, dict[str, Volume]],
) -> None:
    for subject, scans in heads.items():
        scan = nib.as_closest_canonical(
            nib.Nifti1Image(scans["_T1w"].data, scans["_T1w"].affine)
        ).get_fdata()
        head = scan > 0.2 * np.percentile(scan, 95)
        assert head[:, :, 0].mean() > 0.05, subject
        for face in (head[0], head[-1], head[:, 0], head[:, -1], head[:, :, -1]):
            assert face.mean() < 0.02, subject


def test_annotated_cases_share_one_stripped_grid(cases: dict[str, dict[str, Volume]]) -> None:
    first = cases[CASES[0]]["-seg"].grid
    assert nib.aff2axcodes(first.affine) == ("L", "P", "S")
    for made in cases.values():
        assert sorted(made) == ["-seg", "-t1n", "-t2w"]
        for scan in made.values():
            assert scan.grid.matches(first)
        brain = made["-t1n"].data > 0
        assert 1100 < brain.sum() * first.voxel_volume / 1000 < 2000
        assert ((made["-t2w"].data > 0) == brain).all()
        for face in (brain[0], brain[-1], brain[:, 0], brain[:, -1], brain[..., 0], brain[..., -1]):
            assert not face.any()
        assert brain[made["-seg"].data > 0].all()


def test_tumours_have_their_classes_and_size(cases: dict[str, dict[str, Volume]]) -> None:
    classes = {"TF-00001": {1, 2, 3}, "TF-00005": {2, 3}, "TF-00010": {1, 2}}
    for subject, made in cases.items():
        seg = made["-seg"].data
        assert set(np.unique(seg)) - {0} == classes[subject], subject
        assert 3 < np.count_nonzero(seg) * 0.216 < 100


@pytest.mark.parametrize("spacing", [3.0, 8.0])
def test_labels_agree_with_what_is_seen(spacing: float) -> None:
    made = demo.annotated("TF-00001", 2, spacing, ["T1w", "T2w"])
    t1, t2, seg = (made[k].data for k in ("-t1n", "-t2w", "-seg"))
    far = (t1 > 0) & ~ndimage.binary_dilation(seg > 0, iterations=2)
    white = np.median(t1[far])
    assert np.median(t1[seg == 1]) < np.median(t1[seg == 2]) < white
    assert np.median(t1[seg == 1]) < np.median(t1[seg == 3])
    assert np.median(t2[seg == 1]) > np.median(t2[seg == 3]) > np.median(t2[far])
    assert np.median(t2[seg == 2]) > 1.2 * np.median(t2[far])


def test_modality_does_not_depend_on_its_company_but_on_the_seed(
    heads: dict[str, dict[str, Volume]],
) -> None:
    with_t1 = heads["H01"]["_T2w"].data
    np.testing.assert_array_equal(demo.healthy("H01", 1, 6.0, ["T2w"])["_T2w"].data, with_t1)
    other = demo.healthy("H01", 2, 6.0, ["T2w"])["_T2w"].data
    assert other.shape != with_t1.shape or not np.allclose(other, with_t1)


def test_same_seed_same_bytes(
    heads: dict[str, dict[str, Volume]], cases: dict[str, dict[str, Volume]], tmp_path: Path
) -> None:
    for cohort, subject, prefix, made in (
        ("healthy", "H01", "sub-", heads["H01"]),
        ("annotated", "TF-00001", "", cases["TF-00001"]),
    ):
        options = ["--cohort", cohort, "--subject", subject, "--seed", "1", "--spacing", "6"]
        out = tmp_path / cohort
        demo.main([*options, "--modalities", "T1w", "T2w", "--out", str(out)])
        expected = tmp_path / "expected.nii.gz"
        names = {f"{prefix}{subject}{suffix}.nii.gz": v for suffix, v in made.items()}
        assert sorted(p.name for p in out.iterdir()) == sorted(names)
        for name, scan in names.items():
            volume.save(expected, scan.data, scan.affine)
            assert (out / name).read_bytes() == expected.read_bytes(), name


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--subject", "../H01", "--subject: '../H01' does not match"),
        ("--subject", "TF-00001", "--subject: 'TF-00001' does not match"),
        ("--spacing", "0.5", "--spacing: is 0.5 mm; give 1 to 8"),
        ("--spacing", "nan", "--spacing: is nan mm; give 1 to 8"),
        ("--seed", "-1", "--seed: is -1; give 0 or more"),
    ],
)
def test_bad_input_is_refused(option: str, value: str, message: str, tmp_path: Path) -> None:
    options = {"--cohort": "healthy", "--subject": "H01", "--seed": "1", "--spacing": "8"}
    options |= {option: value, "--out": str(tmp_path / "out")}
    with pytest.raises(stage.InputError) as caught:
        demo.main([f"{k}={v}" for k, v in options.items()])
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("module", ["demo", "phantom", "growth"])
def test_tumours_are_not_made_by_the_code_under_test(module: str) -> None:
    tree = ast.parse((ROOT / "tumorfab" / f"{module}.py").read_text(encoding="utf-8"))
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", "") or "", *(a.name for a in node.names)]
    }
    parts = {part for name in imported for part in name.split(".")}
    assert parts.isdisjoint({"bank", "place", "torch", "monai"})
    assert "tumorfab" in parts or module == "growth"
