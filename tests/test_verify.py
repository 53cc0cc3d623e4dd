"""Every planted corruption of a release is found, also where its checksums were written anew."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from nibabel.nifti1 import Nifti1Image
from released import changed, make, reseal, write_study

from tumorfab import manifest, release, stage, verify
from tumorfab.stage import InputError
from tumorfab.volume import load, save


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(write_study(tmp_path_factory.mktemp("study") / "results"))


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy to damage; in it every view has a file of its own, as on a disk without links."""
    return Path(shutil.copytree(sound, tmp_path / "release"))


def rows(folder: Path) -> list[dict[str, Any]]:
    return manifest.read(folder)[0]


def everywhere(folder: Path, row: dict[str, Any], what: str) -> list[Path]:
    """A volume of a sample in all views."""
    sample = manifest.Sample(row["kind"], row["host"], row["number"])
    return [folder / row[what], *(folder / p for p in sample.views(["T1w", "T2w"])[what])]


def swap(a: Path, b: Path) -> None:
    first, second = a.read_bytes(), b.read_bytes()
    assert first != second
    a.write_bytes(second)
    b.write_bytes(first)


def test_a_sound_release_passes(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for threads in (1, 4):
        assert verify.verify(sound, threads) == []
    verify.main([str(sound)])
    assert "as released; its SHA256SUMS has SHA-256 " in capsys.readouterr().out


# What checksums find


def flip(folder: Path) -> str:
    path = rows(folder)[0]["T1w"]
    data = bytearray((folder / path).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / path).write_bytes(data)
    return f"{path}: its content has changed"


def lose(folder: Path) -> str:
    path = rows(folder)[3]["dseg"]
    (folder / path).unlink()
    return f"{path}: missing"


def add(folder: Path) -> str:
    (folder / "reports" / "notes.txt").write_text("new")
    return "reports/notes.txt: not part of the release"


def swap_labels(folder: Path) -> str:
    first, second = rows(folder)[:2]
    swap(folder / first["dseg"], folder / second["dseg"])
    return f"{first['dseg']}: its content has changed"


def edit_csv(folder: Path) -> str:
    path = folder / manifest.CSV
    path.write_text(path.read_text().replace("CC BY-SA 3.0", "CC0", 1))
    return "manifest.csv: its content has changed"


def edit_parquet(folder: Path) -> str:
    found = rows(folder)
    found[0]["seed"] = 8
    pyarrow.parquet.write_table(pa.Table.from_pylist(found), folder / manifest.PARQUET)
    return "manifest.parquet: its content has changed"


def cut(folder: Path) -> str:
    path = rows(folder)[1]["T2w"]
    (folder / path).write_bytes((folder / path).read_bytes()[:-50])
    return f"{path}: its content has changed"


def edit_a_view(folder: Path) -> str:
    path = everywhere(folder, rows(folder)[0], "dseg")[2]
    path.write_bytes(path.read_bytes() + b"\0")
    return f"{path.relative_to(folder)}: its content has changed"


def link_elsewhere(folder: Path) -> str:
    path = folder / "README.md"
    path.rename(folder.parent / "README.md")
    path.symlink_to(folder.parent / "README.md")
    return "README.md: is a symbolic link"


@pytest.mark.parametrize(
    "damage",
    [flip, lose, add, swap_labels, edit_csv, edit_parquet, cut, edit_a_view, link_elsewhere],
)
def test_damage_is_found(
    folder: Path, damage: Callable[[Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = damage(folder)
    assert expected in verify.verify(folder, 2)
    with pytest.raises(InputError, match=r"problem\(s\), listed above"):
        verify.main([str(folder)])
    assert expected in capsys.readouterr().out.splitlines()


# What checksums cannot find: files and checksums were exchanged together


def manifest_of(folder: Path, edit: Callable[[list[dict[str, Any]]], None]) -> None:
    found = rows(folder)
    edit(found)
    manifest.write(folder, found)


def restate(folder: Path) -> None:
    """Write the manifest's checksums anew."""

    def edit(found: list[dict[str, Any]]) -> None:
        for row in found:
            for what in ("T1w", "T2w", "dseg", "sidecar"):
                row[f"{what}_sha256"] = release.sha256(folder / row[what])

    manifest_of(folder, edit)


def cover_swapped_labels(folder: Path) -> str:
    first, other = (r for r in rows(folder) if r["kind"] == "tf" and r["number"] == 0)
    for a, b in zip(*(everywhere(folder, r, "dseg") for r in (first, other)), strict=True):
        swap(a, b)
    restate(folder)
    return f"{first['dseg']}: is not where its sidecar placed the tumour"


def cover_licence(folder: Path) -> str:
    manifest_of(folder, lambda found: found[0].__setitem__("licence_host", "CC0"))
    return f"manifest.csv: {rows(folder)[0]['sample']}: licence_host does not follow from its files"


def cover_donor(folder: Path) -> str:
    manifest_of(folder, lambda found: found[2].__setitem__("donors", "S00009"))
    return f"manifest.csv: {rows(folder)[2]['sample']}: donors does not follow from its files"


def cover_row(folder: Path) -> str:
    gone = rows(folder)[-1]
    manifest_of(folder, lambda found: found.pop() and None)
    return f"{gone['dseg']}: belongs to no sample"


def cover_view(folder: Path) -> str:
    row = rows(folder)[0]
    path = everywhere(folder, row, "T1w")[1]
    path.write_bytes((folder / rows(folder)[1]["T1w"]).read_bytes())
    return f"{path.relative_to(folder)}: is not the T1w of {row['sample']}"


def every_view(folder: Path, what: str, edit: Callable[[np.ndarray], None]) -> dict[str, Any]:
    row = rows(folder)[0]
    for path in everywhere(folder, row, what):
        changed(path, edit)
    restate(folder)
    return row


def cover_label(folder: Path) -> str:
    def unknown(data: np.ndarray) -> None:
        data[data == 3] = 4

    return f"{every_view(folder, 'dseg', unknown)['dseg']}: holds label 4, which has no meaning"


def cover_no_label(folder: Path) -> str:
    row = every_view(folder, "dseg", lambda data: data.fill(0))
    return f"{row['dseg']}: is empty, but a tumour was placed"


def cover_head(folder: Path) -> str:
    row = every_view(folder, "T1w", lambda data: data.fill(1))
    return f"{row['T1w']}: shows more than a brain; it may show a face"


def cover_grid(folder: Path) -> str:
    row = rows(folder)[0]
    for path in everywhere(folder, row, "T2w"):
        volume = load(path)
        save(path, volume.data[:-1], volume.affine)
    restate(folder)
    return f"{row['T2w']}: is on another grid than its label map"


def cover_header(folder: Path) -> str:
    row = rows(folder)[0]
    image: Any = Nifti1Image.from_filename(folder / row["T2w"])
    image.header["descrip"] = b"Jane Doe"
    for path in everywhere(folder, row, "T2w"):
        image.to_filename(path)
    restate(folder)
    return f"{row['T2w']}: header holds descrip"


def cover_refined(folder: Path) -> str:
    row = next(r for r in rows(folder) if r["kind"] == "tf")
    record = stage.read_json(folder / row["sidecar"])
    record["draw"]["tumours"][0]["seed"] += 1
    stage.write_json(folder / row["sidecar"], record)
    drawn = json.dumps(record["draw"], sort_keys=True)
    at = rows(folder).index(row)
    manifest_of(folder, lambda found: found[at].__setitem__("parameters", drawn))
    restate(folder)
    return f"{row['sidecar']}: is not refined from {row['sample'].replace('tf', 'coarse')}"


def cover_terms(folder: Path) -> str:
    path = folder / "bids" / "dataset_description.json"
    stage.write_json(path, stage.read_json(path) | {"License": "CC0 1.0"})
    return "bids/dataset_description.json: the licence is not that of the scans"


def cover_splits(folder: Path) -> str:
    path = "nnunet/Dataset502_tumorfabTf/splits_final.json"
    folds = stage.read_json(folder / path)
    folds[0]["train"] += folds[0]["val"]
    stage.write_json(folder / path, folds)
    return f"{path}: does not split the samples by host"


def cover_sidecar(folder: Path) -> str:
    path = rows(folder)[0]["sidecar"]
    (folder / path).write_text("{}")
    return f"{path}: is no sidecar of a sample (KeyError: 'draw')"


def cover_volume(folder: Path) -> str:
    row = rows(folder)[0]
    for path in everywhere(folder, row, "T1w"):
        path.unlink()
    return f"manifest.csv: {row['sample']}: {row['T1w']} is not there"


@pytest.mark.parametrize(
    "damage",
    [
        cover_swapped_labels, cover_licence, cover_donor, cover_row, cover_view, cover_label,
        cover_no_label, cover_head, cover_grid, cover_header, cover_refined, cover_terms,
        cover_splits, cover_sidecar, cover_volume,
    ],
)  # fmt: skip
def test_covered_damage_is_found(folder: Path, damage: Callable[[Path], str]) -> None:
    expected = damage(folder)
    reseal(folder)
    problems = verify.verify(folder, 2)
    assert expected in problems
    assert not any("its content has changed" in problem for problem in problems)


def test_csv_and_parquet_must_agree(folder: Path) -> None:
    edit_csv(folder)
    reseal(folder)
    assert verify.verify(folder, 1) == ["manifest.csv: differs from manifest.parquet"]


def test_a_folder_that_is_no_release_is_one_line(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match="no such file; name the folder of a release"):
        verify.main([str(tmp_path / "nothing")])
    (folder / release.SUMS).write_text("nonsense\n")
    with pytest.raises(InputError, match="line 1 is no checksum and path"):
        verify.main([str(folder)])


def test_a_lost_manifest_is_a_problem_among_others(folder: Path) -> None:
    (folder / manifest.PARQUET).write_bytes(b"PAR1")
    flipped = flip_first_label(folder)
    problems = verify.verify(folder, 1)
    assert f"{flipped}: its content has changed" in problems
    assert any("manifest cannot be read" in problem for problem in problems)


def flip_first_label(folder: Path) -> str:
    path = min(p for p in verify.listed(folder) if p.endswith("_dseg.nii.gz"))
    (folder / path).write_bytes(b"")
    return path
