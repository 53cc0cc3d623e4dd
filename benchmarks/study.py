"""The brains that `realism` measures: a study's scans, standardised by its own workflow, and its
real tumours in their patients."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from benchmarks.texture import Tumour
from tumorfab import bank, config, stage
from tumorfab.contrast import Reference
from tumorfab.host import Host, load_host, load_patient
from tumorfab.stage import InputError
from tumorfab.volume import load_grid, load_on

ROOT = Path(__file__).parent.parent
STUDY = ROOT / "config" / "ixi_brats_t1_2mm.yaml"
PATIENTS = {
    "healthy": {"source": "none"},
    "place": {"patients": "healed"},
    "modalities": ["T1w", "T1c", "T2w", "FLAIR"],
}


@dataclass(frozen=True)
class Study:
    """Where the standardised files are, and which subjects are hosts and annotated cases."""

    out: Path
    label: str
    modalities: list[str]
    hosts: list[str]
    cases: list[str]
    patients: bool  # the hosts are the cases, healed

    def anat(self, subject: str) -> Path:
        """Folder of a subject's standardised files."""
        return self.out / "results" / f"sub-{subject}" / "anat"


def prepared(study: Path, data: Path, out: Path, patients: bool, cores: int) -> Study:
    """Run the workflow of a study up to its standardised scans and put all its tumours into a bank.

    The folders that the study names are looked for in `data`. With `patients` the annotated cases
    are the hosts, too. Raises `InputError` when the workflow fails.
    """
    section = yaml.safe_load(study.read_text(encoding="utf-8")) | {"results": "results"}
    section |= PATIENTS if patients else {}
    # An arm that waits for the bank, so that nothing behind it is run.
    section["study"] = {"arms": ["coarse"], "k": [section["split"]["train"]]}
    for cohort in (section["healthy"], section["annotated"]):
        if "path" in cohort:
            cohort["path"] = str((data / Path(cohort["path"]).name).resolve())
    stage.write_text(out / "study.yaml", yaml.safe_dump(section))
    settings = config.validated(section)
    command = [sys.executable, "-m", "snakemake", "--snakefile", f"{ROOT}/Snakefile",
               "--directory", f"{out}", "--configfile", f"{out}/study.yaml", "--cores", f"{cores}",
               "--replace-workflow-config",
               "--omit-from", "bank", "qc"]  # fmt: skip
    log = out / "workflow.log"
    with open(log, "w", encoding="utf-8") as handle:
        if subprocess.run(command, stdout=handle, stderr=subprocess.STDOUT, cwd=ROOT).returncode:
            raise InputError(f"{log}: the workflow failed; its end says why")
    subjects = pd.read_csv(out / "results" / "cohort" / "subjects.tsv", sep="\t", dtype=str)
    hosts, cases = (
        subjects.loc[subjects["cohort"] == cohort, "subject"].tolist()
        for cohort in ("healthy", "annotated")
    )
    label, modalities = settings["space"]["label"], settings["modalities"]
    named = [part for case in cases for part in ("--case", case, "unknown")]
    bank.main([*named, "--results", f"{out}/results", "--label", label,
               "--modality", *modalities, "--out", f"{out}/bank"])  # fmt: skip
    donors = {about["donor"] for about in bank.load(out / "bank", cases).about.values()}
    cases = [case for case in cases if case in donors]
    return Study(out, label, modalities, cases if patients else hosts, cases, patients)


def real_tumour(study: Study, case: str) -> Tumour:
    """The largest tumour of a patient, in the patient."""
    files = bank.case_files(study.anat(case), case, study.label)
    grid = load_grid(files["dseg"])
    record = stage.read_json(study.out / "bank" / f"sub-{case}_rois.json")
    images = {
        m: Reference(*record["reference"][m]).relative(load_on(str(files["image"]).format(m), grid))
        for m in study.modalities
    }
    labels = np.zeros(grid.shape, np.uint8)
    where = tuple(slice(*ends) for ends in record["rois"][0]["box"])
    labels[where] = bank.load(study.out / "bank", [case]).roi(record["rois"][0]["roi"]).labels
    annotated, brain, ventricles = (
        load_on(files[name], grid, labels=True) > 0 for name in ("dseg", "brain", "ventricles")
    )
    other = annotated & (labels == 0)
    return Tumour(case, case, images, labels, brain & ~other, ventricles, grid.spacing)


def load(study: Study, host: str) -> Host:
    """A host of the study; a patient with the tumour where it cannot be healed."""
    where = host, study.anat(host), study.label, study.modalities
    return load_patient(*where, "healed") if study.patients else load_host(*where)
