"""The real workflow on a tiny phantom study: what it writes, what re-runs it, what stops it.

Everything runs from a copy of the program, so that the tests can edit it.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml

from tumorfab import ingest, plan, reproduce, score, verify
from tumorfab.config import validated
from tumorfab.plan import DEMO_LICENCE

pytestmark = pytest.mark.workflow

ROOT = Path(__file__).parent.parent
PARTS = ("tumorfab", "workflow", "profiles", "envs")
PATIENCE_S = 1200  # for one run; it takes a tenth of that on an idle machine of two cores

# 6 mm voxels: grids of 32 to 40 voxels along an edge, and the registration is no better than that.
TINY: dict[str, Any] = {
    "modalities": ["T1w", "T2w"],
    "demo": {"healthy": 2, "annotated": 4, "spacing": 6},
    "split": {"train": 2, "validation": 1},
    "study": {"arms": ["real", "coarse", "tf"], "k": [2], "n": [1], "seeds": [0]},
    "preprocess": {"min_correlation": 0.5},
    "refiner": {"steps": 6, "encoder_steps": 6, "lessons": 2, "patch": 16, "channels": 4},
    "segment": {"steps": 10, "patch": 16, "channels": 4, "validate_every": 5},
}
# The same scans as folders of files, the arms without the refiner left out.
FOLDERS: dict[str, Any] = {
    **{key: value for key, value in TINY.items() if key != "demo"},
    "healthy": {"source": "bids", "path": "cohort/healthy", "licence": DEMO_LICENCE},
    "annotated": {"source": "brats", "path": "cohort/annotated", "licence": DEMO_LICENCE},
    "study": {**TINY["study"], "arms": ["tf"]},
}

HOSTS = ("H01", "H02")
TRAIN, VALIDATION, TEST = ("TF00004", "TF00001"), ("TF00002",), ("TF00003",)
ANNOTATED = (*TRAIN, *VALIDATION, *TEST)
SHARDS = sorted({plan.shard(subject, 2) for subject in (*HOSTS, *ANNOTATED)})
BATCHES = sorted({plan.shard(host, 16) for host in HOSTS})
LESSONS = [f"lessons_{i}" for i in sorted({plan.shard(case, 16) for case in TRAIN})]
RUNS = (
    "arm-real_k-2_n-0_fold-0_seed-0",
    "arm-coarse_k-2_n-1_fold-0_seed-0",
    "arm-tf_k-2_n-1_fold-0_seed-0",
)


class Study:
    """A folder in which a study is run by the program in `program`."""

    def __init__(self, root: Path, program: Path, config: dict[str, Any]) -> None:
        self.root, self.results, self.program = root, root / "results", program
        self.out = self.err = ""  # of the run that finished it
        root.mkdir(exist_ok=True)
        self.configure(config)

    def configure(self, config: dict[str, Any]) -> None:
        text = yaml.safe_dump(config, sort_keys=False)
        (self.root / "study.yaml").write_text(text, encoding="utf-8")

    def start(self, *options: str, printed: Any = None) -> "subprocess.Popen[str]":
        """Snakemake in a process group of its own; it prints to a pipe, or to a file."""
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--snakefile",
            str(self.program / "Snakefile"),
        ]
        command += ["--configfile", "study.yaml", "--cores", "2", *options]
        binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(
            command,
            cwd=self.root,
            env={**os.environ, "PATH": binaries, "PYTHONPATH": str(self.program)},
            stdout=printed or subprocess.PIPE,
            stderr=printed or subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *options: str) -> tuple[int, str, str]:
        """Exit status, stdout and stderr of a run."""
        process = self.start(*options)
        try:
            out, err = process.communicate(timeout=PATIENCE_S)
        except BaseException:
            kill(process)
            raise
        return process.returncode, out, err

    def planned(self) -> dict[str, int]:
        """Number of jobs per rule that a run would start now, by a dry run."""
        status, out, err = self.run("--dry-run")
        assert status == 0, err
        if "Nothing to be done" in out:
            return {}
        table = out.split("Job stats:")[1].split("total")[0]
        return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.M)}

    def written(self) -> set[str]:
        """All files below the results folder; the names of event files without time and host."""
        names = {str(p.relative_to(self.results)) for p in self.results.rglob("*") if p.is_file()}
        return {re.sub(r"tfevents\..*", "tfevents", name) for name in names}

    def volumes(self) -> list[Path]:
        return sorted(p for p in self.results.rglob("*.nii.gz") if not p.name.startswith("."))


def kill(process: "subprocess.Popen[str]") -> None:
    """SIGKILL for the whole process group."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def truncated(paths: list[Path]) -> list[Path]:
    """Those that cannot be read to the end."""
    bad = []
    for path in paths:
        try:
            np.asanyarray(nib.load(path).dataobj)  # type: ignore[attr-defined]
        except Exception:
            bad.append(path)
    return bad


@contextmanager
def edited(path: Path, old: str, new: str) -> Iterator[None]:
    """Replace the first `old` in a file for the time of a `with` block."""
    before = path.read_text(encoding="utf-8")
    assert old in before
    path.write_text(before.replace(old, new, 1), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(before, encoding="utf-8")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("program")
    for part in PARTS:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, copy / part, ignore=ignore)
    for part in ("Snakefile", "config.yaml", "requirements.lock"):
        shutil.copy(ROOT / part, copy)
    return copy


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, program: Path) -> Study:
    """The tiny study after its run."""
    study = Study(tmp_path_factory.mktemp("study"), program, TINY)
    status, study.out, study.err = study.run()
    assert status == 0, study.err[-5000:]
    return study


def expected() -> set[str]:
    """The files of the tiny study, relative to its results folder."""
    space = "space-analysis"
    paths = {".lock", "cohort/subjects.tsv", "cohort/skipped.tsv"}
    jobs = {"ingest", "template", "bank", "report", "qc", "refine/refine_1"}
    jobs |= {f"mosaic/mosaic_{i}" for i in SHARDS}
    jobs |= {f"{stage}/{stage}_{i}" for stage in ("standardise", "place") for i in BATCHES}
    for host in HOSTS:
        jobs |= {f"demo_healthy/{host}"}
        paths |= {f"demo/healthy/sub-{host}/anat/sub-{host}_{m}.nii.gz" for m in ("T1w", "T2w")}
        paths |= {
            f"sub-{host}/anat/sub-{host}_from-{m}_to-MNI152NLin2009aSym_mode-image_xfm.txt"
            for m in ("T1w", "T2w")
        }
        for kind in ("coarse000", "tf000"):
            stem = f"fold-0_k-2/sub-{host}/anat/sub-{host}_{space}_desc-{kind}"
            paths |= {f"{stem}{end}.nii.gz" for end in ("_T1w", "_T2w", "_dseg")}
            paths |= {f"{stem}.json"}
    for subject in ANNOTATED:
        source = subject.replace("TF", "TF-")
        jobs |= {f"demo_annotated/{source}", f"standardise/{subject}"}
        paths |= {f"demo/annotated/{source}/{source}-{end}.nii.gz" for end in ("t1n", "t2w", "seg")}
        paths |= {f"sub-{subject}/anat/sub-{subject}_{space}_dseg.nii.gz"}
    jobs |= {f"lessons/{name}" for name in LESSONS}
    for subject in TRAIN:
        for number in range(2):
            stem = f"sub-{subject}_{space}_desc-coarse{number:03d}"
            stem = f"fold-0_k-2/refiner/sub-{subject}/anat/{stem}"
            paths |= {f"{stem}{end}.nii.gz" for end in ("_T1w", "_T2w", "_dseg")}
            paths |= {f"{stem}.json"}
        paths |= {f"bank/sub-{subject}_rois.{end}" for end in ("npz", "json")}
    for subject in (*HOSTS, *ANNOTATED):
        jobs |= {f"preprocess/{subject}"}
        native = ("desc-N4_T1w", "desc-N4_T2w", "desc-brain_mask")
        standard = ("desc-preproc_T1w", "desc-preproc_T2w", "desc-brain_mask",
                    "label-CSF_probseg", "label-GM_probseg", "label-WM_probseg",
                    "label-ventricles_mask")  # fmt: skip
        stem = f"sub-{subject}/anat/sub-{subject}_"
        paths |= {f"{stem}{name}.nii.gz" for name in native}
        paths |= {f"{stem}{space}_{name}.nii.gz" for name in standard}
        paths |= {f"{stem}desc-preproc.json", f"{stem}{space}_desc-preproc.json"}
        paths |= {f"sub-{subject}/figures/sub-{subject}_desc-qc.png"}
    for name in ("T1w", "desc-brain_mask", "label-CSF_probseg", "label-GM_probseg",
                 "label-WM_probseg", "label-ventricles_mask"):  # fmt: skip
        paths |= {f"template/template_{space}_{name}.nii.gz"}
    paths |= {"template/from-MNI152NLin2009aSym_to-analysis_mode-image_xfm.txt"}
    paths |= {"template/template.json"}
    paths |= {f"fold-0_k-2/refiner/{name}" for name in ("refiner.pt", "critic.pt", "training.csv")}
    paths |= {"fold-0_k-2/refiner/tensorboard/events.out.tfevents"}
    paths |= {f"fold-0_k-2/gate/{name}.tsv" for name in ("tf", "tf_shard-1")}
    jobs |= {"train_refiner/fold-0_k-2", "appraise/appraise_tf_1", "gate/fold-0_k-2_tf"}
    for run in RUNS:
        jobs |= {f"segment/{run}", f"score/{run}"}
        paths |= {f"segment/{run}/{name}" for name in ("model.pt", "training.csv", "scores.csv")}
        paths |= {f"segment/{run}/sub-{s}_{space}_desc-pred_dseg.nii.gz" for s in TEST}
        paths |= {f"segment/{run}/tensorboard/events.out.tfevents"}
    paths |= {f"report/{name}" for name in ("index.html", "dice.csv", "summary.csv", "table.txt")}
    paths |= {f"qc/{name}" for name in ("index.html", "viewer.html", "metrics.tsv")}
    sharded = re.compile(r"(mosaic|standardise|place|lessons|refine|appraise)/\w+_\d+$")
    lists = {job for job in jobs if sharded.match(job)} | {f"segment/{run}" for run in RUNS}
    paths |= {f"lists/{job}.txt" for job in lists | {"train_refiner/fold-0_k-2"}}
    paths |= {f"logs/{job}.log" for job in jobs} | {f"benchmarks/{job}.tsv" for job in jobs}
    return paths


# What a run leaves


def test_the_run_writes_these_files_and_no_other(study: Study) -> None:
    written = study.written()
    assert sorted(expected() - written) == []
    assert sorted(written - expected()) == []


def test_every_volume_reads_to_its_end(study: Study) -> None:
    assert len(study.volumes()) > 80
    assert truncated(study.volumes()) == []


def test_the_table_of_scores_is_complete_and_printed_last(study: Study) -> None:
    table = pd.read_csv(study.results / "report" / "dice.csv")
    assert list(table.columns) == score.COLUMNS
    rows = table[["arm", "n", "case", "region"]].to_records(index=False).tolist()
    assert rows == [
        (arm, n, TEST[0], region)
        for arm, n in (("real", 0), ("coarse", 1), ("tf", 1))
        for region in ("WT", "TC", "ET")
    ]
    assert table["dice"].between(0, 1).all()
    last = (study.results / "report" / "table.txt").read_text(encoding="utf-8")
    assert study.out.rstrip().endswith(last.rstrip())
    assert last.rstrip().endswith("results/report/index.html")


def test_the_planned_subjects_of_the_demo_are_those_that_ingest_finds(study: Study) -> None:
    """The demo's subjects are planned before their files exist, by another path in the code."""
    planned = plan.subjects(validated(TINY), main_process=True)
    found = ingest.read_subjects(study.results / "cohort" / "subjects.tsv")
    pd.testing.assert_frame_equal(planned, found)


def test_the_default_profile_is_in_force_and_gives_one_gpu(study: Study) -> None:
    given = re.search(r"^Provided resources: (.*)$", study.err, re.M)
    assert given
    assert 'gpu=Resource("gpu", 1)' in given[1]


# What makes it run again


def test_a_second_run_does_nothing(study: Study) -> None:
    before = {path: path.stat().st_mtime_ns for path in study.volumes()}
    status, out, err = study.run()
    assert status == 0
    assert "Nothing to be done" in out + err
    assert {path: path.stat().st_mtime_ns for path in study.volumes()} == before


def test_touched_files_comments_and_reordered_keys_run_nothing(study: Study) -> None:
    scan = study.results / "demo" / "healthy" / "sub-H01" / "anat" / "sub-H01_T1w.nii.gz"
    anat = study.results / "sub-H01" / "anat"
    touched = [scan, anat / "sub-H01_desc-N4_T1w.nii.gz", study.results / "cohort" / "subjects.tsv"]
    touched += [*study.volumes()[::7], *study.program.rglob("*.py"), *study.program.rglob("*.smk")]
    for path in touched:
        path.touch()
    study.configure(
        {
            key: dict(reversed(part.items())) if isinstance(part, dict) else part
            for key, part in reversed(TINY.items())
        }
    )
    trainer = study.program / "tumorfab" / "train_refiner.py"
    try:
        with edited(trainer, "\n\n\n", "\n\n\n# a remark\n"):
            assert study.planned() == {}
    finally:
        study.configure(TINY)


def test_an_edit_of_a_stage_runs_it_and_what_follows(study: Study) -> None:
    with edited(study.program / "tumorfab" / "refine.py", "\n\n\n", "\n\n\nEDITED = True\n"):
        assert study.planned() == {
            "refine_1": 1, "appraise_tf_1": 1, "gate": 1, "segment": 1, "score": 1, "report": 1,
            "all": 1,
        }  # fmt: skip


def test_a_setting_runs_the_stages_that_it_concerns(study: Study) -> None:
    study.configure({**TINY, "place": {"rotation_deg": 20}})
    try:
        assert study.planned() == {
            **{f"place_{i}": 1 for i in BATCHES}, **dict.fromkeys(LESSONS, 1),
            "train_refiner": 1, "refine_1": 1,
            "appraise_tf_1": 1, "gate": 1, "segment": 2, "score": 2, "report": 1, "all": 1,
        }  # fmt: skip
    finally:
        study.configure(TINY)


ARMS = ("copypaste", "carvemix", "carvemix_published", "pix2pix", "tf_gated", "shuffled")


def test_further_arms_run_their_own_jobs_and_no_other(study: Study) -> None:
    arms = [*TINY["study"]["arms"], *ARMS]
    study.configure({**TINY, "study": {**TINY["study"], "arms": arms}})
    try:
        assert study.planned() == {
            "copypaste": 2, "carvemix": 2, "carvemix_published": 2, "pix2pix_0": 1,
            "segment": 6, "score": 6, "report": 1, "all": 1,
        }  # fmt: skip
    finally:
        study.configure(TINY)


def test_every_arm_has_the_same_number_of_samples(program: Path, tmp_path: Path) -> None:
    config = {**TINY, "study": {"arms": [*ARMS, "coarse", "tf"], "k": [2], "n": [3], "seeds": [0]}}
    status, out, err = Study(tmp_path, program, config).run("--dry-run")
    assert status == 0, err
    jobs = re.findall(r"^rule segment:(.*?)^    output:", out, re.M | re.S)
    assert len(jobs) == 8
    for job in jobs:
        read = set(re.findall(r"(\S+_desc-[a-z0-9]+\d{3})\.json", job))
        assert len(read) == 2 * 3


def test_nnunet_takes_the_place_of_the_own_network(program: Path, tmp_path: Path) -> None:
    config = {**TINY, "segment": {"network": "nnunet"}}
    planned = Study(tmp_path, program, config).planned()
    assert planned["nnunet"] == planned["score"] == 3
    assert "segment" not in planned


def test_snakemakes_own_report_shows_the_studys_tables_and_page(
    study: Study, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    status, _, err = study.run("--report", str(path))
    assert status == 0, err[-5000:]
    page = path.read_text(encoding="utf-8")
    for name in ("report/dice.csv", "report/summary.csv", "report/index.html", "qc/metrics.tsv"):
        assert name in page
    assert "effect size" in page  # a caption


# A release of it


def test_a_release_is_made_when_asked_for_and_follows_a_review(
    study: Study, tmp_path: Path
) -> None:
    shutil.copytree(study.root, tmp_path, dirs_exist_ok=True)
    own = Study(tmp_path, study.program, TINY)
    status, _, err = own.run("release")
    assert status == 0, err[-5000:]
    folder = own.results / "release"
    assert verify.verify(folder, 2) == []
    table = pd.read_csv(folder / "manifest.csv")
    assert sorted(table["kind"]) == ["coarse", "coarse", "tf", "tf"]
    about = json.loads((folder / "bids" / "dataset_description.json").read_text())
    assert about["License"] == "CC BY 4.0"
    for sample in table["sample"][table["kind"] == "coarse"]:
        reproduce.main([str(folder), "--sample", sample])
    assert "Nothing to be done" in "".join(own.run("release")[1:])
    review = own.results / "qc" / "review.csv"
    review.write_text("sample,verdict,note\nsub-H01_space-analysis_desc-tf000,reject,blurred\n")
    status, out, err = own.run("release")
    assert status == 0, err[-5000:]
    assert "rule place" not in out + err
    assert len(pd.read_csv(folder / "manifest.csv")) == 3
    assert pd.read_csv(folder / "excluded.csv")["reason"].tolist() == ["blurred"]
    assert verify.verify(folder, 2) == []


# What stops it


def test_a_second_run_at_the_same_time_is_refused(study: Study) -> None:
    lock = plan.hold(str(study.results))
    study.configure({**TINY, "place": {"rotation_deg": 20}})  # something to do
    before = study.written()
    try:
        assert study.planned()  # to ask is no offence
        status, out, err = study.run()
    finally:
        study.configure(TINY)
        lock.release()
        plan.hold.cache_clear()
    assert status != 0
    assert "error: results: another run is writing here; wait for its end" in err.splitlines()
    assert "Traceback" not in out + err
    assert study.written() == before


def cohort(study: Study, root: Path) -> Path:
    """A copy of the phantom scans as a cohort of folders."""
    shutil.copytree(study.results / "demo", root / "cohort")
    return root / "cohort"


def until(process: "subprocess.Popen[str]", root: Path, pattern: str, text: str) -> None:
    """Wait until a file whose path matches `pattern` holds `text`."""
    deadline = time.monotonic() + PATIENCE_S
    while not any(text.encode() in path.read_bytes() for path in root.glob(pattern)):
        assert process.poll() is None, f"ended before {pattern}"
        assert time.monotonic() < deadline, f"no {pattern}"
        time.sleep(0.02)


def test_killed_thrice_it_completes_with_the_same_bytes(study: Study, tmp_path: Path) -> None:
    """SIGKILL in the middle of preprocessing, of the refiner's and of the downstream training."""
    cohort(study, tmp_path)
    other = Study(tmp_path, study.program, FOLDERS)
    for pattern, text in (
        ("results/sub-H*/anat/*_desc-N4_*.nii.gz", ""),
        ("results/logs/train_refiner/*.log", "refiner training: "),
        ("results/logs/segment/*.log", "segmentation training: "),
    ):
        with open(tmp_path / "printed.txt", "w") as printed:  # a pipe that nobody reads fills up
            process = other.start(printed=printed)
            try:
                until(process, tmp_path, pattern, text)
            finally:
                kill(process)
        assert truncated(other.volumes()) == []
    assert not (other.results / "report").exists()
    status, _, err = other.run()
    assert status == 0, err[-5000:]
    assert truncated(other.volumes()) == []
    made = other.written()
    logs = {name for name in expected() if name.startswith(("logs/", "benchmarks/"))}
    assert sorted(made - expected()) == ["cohort/ingest.json"]
    arms = {n for n in expected() if "arm-real" in n or "arm-coarse" in n or "demo" in n}
    assert sorted(expected() - made - logs - arms) == []
    same = [
        path.relative_to(other.results)
        for path in other.results.rglob("*")
        if path.name.endswith((".nii.gz", ".npz", ".pt", "_rois.json", "scores.csv"))
        or re.search(r"desc-(coarse|tf)\d+\.json$", path.name)
    ]
    assert len(same) > 60
    differ = [
        n for n in same if (other.results / n).read_bytes() != (study.results / n).read_bytes()
    ]
    assert differ == []


def test_patients_alone_host_tumours_of_training_cases_only(study: Study, tmp_path: Path) -> None:
    cohort(study, tmp_path)
    settings = {
        **FOLDERS,
        "healthy": {"source": "none"},
        "place": {"patients": "kept"},
        "study": {**TINY["study"], "arms": ["coarse"]},
    }
    alone = Study(tmp_path, study.program, settings)
    status, _, err = alone.run()
    assert status == 0, err[-5000:]
    records = [
        json.loads(p.read_text()) for p in alone.results.glob("fold-*/**/*_desc-coarse*.json")
    ]
    assert {record["host"] for record in records} == set(TRAIN)
    assert {donor for record in records for donor in record["donors"]} <= set(TRAIN)
    for record in records:
        assert record["host"] in record["donors"]
        assert record["host_tumour"] == "kept"


def test_all_problems_of_a_bad_cohort_are_listed_and_nothing_is_written(
    study: Study, tmp_path: Path
) -> None:
    scans = cohort(study, tmp_path)
    (scans / "healthy" / "sub-H01" / "anat" / "sub-H01_T2w.nii.gz").unlink()
    cut = scans / "annotated" / "TF-00001" / "TF-00001-t2w.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-2000])
    labels = scans / "annotated" / "TF-00003" / "TF-00003-seg.nii.gz"
    image: Any = nib.load(labels)  # type: ignore[attr-defined]
    data = np.asanyarray(image.dataobj).copy()
    data[0, 0, 0] = 9
    nib.save(nib.Nifti1Image(data, image.affine), labels)  # type: ignore[attr-defined]
    bad = Study(tmp_path, study.program, FOLDERS)
    status, out, err = bad.run()
    assert status != 0
    assert "Traceback" not in out + err
    lines = err.splitlines()
    start = lines.index("error: 3 problem(s) in the cohorts")
    beginnings = (
        "cohort/healthy/sub-H01: has no T2w file",
        "cohort/annotated/TF-00001/TF-00001-t2w.nii.gz: ",
        "cohort/annotated/TF-00003/TF-00003-seg.nii.gz: has labels 9",
    )
    for line, beginning in zip(lines[start + 1 :], beginnings, strict=True):
        assert line.startswith(beginning)
    assert not bad.results.exists()


def test_skip_plans_without_the_bad_subject_and_lists_it(study: Study, tmp_path: Path) -> None:
    scans = cohort(study, tmp_path)
    (scans / "healthy" / "sub-H01" / "anat" / "sub-H01_T2w.nii.gz").unlink()
    partial = Study(tmp_path, study.program, {**FOLDERS, "ingest": {"on_error": "skip"}})
    planned = partial.planned()
    assert planned["preprocess_healthy"] == 1
    assert [name for name in planned if name.startswith("place_")] == [
        f"place_{plan.shard('H02', 16)}"
    ]
    assert planned["preprocess_annotated"] == 4
    skipped = pd.read_csv(partial.results / "cohort" / "skipped.tsv", sep="\t")
    assert skipped[["subject", "cohort"]].to_records(index=False).tolist() == [("H01", "healthy")]
    assert "has no T2w file" in skipped["problem"][0]


@pytest.mark.parametrize(("method", "gpus"), [("registration", "0"), ("hd-bet", "1")])
def test_preprocessing_asks_for_a_gpu_where_a_network_finds_the_brain(
    program: Path, tmp_path: Path, method: str, gpus: str
) -> None:
    config = {**TINY, "healthy": {"brain": method}}
    status, out, err = Study(tmp_path, program, config).run("--dry-run")
    assert status == 0, err
    asked = re.findall(r"^rule preprocess_(\w+):.*?gpu=(\d)", out, re.M | re.S)
    assert set(asked) == {("healthy", gpus), ("annotated", "0")}


def test_mistakes_in_the_config_are_one_line(program: Path, tmp_path: Path) -> None:
    study = Study(tmp_path, program, {**TINY, "segmant": {"steps": 3}, "seed": "one"})
    status, out, err = study.run()
    assert status != 0
    assert "Traceback" not in out + err
    told = [line for line in err.splitlines() if "profile" not in line]
    assert len(told) == 1
    assert told[0].startswith(
        "error: config: seed is 'one' but must be integer; unknown key segmant"
    )
    assert not study.results.exists()
