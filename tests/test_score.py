"""score: Dice conventions, regions, the table of a run."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tumorfab import metrics, score
from tumorfab.stage import InputError
from tumorfab.volume import save

SHAPE = (4, 5, 3)
MASKS = hnp.arrays(bool, SHAPE)
LABELS = hnp.arrays(np.uint8, SHAPE, elements=st.integers(0, 3))


def mask(*voxels: int) -> np.ndarray:
    filled = np.zeros(SHAPE, bool)
    filled.flat[list(voxels)] = True
    return filled


@pytest.mark.parametrize(
    ("predicted", "reference", "expected"),
    [
        (mask(0, 1, 2, 3), mask(2, 3), 2 * 2 / 6),
        (mask(0, 1, 2), mask(1, 2, 3), 2 * 2 / 6),
        (mask(7), mask(7), 1.0),
        (mask(0, 1), mask(2, 3), 0.0),
        (mask(), mask(), 1.0),  # nothing to find, nothing claimed
        (mask(1), mask(), 0.0),  # invented
        (mask(), mask(1), 0.0),  # missed
    ],
)
def test_dice_of_known_masks(predicted: np.ndarray, reference: np.ndarray, expected: float) -> None:
    assert metrics.dice(predicted, reference) == pytest.approx(expected, abs=1e-12)


@given(MASKS, MASKS)
def test_dice_is_symmetric_and_within_0_and_1(a: np.ndarray, b: np.ndarray) -> None:
    value = metrics.dice(a, b)
    assert 0 <= value <= 1
    assert value == metrics.dice(b, a)
    assert (value == 1) == np.array_equal(a, b)
    assert (value == 0) == (not (a & b).any() and (a | b).any())


@given(MASKS, MASKS, st.permutations(range(60)))
def test_dice_does_not_care_where_the_voxels_are(
    a: np.ndarray, b: np.ndarray, order: list[int]
) -> None:
    assert metrics.dice(a.ravel()[order], b.ravel()[order]) == metrics.dice(a, b)


@given(MASKS, MASKS)
def test_finding_one_more_true_voxel_raises_dice(a: np.ndarray, b: np.ndarray) -> None:
    missed = np.flatnonzero(b & ~a)
    if len(missed):
        better = a.copy()
        better.flat[missed[0]] = True
        assert metrics.dice(better, b) > metrics.dice(a, b)


@given(LABELS)
def test_regions_are_nested_and_hold_their_labels(labels: np.ndarray) -> None:
    found = metrics.region_masks(labels)
    assert (found["ET"] <= found["TC"]).all()
    assert (found["TC"] <= found["WT"]).all()
    assert np.array_equal(found["WT"], labels > 0)
    assert np.array_equal(found["WT"] & ~found["TC"], labels == 2)
    assert np.array_equal(found["TC"] & ~found["ET"], labels == 1)


@settings(deadline=None, max_examples=50)
@given(LABELS, LABELS, st.floats(0.5, 3))
def test_volumes_grow_from_the_inner_to_the_outer_region(
    predicted: np.ndarray, truth: np.ndarray, edge: float
) -> None:
    rows = {row["region"]: row for row in score.case_scores(predicted, truth, np.full(3, edge))}
    voxel = edge**3
    for column in ("volume_ml", "predicted_ml"):
        assert rows["ET"][column] <= rows["TC"][column] <= rows["WT"][column]
    assert rows["WT"]["volume_ml"] == pytest.approx((truth > 0).sum() * voxel / 1000)
    assert rows["WT"]["predicted_ml"] == pytest.approx((predicted > 0).sum() * voxel / 1000)


def test_confused_classes_keep_the_whole_tumour() -> None:
    truth = np.zeros(SHAPE, np.uint8)
    truth[1:3] = 2
    predicted = np.where(truth, 1, 0).astype(np.uint8)
    assert metrics.region_dice(predicted, truth) == {"WT": 1.0, "TC": 0.0, "ET": 1.0}
    rows = {r["region"]: r for r in score.case_scores(predicted, truth, np.ones(3))}
    assert {name: row["dice"] for name, row in rows.items()} == {"WT": 1.0, "TC": 0.0, "ET": 1.0}
    assert rows["TC"]["hd95_mm"] == 374  # one of the two has none
    assert rows["ET"]["hd95_mm"] == 0  # neither has any


EMPTY, FULL = np.zeros(SHAPE, bool), np.ones(SHAPE, bool)


@pytest.mark.parametrize(
    ("predicted", "reference", "expected"),
    [
        (EMPTY, EMPTY, {"dice": 1, "hd95_mm": 0, "nsd_2mm": 1, "lesion_dice": 1}),
        (FULL, EMPTY, {"dice": 0, "hd95_mm": 374, "nsd_2mm": 0, "lesion_dice": 0}),
        (EMPTY, FULL, {"dice": 0, "hd95_mm": 374, "nsd_2mm": 0, "lesion_dice": 0}),
        (FULL, FULL, {"dice": 1, "hd95_mm": 0, "nsd_2mm": 1, "lesion_dice": 1}),
    ],
)
def test_every_metric_of_empty_regions(
    predicted: np.ndarray, reference: np.ndarray, expected: dict[str, float]
) -> None:
    found = score.region_scores(predicted, reference, np.ones(3))
    assert {name: found[name] for name in expected} == expected
    if reference.any():
        assert found["sensitivity"] == float(predicted.any())
    else:
        assert np.isnan(found["sensitivity"])


def test_sensitivity_is_the_share_of_the_annotation_that_is_found() -> None:
    found = score.region_scores(mask(0, 1, 2, 30), mask(1, 2, 3, 4), np.ones(3))
    assert found["sensitivity"] == 0.5
    assert (found["volume_ml"], found["predicted_ml"]) == (0.004, 0.004)


def test_scoring_loads_no_torch() -> None:
    program = "import sys, tumorfab.score; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


RUN = ["--arm", "tf", "--k", "4", "--n", "2", "--fold", "0", "--seed", "7"]
AFFINE = np.diag([-2.0, -2.0, 2.5, 1.0])  # LPS, voxels of 10 mm^3


def save_labels(path: Path, labels: np.ndarray, affine: np.ndarray = AFFINE) -> str:
    save(path, labels.astype(np.uint8), affine)
    return str(path)


def test_command_line_writes_a_row_per_case_and_region(tmp_path: Path) -> None:
    truth, predicted = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    truth[0, 0] = 3  # 3 voxels ET
    truth[1, 0] = 1  # 3 voxels NCR
    truth[2, 0] = 2  # 3 voxels ED
    predicted[0, 0] = 3
    predicted[1, 0] = 2
    files = [save_labels(tmp_path / f"{n}.nii.gz", x) for n, x in (("p", predicted), ("t", truth))]
    out = tmp_path / "deep" / "scores.csv"
    score.main(
        ["--case", "00006", *files, "--case", "B", files[1], files[1], *RUN, "--out", str(out)]
    )
    table = pd.read_csv(out, dtype={"case": str})
    assert table.columns.tolist() == score.COLUMNS
    assert table[["arm", "k", "n", "fold", "seed"]].drop_duplicates().values.tolist() == [
        ["tf", 4, 2, 0, 7]
    ]
    first = table[table["case"] == "00006"].set_index("region")
    assert first.index.tolist() == ["WT", "TC", "ET"]
    assert first["dice"].tolist() == pytest.approx([12 / 15, 6 / 9, 1.0], abs=1e-6)
    assert first["volume_ml"].tolist() == pytest.approx([0.09, 0.06, 0.03])
    assert first["predicted_ml"].tolist() == pytest.approx([0.06, 0.03, 0.03])
    assert table[table["case"] == "B"]["dice"].tolist() == [1.0, 1.0, 1.0]


def test_command_line_writes_the_same_bytes_again(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 4, SHAPE)
    files = [
        save_labels(tmp_path / f"{n}.nii.gz", x) for n, x in (("p", labels), ("t", labels[::-1]))
    ]
    for name in ("a.csv", "b.csv"):
        score.main(["--case", "A", *files, *RUN, "--out", str(tmp_path / name)])
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize("other", ["shape", "affine"])
def test_a_prediction_on_another_grid_is_refused(tmp_path: Path, other: str) -> None:
    truth = save_labels(tmp_path / "t.nii.gz", np.ones(SHAPE))
    if other == "shape":
        predicted = save_labels(tmp_path / "p.nii.gz", np.ones((4, 5, 4)))
    else:
        predicted = save_labels(tmp_path / "p.nii.gz", np.ones(SHAPE), np.diag([2.0, 2, 2.5, 1]))
    out = tmp_path / "scores.csv"
    with pytest.raises(InputError, match=r"p\.nii\.gz: is on another grid"):
        score.main(["--case", "A", predicted, truth, *RUN, "--out", str(out)])
    assert not out.exists()


def test_a_missing_prediction_is_named(tmp_path: Path) -> None:
    truth = save_labels(tmp_path / "t.nii.gz", np.ones(SHAPE))
    gone, out = str(tmp_path / "gone.nii.gz"), str(tmp_path / "s.csv")
    with pytest.raises(InputError, match=r"gone\.nii\.gz: no such file"):
        score.main(["--case", "A", gone, truth, *RUN, "--out", out])
