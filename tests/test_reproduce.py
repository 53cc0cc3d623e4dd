"""A coarse sample of a release is rebuilt from hosts and bank with the same bytes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from released import changed, make, write_study

from tumorfab import manifest, place, reproduce, stage
from tumorfab import samples as made
from tumorfab.stage import InputError


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with its release in it."""
    results = write_study(tmp_path_factory.mktemp("study") / "results")
    make(results)
    return results


@pytest.fixture
def study(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "results"))


def samples(results: Path, kind: str) -> list[dict[str, Any]]:
    return [r for r in manifest.read(results / "release")[0] if r["kind"] == kind]


def run(results: Path, sample: str, *options: str) -> None:
    reproduce.main([str(results / "release"), "--sample", sample, *options])


def test_every_coarse_sample_is_rebuilt(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = samples(sound, "coarse")
    assert len(rows) == 4
    for row in rows:
        run(sound, row["sample"])
        told = capsys.readouterr().out
        assert told == f"{row['sample']}: rebuilt with the same bytes (3 volumes)\n"


def test_a_release_elsewhere_finds_the_study(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (study / "release").rename(tmp_path / "release")
    sample = manifest.read(tmp_path / "release")[0][0]["sample"]
    with pytest.raises(InputError, match=r"release_key\.tsv: no such file; --results names"):
        run(tmp_path, sample)
    run(tmp_path, sample, "--results", str(study))
    assert "same bytes" in capsys.readouterr().out


def test_one_voxel_is_seen(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = samples(study, "coarse")[0]

    def nudge(data: np.ndarray) -> None:
        data[20, 20, 10] += 0.01

    changed(study / "release" / row["T2w"], nudge)
    with pytest.raises(InputError, match=r"1 volume\(s\) differ"):
        run(study, row["sample"])
    assert capsys.readouterr().out == f"{row['T2w']}: other voxels\n"


def test_an_edited_draw_is_seen(study: Path) -> None:
    row = samples(study, "coarse")[0]
    path = study / "release" / row["sidecar"]
    record = stage.read_json(path)
    record["draw"]["tumours"][0]["look_share"] = 0.99
    stage.write_json(path, record)
    with pytest.raises(InputError, match=r"volume\(s\) differ"):
        run(study, row["sample"])


@pytest.mark.parametrize("way", ["kept", "healed"])
def test_a_patient_as_host_is_rebuilt(sound: Path, tmp_path: Path, way: str) -> None:
    """As the study calls its subjects: what a release renames is renamed back before."""
    place.main(
        ["--host", "A1", "--patient", way, "--anat", str(sound / "sub-A1" / "anat"), "--bank",
         str(sound / "bank"), "--donor", "A1", "A2", "--draws", "1", "--label", toy.LABEL,
         "--modality", *toy.MODALITIES, "--seed", "7", "--params", json.dumps(toy.PLACE),
         "--out", str(tmp_path)]
    )  # fmt: skip
    (sidecar,) = tmp_path.glob("*.json")
    record = stage.read_json(sidecar)
    assert record["host_tumour"] == way
    anat = sound / "sub-A1" / "anat"
    host = reproduce.rebuilt(record, anat, sound / "bank", toy.LABEL, toy.MODALITIES)
    row = {"dseg": made.dseg(sidecar).name}
    row |= {m: made.image(sidecar, m).name for m in toy.MODALITIES}
    assert reproduce.differences(row, tmp_path, host) == []


@pytest.mark.parametrize("what", ["host", "bank"])
def test_other_inputs_are_named(study: Path, what: str) -> None:
    row = samples(study, "coarse")[0]
    paths = {
        "host": sorted(study.glob("sub-H*/anat/*_desc-preproc_T1w.nii.gz")),
        "bank": sorted(study.glob("bank/sub-A[12]_rois.npz")),
    }[what]
    for path in paths:
        path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match=r"is not what the sample was made from"):
        run(study, row["sample"])


def test_what_is_not_rebuilt_is_one_line(sound: Path) -> None:
    with pytest.raises(InputError, match="refined by a network; only coarse samples"):
        run(sound, samples(sound, "tf")[0]["sample"])
    with pytest.raises(InputError, match=r"--sample: nothing is not in .*manifest\.csv"):
        run(sound, "nothing")
