"""Ingest: every kind of bad input is named, all of it at once, and the split is what it says."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tumorfab import ingest, sources, split
from tumorfab.stage import InputError

SHAPE = (12, 14, 10)


def nifti(path: Path, data: NDArray[Any], affine: NDArray[Any] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine)
    nib.save(image, path)
    return path


def head(seed: int = 0) -> NDArray[np.float32]:
    """A block of brain in a background of exact zero."""
    data = np.zeros(SHAPE, np.float32)
    data[3:9, 3:11, 2:8] = np.random.default_rng(seed).uniform(50, 150, (6, 8, 6))
    return data


def tumour(*values: int) -> NDArray[np.uint8]:
    data = np.zeros(SHAPE, np.uint8)
    for place, value in enumerate(values):
        data[4 + place, 5, 4] = value
    return data


class Study:
    """Three healthy scans (BIDS) and four annotated cases (BraTS 2023 names) below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.healthy, self.annotated = root / "healthy", root / "annotated"
        self.params: dict[str, Any] = {
            "seed": 1,
            "modalities": ["T1w"],
            "healthy": self.section("bids", self.healthy) | {"brain": "registration"},
            "annotated": self.section("brats", self.annotated)
            | {"space": "shared", "brain": "none"},
            "ingest": {"on_error": "stop"},
            "split": {"train": 2, "validation": 1, "folds": 1, "file": ""},
        }
        for number in range(3):
            nifti(self.t1(f"H{number}"), head(number))
        for number in range(4):
            nifti(self.t1n(f"TF-{number}"), head(10 + number))
            nifti(self.seg(f"TF-{number}"), tumour(1, 2, 3))

    @staticmethod
    def section(source: str, path: Path) -> dict[str, Any]:
        return {"source": source, "path": str(path), "licence": f"licence of {path.name}"}

    def t1(self, subject: str) -> Path:
        return self.healthy / f"sub-{subject}" / "anat" / f"sub-{subject}_T1w.nii.gz"

    def t1n(self, case: str) -> Path:
        return self.annotated / case / f"{case}-t1n.nii.gz"

    def seg(self, case: str) -> Path:
        return self.annotated / case / f"{case}-seg.nii.gz"

    def table(self, text: str, name: str = "cohort.csv") -> Path:
        path = self.root / name
        path.write_text(text, encoding="utf-8")
        return path

    def run(self) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        """Rows of subjects.tsv and skipped.tsv, by way of the command line."""
        subjects, skipped = self.root / "out" / "subjects.tsv", self.root / "out" / "skipped.tsv"
        ingest.main(
            [
                *("--params", json.dumps(self.params)),
                *("--subjects", str(subjects)),
                *("--skipped", str(skipped)),
            ]
        )
        return (
            ingest.read_subjects(subjects).to_dict("records"),  # type: ignore[return-value]
            ingest.read_subjects(skipped).to_dict("records"),
        )

    def problems(self) -> list[str]:
        """The lines of the error, without the first, which must give their number."""
        with pytest.raises(InputError) as caught:
            self.run()
        first, *lines = str(caught.value).splitlines()
        assert first.startswith(f"{len(lines)} problem")
        assert not (self.root / "out").exists(), "a refused cohort must leave nothing behind"
        return lines

    def problem(self) -> str:
        (line,) = self.problems()
        return line


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def roles(rows: list[dict[str, str]]) -> dict[str, str]:
    return {row["subject"]: row["role"] for row in rows if row["cohort"] == "annotated"}


# What goes through


def test_a_sound_study_gives_hosts_first_and_then_the_split(study: Study) -> None:
    rows, skipped = study.run()
    assert skipped == []
    assert list(rows[0]) == ["subject", "cohort", "role", "source_id", "licence", "T1w", "seg"]
    assert [row["subject"] for row in rows[:3]] == ["H0", "H1", "H2"]
    assert [row["role"] for row in rows] == ["host"] * 3 + ["train"] * 2 + ["validation", "test"]
    assert rows[0] == {
        "subject": "H0",
        "cohort": "healthy",
        "role": "host",
        "source_id": "H0",
        "licence": "licence of healthy",
        "T1w": str(study.t1("H0")),
        "seg": "",
    }
    for row in rows[3:]:
        assert row["source_id"].replace("-", "") == row["subject"]
        assert row["T1w"] == str(study.t1n(row["source_id"]))
        assert row["seg"] == str(study.seg(row["source_id"]))


def test_relative_paths_stay_relative(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study.root)
    study.params["healthy"]["path"], study.params["annotated"]["path"] = "./healthy", "annotated"
    rows, _ = study.run()
    assert rows[0]["T1w"] == "healthy/sub-H0/anat/sub-H0_T1w.nii.gz"
    assert rows[-1]["seg"].startswith("annotated/TF-")


def test_demo_is_bids_and_brats(study: Study) -> None:
    expected = study.run()
    study.params["healthy"]["source"] = study.params["annotated"]["source"] = "demo"
    assert study.run() == expected


def test_the_same_cohort_gives_the_same_bytes_with_any_number_of_threads(study: Study) -> None:
    written = []
    for threads in ("1", "3"):
        out = study.root / threads
        ingest.main(
            [
                *("--params", json.dumps(study.params), "--threads", threads),
                *("--subjects", str(out / "a.tsv"), "--skipped", str(out / "b.tsv")),
            ]
        )
        written.append((out / "a.tsv").read_bytes() + (out / "b.tsv").read_bytes())
    assert written[0] == written[1]


def test_label_4_is_accepted_as_brats_2021_wrote_it(study: Study) -> None:
    nifti(study.seg("TF-0"), tumour(1, 2, 4).astype(np.uint16))
    assert len(study.run()[0]) == 7


def test_scaled_and_64_bit_headers_are_accepted(study: Study) -> None:
    image = nib.Nifti1Image(head().astype(np.float64) / 3, np.diag([-1.0, 1.0, 1.2, 1.0]))
    image.header.set_data_dtype(np.uint8)  # makes nibabel store a slope and an intercept
    nib.save(image, study.t1("H0"))
    nifti(study.t1("H1"), head().astype(np.float64)[..., None])
    assert len(study.run()[0]) == 7


def test_brats_2021_names(study: Study) -> None:
    for number in range(4):
        folder = study.root / "brats21" / f"BraTS2021_0000{number}"
        for ending in ("t1", "t1ce", "t2", "flair"):
            nifti(folder / f"{folder.name}_{ending}.nii", head(number))
        nifti(folder / f"{folder.name}_seg.nii", tumour(1, 2, 4))
        nifti(study.healthy / f"sub-H{number}" / "anat" / f"sub-H{number}_FLAIR.nii", head(number))
        nifti(study.t1(f"H{number}"), head(number))
    study.params["annotated"]["path"] = str(study.root / "brats21")
    study.params["modalities"] = ["FLAIR", "T1w"]
    rows, _ = study.run()
    by_name = {row["subject"]: row for row in rows}
    case = by_name["BraTS202100002"]
    assert case["source_id"] == "BraTS2021_00002"
    assert Path(case["FLAIR"]).name == "BraTS2021_00002_flair.nii"
    assert Path(case["T1w"]).name == "BraTS2021_00002_t1.nii"
    assert Path(case["seg"]).name == "BraTS2021_00002_seg.nii"
    assert Path(by_name["H3"]["FLAIR"]).name == "sub-H3_FLAIR.nii"


# BIDS


def touched(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def bids(root: Path, *wanted: str) -> dict[str, str]:
    section = {"source": "bids", "path": str(root), "licence": ""}
    (case,) = sources.find("annotated", section, list(wanted))
    return {kind: str(Path(path).relative_to(root)) for kind, path in case.files.items()}


def test_bids_entities_choose_the_modality(tmp_path: Path) -> None:
    touched(
        tmp_path / "sub-1" / "anat",
        *("sub-1_ce-gd_T1w.nii.gz", "sub-1_T1w.nii.gz", "sub-1_T1w.json", "sub-1_acq-2D_T2w.nii"),
        *("sub-1_desc-brain_mask.nii.gz", "sub-1_dseg.nii.gz", "sub-1_label-GM_probseg.nii.gz"),
        *("sub-1_T1map.nii.gz", "sub-1_T1w_backup.nii.gz"),
    )
    assert bids(tmp_path, "T1w", "T1c", "T2w", "FLAIR", "seg") == {
        "T1w": "sub-1/anat/sub-1_T1w.nii.gz",
        "T1c": "sub-1/anat/sub-1_ce-gd_T1w.nii.gz",
        "T2w": "sub-1/anat/sub-1_acq-2D_T2w.nii",
        "seg": "sub-1/anat/sub-1_dseg.nii.gz",
    }


def test_the_first_of_several_runs_is_taken_in_natural_order(tmp_path: Path) -> None:
    touched(tmp_path / "sub-1" / "anat", "sub-1_run-10_T1w.nii.gz", "sub-1_run-2_T1w.nii.gz")
    assert bids(tmp_path, "T1w") == {"T1w": "sub-1/anat/sub-1_run-2_T1w.nii.gz"}


def test_all_files_of_a_subject_come_from_one_session(tmp_path: Path) -> None:
    touched(
        tmp_path / "sub-1",
        *("ses-2/anat/sub-1_ses-2_T1w.nii.gz", "ses-10/anat/sub-1_ses-10_T1w.nii.gz"),
        *("ses-10/anat/sub-1_ses-10_T2w.nii.gz", "ses-11/anat/sub-1_ses-11_T1w.nii.gz"),
        "ses-11/anat/sub-1_ses-11_T2w.nii.gz",
    )
    assert bids(tmp_path, "T1w") == {"T1w": "sub-1/ses-2/anat/sub-1_ses-2_T1w.nii.gz"}
    assert bids(tmp_path, "T1w", "T2w") == {
        "T1w": "sub-1/ses-10/anat/sub-1_ses-10_T1w.nii.gz",
        "T2w": "sub-1/ses-10/anat/sub-1_ses-10_T2w.nii.gz",
    }


# Bad scans: the file and the problem are named


def zero_spacing(path: Path) -> None:
    image = nib.Nifti1Image(head(), np.diag([2.0, 2.0, 2.0, 1.0]))
    image.set_qform(image.affine, code=1)
    image.set_sform(None, code=0)
    raw = bytearray(image.to_bytes())
    raw[80:84] = np.float32(0).tobytes()  # pixdim[1], which nibabel would not write as 0
    path.with_suffix("").write_bytes(raw)
    path.unlink()


def no_affine(path: Path) -> None:
    image = nib.Nifti1Image(head(), np.diag([2.0, 2.0, 2.0, 1.0]))
    image.set_qform(None, code=0)
    image.set_sform(None, code=0)
    nib.save(image, path)


def spoilt(where: tuple[int, int, int], value: float) -> NDArray[np.float32]:
    data = head()
    data[where] = value
    return data


def sform(*columns: tuple[float, float, float]) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3] = np.array(columns).T
    return affine


BAD_IMAGES = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-900]), "cannot be read to its end"),
    "not NIfTI": (lambda p: p.write_bytes(b"hello"), "not a readable NIfTI file"),
    "empty": (lambda p: p.write_bytes(b""), "not a readable NIfTI file"),
    "NaN": (lambda p: nifti(p, spoilt((4, 4, 4), np.nan)), "1 voxels are NaN or infinite"),
    "Inf": (lambda p: nifti(p, spoilt((4, 4, 4), np.inf)), "1 voxels are NaN or infinite"),
    "constant": (lambda p: nifti(p, np.full(SHAPE, 7, np.int16)), "is constant"),
    "4D": (lambda p: nifti(p, np.stack([head(), head(1)], -1)), "one 3D volume is needed"),
    "2D": (lambda p: nifti(p, head()[:, :, 5]), "one 3D volume is needed"),
    "RGB": (
        lambda p: nifti(p, np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])),
        "not one number each",
    ),
    "tiny spacing": (lambda p: nifti(p, head(), np.diag([0.05, 1, 1, 1])), "0.05 x 1 x 1 mm"),
    "huge spacing": (lambda p: nifti(p, head(), np.diag([1.0, 1, 25, 1])), "1 x 1 x 25 mm"),
    "zero spacing": (zero_spacing, "0 x 2 x 2 mm"),
    "no affine": (no_affine, "has no affine"),
    "singular": (
        lambda p: nifti(p, head(), sform((1, 0, 0), (1, 0, 0), (0, 0, 1))),
        "singular affine",
    ),
    "sheared": (
        lambda p: nifti(p, head(), sform((1, 0, 0), (0.3, 1, 0), (0, 0, 1))),
        "sheared affine",
    ),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_a_bad_image_is_named(study: Study, kind: str) -> None:
    spoil, expected = BAD_IMAGES[kind]
    path = study.t1("H1")
    spoil(path)
    line = study.problem()
    assert line.startswith(str(path).removesuffix(".gz"))
    assert expected in line


BAD_LABELS: dict[str, tuple[NDArray[Any], str]] = {
    "label 5": (tumour(1, 2, 5), "labels 5 outside 0..4"),
    "labels 3 and 4": (tumour(1, 3, 4), "both label 3 and label 4"),
    "a fraction": (tumour(1).astype(np.float32) / 2, "not a label map"),
    "a negative": (-tumour(1).astype(np.int16), "not a label map"),
}


@pytest.mark.parametrize("kind", BAD_LABELS)
def test_a_bad_label_map_is_named(study: Study, kind: str) -> None:
    data, expected = BAD_LABELS[kind]
    nifti(study.seg("TF-2"), data)
    line = study.problem()
    assert line.startswith(f"{study.seg('TF-2')}: ")
    assert expected in line


@pytest.mark.parametrize(
    ("shape", "affine"),
    [((12, 14, 11), np.diag([2.0, 2, 2, 1])), (SHAPE, np.diag([2.0, 2, -2, 1]))],
)
def test_a_label_map_on_another_grid_is_named(
    study: Study, shape: tuple[int, int, int], affine: NDArray[np.float64]
) -> None:
    data = np.zeros(shape, np.uint8)
    data[5, 5, 5] = 1
    nifti(study.seg("TF-2"), data, affine)
    line = study.problem()
    assert line.startswith(f"{study.seg('TF-2')}: is on another grid than {study.t1n('TF-2')}")


def test_annotated_modalities_must_share_a_grid_and_healthy_ones_need_not(study: Study) -> None:
    study.params["modalities"] = ["T1w", "T2w"]
    other = np.diag([2.0, 2.0, 2.5, 1.0])
    for number in range(3):
        nifti(study.healthy / f"sub-H{number}/anat/sub-H{number}_T2w.nii", head(), other)
    for number in range(4):
        nifti(study.annotated / f"TF-{number}" / f"TF-{number}-t2w.nii.gz", head())
    assert len(study.run()[0]) == 7
    shutil.rmtree(study.root / "out")
    path = nifti(study.annotated / "TF-3" / "TF-3-t2w.nii.gz", head(), other)
    assert study.problem().startswith(f"{path}: is on another grid than {study.t1n('TF-3')}")
    study.params["annotated"]["space"] = "native"
    assert len(study.run()[0]) == 7  # only the label map must lie on the reference's grid


def test_an_annotated_case_with_its_skull_is_refused(study: Study) -> None:
    noisy = head() + np.random.default_rng(0).uniform(0, 5, SHAPE).astype(np.float32)
    nifti(study.t1n("TF-0"), noisy)
    nifti(study.t1("H0"), noisy)  # a whole head is what a healthy scan should be
    line = study.problem()
    assert line.startswith(f"{study.t1n('TF-0')}: does not look skull-stripped")


def test_healthy_scans_said_to_be_stripped_are_checked(study: Study) -> None:
    study.params["healthy"]["brain"] = "none"
    nifti(study.t1("H0"), head() + 1)
    assert study.problem().startswith(f"{study.t1('H0')}: does not look skull-stripped")


# Bad subjects


def test_a_missing_modality_names_the_folder(study: Study) -> None:
    study.t1("H2").unlink()
    study.seg("TF-1").unlink()
    assert study.problems() == [
        f"{study.healthy / 'sub-H2'}: has no T1w file; add it or take T1w out of modalities",
        f"{study.annotated / 'TF-1'}: has no seg file; add it",
    ]


def test_an_id_in_both_cohorts_is_refused(study: Study) -> None:
    nifti(study.t1("TF2"), head())  # the case TF-2 has the label TF2 too
    lines = study.problems()
    assert len(lines) == 2
    assert lines[0].startswith(f"{study.healthy / 'sub-TF2'}: subject id TF2 is also that of")
    assert lines[1].startswith(f"{study.annotated / 'TF-2'}: subject id TF2 is also that of")


def table_study(study: Study, text: str) -> Study:
    study.params["healthy"] |= {"source": "table", "path": str(study.table(text))}
    return study


def test_a_table_gives_paths_relative_to_itself(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    h0, h1 = "../healthy/sub-H0/anat/sub-H0_T1w.nii.gz", study.t1("H1")
    (study.root / "lists").mkdir()
    study.table(f"subject,T1w,licence\np_1,{h0},CC0\np_2,{h1},\n", "lists/cohort.csv")
    monkeypatch.chdir(study.root)
    study.params["healthy"] |= {"source": "table", "path": "lists/cohort.csv"}
    rows, _ = study.run()
    assert [row["subject"] for row in rows[:2]] == ["p1", "p2"]
    assert [row["T1w"] for row in rows[:2]] == [f"lists/{h0}", str(h1)]
    assert [row["licence"] for row in rows[:2]] == ["CC0", "licence of healthy"]


BAD_TABLES = {
    "unknown column": (
        "subject,T1w,age\np1,x.nii,40\np2,y.nii,41\n",
        "unknown column age (known: subject, T1w, T1c, T2w, FLAIR, licence)",
    ),
    "no column": ("subject,T2w\np1,x.nii\n", "no column T1w"),
    "role of a host": ("subject,T1w,role\np1,x.nii,train\n", "unknown column role"),
    "no row": ("subject,T1w\n", "holds no subject"),
    "nothing": ("", "not a readable table"),
    "ragged": ("subject,T1w\np1,x.nii\np2,y.nii,z\n", "not a readable table"),
}


@pytest.mark.parametrize("kind", BAD_TABLES)
def test_a_bad_table_is_one_line(study: Study, kind: str) -> None:
    text, expected = BAD_TABLES[kind]
    line = table_study(study, text).problem()
    assert line.startswith(str(study.root / "cohort.csv"))
    assert expected in line


BAD_ROWS = {
    "separator": ("../p1,{t1}", "row 2: subject id '../p1' has a path separator; rename it"),
    "backslash": ("a\\b,{t1}", "row 2: subject id 'a\\\\b' has a path separator; rename it"),
    "empty id": (",{t1}", "row 2: subject id '' has no letter or digit; rename it"),
    "only dots": ("..,{t1}", "row 2: subject id '..' has no letter or digit; rename it"),
    "empty cell": ("p1,", "row 2: has no T1w file"),
    "no such file": ("p1,nowhere.nii.gz", "nowhere.nii.gz: no such file"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_is_named(study: Study, kind: str) -> None:
    row, expected = BAD_ROWS[kind]
    table_study(study, "subject,T1w\n" + row.format(t1=study.t1("H0")) + "\n")
    assert expected in study.problem()


def test_two_rows_of_one_subject_are_refused(study: Study) -> None:
    t1 = study.t1("H0")
    lines = table_study(study, f"subject,T1w\np_1,{t1}\nq,{t1}\np1,{t1}\n").problems()
    assert [line.partition(":")[0][-5:] for line in lines] == ["row 2", "row 4"]
    assert all("subject id p1 is also that of" in line for line in lines)


@pytest.mark.parametrize("source", ["bids", "table"])
def test_a_missing_source_is_one_line(study: Study, source: str) -> None:
    gone = study.root / "gone"
    study.params["healthy"] |= {"source": source, "path": str(gone)}
    assert study.problem().startswith(f"{gone}: no such ")


def test_a_folder_without_subjects_is_refused(study: Study) -> None:
    study.params["healthy"]["path"] = str(study.annotated)
    assert study.problem().startswith(f"{study.annotated}: holds no subject")


def test_all_problems_of_both_cohorts_are_listed_together(study: Study) -> None:
    nifti(study.t1("H0"), np.full(SHAPE, 3, np.int16))
    study.t1("H2").write_bytes(b"")
    nifti(study.t1n("TF-1"), spoilt((0, 0, 0), np.nan))
    nifti(study.seg("TF-1"), tumour(9))
    study.seg("TF-3").unlink()
    named = [line.partition(": ")[0] for line in study.problems()]
    paths = [study.t1("H0"), study.t1("H2"), study.t1n("TF-1"), study.seg("TF-1")]
    assert named == [str(path) for path in [*paths, study.annotated / "TF-3"]]


# Leaving subjects out


def test_skip_leaves_subjects_out_and_lists_why(study: Study) -> None:
    study.params["ingest"]["on_error"] = "skip"
    study.params["split"] = {"train": 2, "validation": 0, "folds": 1, "file": ""}
    study.t1("H1").write_bytes(b"")
    nifti(study.t1n("TF-2"), spoilt((0, 0, 0), np.nan))
    nifti(study.seg("TF-2"), tumour(9))
    rows, skipped = study.run()
    assert [row["subject"] for row in rows[:2]] == ["H0", "H2"]
    assert set(roles(rows)) == {"TF0", "TF1", "TF3"}
    assert [(row["subject"], row["cohort"]) for row in skipped] == [
        ("H1", "healthy"),
        ("TF-2", "annotated"),
        ("TF-2", "annotated"),
    ]
    assert "not a readable NIfTI file" in skipped[0]["problem"]


def test_skip_draws_the_split_from_what_is_left(study: Study) -> None:
    study.params["split"] = {"train": 2, "validation": 0, "folds": 1, "file": ""}
    order = list(roles(study.run()[0]))
    shutil.rmtree(study.root / "out")
    first = order[0].replace("TF", "TF-")
    study.seg(first).write_bytes(b"")
    study.params["ingest"]["on_error"] = "skip"
    left = roles(study.run()[0])
    assert left == {order[1]: "train", order[2]: "train", order[3]: "test"}


def test_skip_leaves_an_empty_training_case_out_and_draws_again(study: Study) -> None:
    study.params["split"] = {"train": 2, "validation": 0, "folds": 1, "file": ""}
    order = list(roles(study.run()[0]))
    nifti(study.seg(order[1].replace("TF", "TF-")), tumour())
    study.params["ingest"]["on_error"] = "skip"
    rows, skipped = study.run()
    assert roles(rows) == {order[0]: "train", order[2]: "train", order[3]: "test"}
    assert "has no tumour" in skipped[0]["problem"]


def test_skip_fails_when_no_host_is_left(study: Study) -> None:
    study.params["ingest"]["on_error"] = "skip"
    for number in range(3):
        study.t1(f"H{number}").write_bytes(b"")
    lines = study.problems()
    assert lines[0] == "healthy cohort: no usable subject is left; mend the scans or add some"
    assert len(lines) == 4


def test_skip_fails_when_too_few_cases_are_left(study: Study) -> None:
    study.params["ingest"]["on_error"] = "skip"
    study.seg("TF-0").unlink()
    line, why = study.problems()
    assert line.startswith("annotated cohort: 3 usable cases, but split.train (2)")
    assert why.startswith(str(study.annotated / "TF-0"))


# The split


def test_the_order_of_a_split_is_pinned() -> None:
    assert split.draw_order(1, ["A", "B", "C", "D", "E"]) == list("CEDAB")


IDS = st.sets(st.text("abcdefXYZ0123456789", min_size=1, max_size=8), min_size=4, max_size=30)


@given(IDS, st.integers(0, 2**32), st.randoms())
def test_a_split_depends_on_seed_and_ids_alone(ids: set[str], seed: int, random: Any) -> None:
    shuffled = sorted(ids)
    random.shuffle(shuffled)
    first = split.draw_split(seed, sorted(ids), 2, 1)
    assert list(first.items()) == list(split.draw_split(seed, shuffled, 2, 1).items())
    assert list(first.values()) == ["train"] * 2 + ["validation"] + ["test"] * (len(ids) - 3)


@given(IDS, st.integers(0, 2**32))
def test_a_case_that_comes_moves_no_other_past_another(ids: set[str], seed: int) -> None:
    with_new = split.draw_order(seed, ids | {"new"})
    assert [subject for subject in with_new if subject != "new"] == split.draw_order(seed, ids)


def test_seeds_draw_different_splits() -> None:
    ids = [f"case{number}" for number in range(20)]
    orders = {tuple(split.draw_order(seed, ids)) for seed in range(20)}
    assert len(orders) == 20
    firsts = {order[0] for order in orders}
    assert len(firsts) > 5, "no case should be favoured"


def test_the_smaller_training_set_is_the_head_of_the_larger(study: Study) -> None:
    study.params["split"] = {"train": 2, "validation": 1, "folds": 1, "file": ""}
    first = list(roles(study.run()[0]))
    study.params["split"] = {"train": 3, "validation": 0, "folds": 1, "file": ""}
    assert list(roles(study.run()[0])) == first


def test_a_split_without_test_case_is_refused(study: Study) -> None:
    study.params["split"] = {"train": 3, "validation": 1, "folds": 1, "file": ""}
    assert "leave none to test on" in study.problem()


def test_an_empty_tumour_is_refused_in_training_and_nowhere_else(study: Study) -> None:
    order = list(roles(study.run()[0]))
    shutil.rmtree(study.root / "out")
    for subject in order[2:]:
        nifti(study.seg(subject.replace("TF", "TF-")), tumour())
    assert list(roles(study.run()[0])) == order
    shutil.rmtree(study.root / "out")
    seg = nifti(study.seg(order[0].replace("TF", "TF-")), tumour())
    assert study.problem().startswith(f"{seg}: has no tumour, but its case is in the training")


SPLIT = "subject,role\nTF0,test\nTF-1,train\nsub-TF2,train\nTF-3,validation\n"


def test_a_split_file_replaces_the_draw(study: Study) -> None:
    study.params["split"]["file"] = str(study.table(SPLIT, "split.csv"))
    drawn = roles(study.run()[0])
    assert drawn == {"TF0": "test", "TF1": "train", "TF2": "train", "TF3": "validation"}
    assert list(drawn.values()) == ["train", "train", "validation", "test"]
    assert list(drawn)[:2] == split.draw_order(1, ["TF1", "TF2"])


BAD_SPLITS = {
    "unlisted case": (SPLIT.replace("TF0,test\n", ""), "no role for TF-0"),
    "unknown case": (SPLIT + "TF9,test\n", "subject 'TF9' is not in the annotated cohort"),
    "twice": (SPLIT + "TF-0,test\n", "subject 'TF-0' is listed twice"),
    "role": (SPLIT.replace("validation", "val"), "role 'val' of TF-3 is none of train, validation"),
    "columns": (SPLIT.replace("role", "split"), "needs the columns subject and role"),
    "no test": (SPLIT.replace("test", "train"), "3 usable training and 0 test cases"),
    "one train": (SPLIT.replace("TF-1,train", "TF-1,test"), "1 usable training and 2 test cases"),
}


@pytest.mark.parametrize("kind", BAD_SPLITS)
def test_a_bad_split_file_is_one_line(study: Study, kind: str) -> None:
    text, expected = BAD_SPLITS[kind]
    study.params["split"]["file"] = str(study.table(text, "split.csv"))
    assert expected in study.problem()


def annotated_table(study: Study, roles_of: list[str]) -> None:
    rows = [
        f"TF-{number}\t{study.t1n(f'TF-{number}')}\t{study.seg(f'TF-{number}')}\t{role}"
        for number, role in enumerate(roles_of)
    ]
    path = study.table("\n".join(["subject\tT1w\tseg\trole", *rows]) + "\n", "cases.tsv")
    study.params["annotated"] |= {"source": "table", "path": str(path)}


def test_a_role_column_of_the_table_is_the_split(study: Study) -> None:
    annotated_table(study, ["test", "train", "test", "train"])
    assert roles(study.run()[0]) == {"TF0": "test", "TF1": "train", "TF2": "test", "TF3": "train"}


def test_a_role_column_is_validated_by_the_schema(study: Study) -> None:
    annotated_table(study, ["test", "training", "", "train"])
    line = study.problem()
    assert "row 3, column role: 'training' is not one of ['train', 'validation', 'test']" in line
    assert "row 4, column role: '' is not one of" in line


def test_two_splits_are_one_too_many(study: Study) -> None:
    annotated_table(study, ["test", "train", "test", "train"])
    study.params["split"]["file"] = str(study.table(SPLIT, "split.csv"))
    assert "role column too; drop one" in study.problem()


# The fingerprint


def test_the_fingerprint_sees_new_and_changed_scans_and_opens_none(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nib, "load", lambda *_: pytest.fail("a scan was opened"))
    before = ingest.fingerprint(study.params)
    assert ingest.fingerprint(study.params) == before
    study.t1("H0").with_name("notes.txt").touch()
    assert ingest.fingerprint(study.params) == before
    status = study.t1("H0").stat()
    os.utime(study.t1("H0"), ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    changed = ingest.fingerprint(study.params)
    touched(study.healthy / "sub-H9" / "anat", "sub-H9_T1w.nii.gz")
    assert len({before, changed, ingest.fingerprint(study.params)}) == 3


def test_the_fingerprint_sees_the_tables(study: Study) -> None:
    table_study(study, f"subject,T1w\np1,{study.t1('H0')}\n")
    split = study.table(SPLIT, "split.csv")
    study.params["split"]["file"] = str(split)
    seen = [ingest.fingerprint(study.params)]
    split.write_text(SPLIT + "\n")
    seen.append(ingest.fingerprint(study.params))
    study.table(f"subject,T1w\np2,{study.t1('H0')}\n")
    seen.append(ingest.fingerprint(study.params))
    status = study.t1("H0").stat()
    os.utime(study.t1("H0"), ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert len({*seen, ingest.fingerprint(study.params)}) == 4


def test_the_fingerprint_of_a_missing_folder_is_constant(study: Study) -> None:
    study.params["healthy"]["path"] = str(study.root / "gone")
    assert ingest.fingerprint(study.params) == ingest.fingerprint(study.params)


def test_the_fingerprint_of_the_demo_does_not_change_when_it_is_made(study: Study) -> None:
    study.params["healthy"]["source"] = study.params["annotated"]["source"] = "demo"
    made = ingest.fingerprint(study.params)
    shutil.rmtree(study.healthy)
    assert ingest.fingerprint(study.params) == made


# Real scans


@pytest.mark.real_data
def test_real_scans_go_through(real_data: Path, tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.params["healthy"]["path"] = str(real_data / "healthy_ixi_t1_2mm")
    study.params["annotated"]["path"] = str(real_data / "tumour_brats2021")
    study.params["split"] = {"train": 4, "validation": 1, "folds": 1, "file": ""}
    rows, skipped = study.run()
    assert skipped == []
    assert Counter(row["role"] for row in rows) == {
        "host": 32,
        "train": 4,
        "validation": 1,
        "test": 3,
    }
