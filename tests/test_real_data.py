"""The real workflow on real MRI: two IXI heads and four BraTS cases on a coarse grid."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from tumorfab import samples
from tumorfab.volume import load, load_labels

ROOT = Path(__file__).parent.parent
HOSTS = ["IXI013HH1212", "IXI559HH2394"]
CASES = ["00006", "00495", "01479", "01481"]
S = "analysis"


@pytest.fixture(scope="module")
def results(real_data, tmp_path_factory):
    """Run the study from two tables of paths; returns its results folder."""
    folder = tmp_path_factory.mktemp("real")
    ixi, brats = real_data / "healthy_ixi_t1_2mm", real_data / "tumour_brats2021"
    hosts = [{"subject": h, "T1w": f"{ixi}/sub-{h}/anat/sub-{h}_T1w.nii.gz"} for h in HOSTS]
    stems = {c: f"{brats}/BraTS2021_{c}/BraTS2021_{c}" for c in CASES}
    roles = dict(zip(CASES, ("train", "train", "validation", "test"), strict=True))
    cases = [
        {"subject": c, "T1w": f"{s}_t1.nii.gz", "seg": f"{s}_seg.nii.gz", "role": roles[c]}
        for c, s in stems.items()
    ]
    pd.DataFrame(hosts).to_csv(folder / "hosts.csv", index=False)
    pd.DataFrame(cases).to_csv(folder / "cases.csv", index=False)
    config = {
        "modalities": ["T1w"],
        "healthy": {"source": "table", "path": "hosts.csv", "licence": "CC BY-SA 3.0"},
        "annotated": {"source": "table", "path": "cases.csv", "licence": "CC BY 4.0"},
        "space": {"spacing": 4.0},
        "study": {"k": [2], "n": [1], "seeds": [0]},
        "refiner": {"steps": 5, "encoder_steps": 5, "patch": 16, "channels": 4},
        "segment": {"steps": 6, "patch": 32, "channels": 4, "validate_every": 3},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(config))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--cores", "2",
         "--directory", folder, "--configfile", folder / "study.yaml", "--replace-workflow-config"],
        env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return folder / "results"


def standardised(results, subject, name):
    return results / f"sub-{subject}/anat/sub-{subject}_space-{S}_{name}.nii.gz"


@pytest.mark.real_data
@pytest.mark.workflow
def test_hosts_reach_the_analysis_space(results, real_data):
    template = load(results / f"template/template_space-{S}_desc-brain_mask.nii.gz")
    assert template.grid.shape == (60, 60, 39)  # 240 x 240 x 155 mm at 4 mm
    for host in HOSTS:
        mask = load(standardised(results, host, "desc-brain_mask"))
        assert mask.grid.matches(template.grid)
        overlap = 2 * (mask.data * template.data).sum() / (mask.data.sum() + template.data.sum())
        assert overlap > 0.9
        native = load(results / f"sub-{host}/anat/sub-{host}_desc-brain_mask.nii.gz")
        published = (
            real_data / f"healthy_ixi_t1_2mm/sub-{host}/anat/sub-{host}_desc-brain_mask.nii.gz"
        )
        truth = load(published)
        assert native.grid.matches(truth.grid)
        agreement = 2 * (native.data * truth.data).sum() / (native.data.sum() + truth.data.sum())
        assert agreement > 0.93


@pytest.mark.real_data
@pytest.mark.workflow
def test_labels_keep_their_volume_and_brats_4_is_read_as_et(results, real_data):
    for case in CASES:
        ours = load_labels(standardised(results, case, "dseg"))
        theirs = load_labels(
            real_data / f"tumour_brats2021/BraTS2021_{case}/BraTS2021_{case}_seg.nii.gz"
        )
        assert set(np.unique(ours.data)) <= {0, 1, 2, 3}
        et_ml = [(ours.data == 3).sum() * 64 / 1000, (theirs.data == 4).sum() / 1000]
        assert et_ml[0] == pytest.approx(et_ml[1], rel=0.25, abs=1)
        wt_ml = [(ours.data > 0).sum() * 64 / 1000, (theirs.data > 0).sum() / 1000]
        assert wt_ml[0] == pytest.approx(wt_ml[1], rel=0.1)


@pytest.mark.real_data
@pytest.mark.workflow
def test_synthetic_tumours_come_from_training_cases_and_look_like_them(results):
    bank = {
        p.name.split("_")[0]: json.loads(p.read_text()) for p in (results / "bank").glob("*.json")
    }
    assert set(bank) == {"sub-00006", "sub-00495"}  # never validation or test
    sidecars = sorted((results / "fold-0_k-2").glob("sub-*/anat/*desc-coarse*.json"))
    assert len(sidecars) == len(HOSTS)
    for sidecar in sidecars:
        record = json.loads(sidecar.read_text())
        assert record["draw"]["tumours"], record["refused"]
        donors = record["donors"]
        assert set(donors) <= {"00006", "00495"}
        assert record["licence"] == {
            "host": "CC BY-SA 3.0",
            "donors": dict.fromkeys(donors, "CC BY 4.0"),
        }
        image = load(sidecar.with_name(f"{sidecar.stem}_T1w.nii.gz")).data
        labels = load_labels(sidecar.with_name(f"{sidecar.stem}_dseg.nii.gz")).data
        centre, scale = record["reference"]["T1w"]
        (contrast,) = samples.contrasts(record, ["T1w"])
        relative = (image - centre) / scale / contrast
        rois = [roi for donor in donors for roi in bank[f"sub-{donor}"]["rois"]]
        for value, name in ((1, "NCR"), (2, "ED"), (3, "ET")):
            inside = relative[labels == value]
            if inside.size >= 20:
                # But for its contrast, a class's look lies between those of the donors that it
                # was mixed from.
                means = [r["classes"][name]["mean"]["T1w"] for r in rois if "mean" in
                         r["classes"][name]]  # fmt: skip
                assert min(means) - 0.5 < inside.mean() < max(means) + 0.5


@pytest.mark.real_data
@pytest.mark.workflow
def test_the_table_covers_every_arm_and_region(results):
    table = pd.read_csv(results / "report/dice.csv")
    assert len(table) == 3 * 1 * 3  # arms x test cases x regions
    assert set(table["arm"]) == {"real", "coarse", "tf"}
    assert table["dice"].between(0, 1).all()
    page = (results / "report/index.html").read_text()
    assert "PHANTOM" not in page
