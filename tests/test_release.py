"""A release of a toy study: views, metadata, terms, privacy, and the same bytes every time."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from nibabel.nifti1 import Nifti1Extension, Nifti1Image
from released import FOLD, LICENCES, anat, changed, contents, make, write_study, write_table

from tumorfab import datasets, files, manifest, privacy, release, sources, stage
from tumorfab.manifest import Sample
from tumorfab.stage import InputError

IDS = ("H1", "H2", "A1", "A2", "A3", "A4")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's folder, with its release in it."""
    results = write_study(tmp_path_factory.mktemp("study") / "results")
    make(results)
    return results


@pytest.fixture
def copy(study: Path, tmp_path: Path) -> Path:
    """A copy of the study to change, without the release."""
    target = tmp_path / "results"
    shutil.copytree(study, target, ignore=shutil.ignore_patterns("release*", "archives"))
    return target


@pytest.fixture(scope="module")
def rows(study: Path) -> list[dict[str, Any]]:
    found, agree = manifest.read(study / "release")
    assert agree
    return found


# Views


def test_every_sample_is_in_every_view_as_a_hard_link(
    study: Path, rows: list[dict[str, Any]]
) -> None:
    assert len(rows) == 8
    for row in rows:
        sample = Sample(row["kind"], row["host"], row["number"])
        for what, names in sample.views(["T1w", "T2w"]).items():
            bids = (study / "release" / row[what]).stat()
            assert len(names) == 2
            assert bids.st_nlink == 4  # the study's own, and three views
            for name in names:
                assert (study / "release" / name).stat().st_ino == bids.st_ino


def test_the_brats_view_is_read_as_brats(study: Path) -> None:
    for kind in ("coarse", "tf"):
        section = {"source": "brats", "path": str(study / "release" / "brats" / kind)}
        cases = sources.find("annotated", {**section, "licence": ""}, ["T1w", "T2w", "seg"])
        assert len(cases) == 4
        assert all(set(case.files) == {"T1w", "T2w", "seg"} for case in cases)


def test_nnunet_accepts_its_view(study: Path) -> None:
    program = (
        "import sys; from nnunetv2.experiment_planning.verify_dataset_integrity import"
        " verify_dataset_integrity as verify; [verify(f, 1) for f in sys.argv[1:]]"
    )
    folders = sorted(map(str, (study / "release" / "nnunet").iterdir()))
    assert [Path(f).name for f in folders] == ["Dataset501_tumorfabCoarse", "Dataset502_tumorfabTf"]
    told = subprocess.run(
        [sys.executable, "-c", program, *folders], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr[-2000:]


def test_the_bids_view_passes_the_validator(study: Path) -> None:
    validator = shutil.which("bids-validator-deno", path=Path(sys.executable).parent)
    if not validator:
        pytest.skip("bids-validator-deno is not installed")
    told = subprocess.run(
        [validator, str(study / "release" / "bids"), "--json"],
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if not told.stdout.startswith("{"):
        pytest.skip(f"bids-validator-deno does not run here: {told.stderr[-300:]}")
    found = json.loads(told.stdout)
    errors = [i for i in found["issues"]["issues"] if i["severity"] == "error"]
    assert errors == []
    assert len(found["summary"]["subjects"]) == 2


def test_t1c_has_its_bids_name() -> None:
    path = Sample("tf", "S1", 3).bids("x", "T1c")
    assert path == "bids/sub-S1/anat/sub-S1_ce-gadolinium_space-x_desc-tf003_T1w"


names = st.lists(st.tuples(st.sampled_from("ABCDEFGH"), st.integers(0, 3)), unique=True)


@given(names)
def test_folds_part_the_samples_and_keep_hosts_together(drawn: list[tuple[str, int]]) -> None:
    samples = [Sample("tf", host, number) for host, number in drawn]
    folds = datasets.splits(samples)
    hosts = {sample.host for sample in samples}
    assert len(folds) == (min(5, len(hosts)) if len(hosts) > 1 else 0)
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == sorted(s.id for s in samples)
        train, val = ({name.split("_")[0] for name in fold[part]} for part in ("train", "val"))
        assert val
        assert not train & val
    if folds:
        assert sorted(name for f in folds for name in f["val"]) == sorted(s.id for s in samples)


# Same inputs, same bytes


def test_the_same_study_gives_the_same_bytes(study: Path, copy: Path) -> None:
    make(copy, "--threads", "3")
    assert contents(copy / "release") == contents(study / "release")
    assert contents(copy / "archives") == contents(study / "archives")


def test_archives_depend_on_content_alone(study: Path, tmp_path: Path) -> None:
    """Neither on links nor on times, modes or the order in which files were made."""
    folder = tmp_path / "release"
    for path in reversed(files.below(study / "release")):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes((study / "release" / path).read_bytes())
        os.chmod(folder / path, 0o600)
    sums = contents(folder)
    (packed,) = files.pack(folder, sums, tmp_path / "tumorfab-synthetic-1.0.0", 10**9)
    assert files.sha256(packed) == contents(study / "archives")[packed.name]


def test_where_no_hard_links_are_the_bytes_are_the_same(
    study: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    make(copy)
    assert contents(copy / "release") == contents(study / "release")
    assert contents(copy / "archives") == contents(study / "archives")


def test_an_archive_holds_each_volume_once_and_unpacks_to_the_release(
    study: Path, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    (path,) = (study / "archives").glob("*.tar")
    with tarfile.open(path) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in tar} == {(0, 0, 0, "", 0o644)}
        tar.extractall(tmp_path, filter="data")
    assert contents(tmp_path / path.stem) == contents(study / "release")
    distinct = {digest for p, digest in contents(study / "release").items() if ".nii" in p}
    links = [row[f"{w}_sha256"] for row in rows for w in ("T1w", "T2w", "dseg")]
    assert len(distinct) < len(links)
    volumes = {p: (study / "release" / p).stat().st_size for p in contents(study / "release")}
    unlinked = sum(volumes.values())
    assert path.stat().st_size < 0.5 * unlinked


@given(
    st.lists(st.tuples(st.sampled_from("abcdefg"), st.integers(1, 9)), max_size=12),
    st.integers(1, 20),
)
def test_parts_hold_everything_and_no_content_twice(
    drawn: list[tuple[str, int]], limit: int
) -> None:
    sizes = dict(drawn)
    entries = [(f"{i}", content, sizes[content]) for i, (content, _) in enumerate(drawn)]
    cut = files.parts(entries, limit)
    assert sorted(p for part in cut for p in part) == sorted(p for p, _, _ in entries)
    where: dict[str, set[int]] = {}
    for path, content, _ in entries:
        where.setdefault(content, set()).add(next(n for n, p in enumerate(cut) if path in p))
    assert all(len(parts) == 1 for parts in where.values())
    for number in range(len(cut)):
        inside = {c for c, parts in where.items() if number in parts}
        assert sum(sizes[c] for c in inside) <= limit or len(inside) == 1


# Metadata


def test_croissant_is_valid_and_reads_the_manifest(study: Path, rows: list[dict[str, Any]]) -> None:
    croissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    dataset = croissant.Dataset(study / "release" / "croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    records = list(dataset.records("samples"))
    assert len(records) == len(rows)
    for record, row in zip(records, rows, strict=True):
        found = {key.removeprefix("samples/"): value for key, value in record.items()}
        assert set(found) == set(row)
        assert found["sample"].decode() == row["sample"]
        assert found["et_ml"] == pytest.approx(row["et_ml"])
        assert found["dseg_sha256"].decode() == row["dseg_sha256"]


def test_a_row_says_how_its_sample_was_made(study: Path, rows: list[dict[str, Any]]) -> None:
    row = next(r for r in rows if r["sample"].endswith("tf001"))
    key = pd.read_csv(study / "release_key.tsv", sep="\t").set_index("release")["subject"]
    host = key[row["host"]]
    (sidecar,) = anat(study, host).glob("*tf001.json")
    record = stage.read_json(sidecar)
    assert sorted(key[d] for d in row["donors"].split(";")) == sorted(record["donors"])
    assert (
        json.loads(row["parameters"])["tumours"][0]["seed"]
        == (record["draw"]["tumours"][0]["seed"])
    )
    assert row["seed"] == record["seed"]
    assert row["licence_host"] == LICENCES["host"]
    assert all(json.loads(row["checks"]).values())
    # The toy's middle voxel is MNI152's origin, one voxel is 4 mm, the first axis runs to the left.
    (site,) = json.loads(row["site_mni_mm"])
    voxel = np.array(record["draw"]["tumours"][0]["pose"]["site"])
    np.testing.assert_allclose(site, (voxel - [19.5, 21.5, 17.5]) * [-4, -4, 4], atol=0.01)


def test_the_card_the_citation_and_the_terms_agree(study: Path) -> None:
    folder = study / "release"
    about = stage.read_json(folder / "bids" / "dataset_description.json")
    assert about["License"] == "CC BY-SA 4.0"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "8 samples in the brains of 2\nsubjects, with tumours of 2 patients" in card
    assert "Terms: CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/)" in card
    assert "- 2 hosts: CC BY-SA 3.0" in card
    assert "- 2 donors: CC BY-SA 4.0" in card
    assert "INTERNAL" not in card
    citation = yaml.safe_load((folder / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "type", "version"} <= set(citation)
    assert stage.read_json(folder / "croissant.json")["license"].endswith("/by-sa/4.0/")


def test_authors_and_date_are_told(copy: Path) -> None:
    folder = make(copy, authors=["Doe, Jo", "The Group"], date="2026-11-23")
    citation = yaml.safe_load((folder / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["authors"] == [
        {"family-names": "Doe", "given-names": "Jo"},
        {"name": "The Group"},
    ]
    assert citation["date-released"] == "2026-11-23"
    assert stage.read_json(folder / "croissant.json")["datePublished"] == "2026-11-23"


# Terms


@pytest.mark.parametrize("internal", ["option", "config"])
def test_what_may_not_be_published_is_refused_or_marked(copy: Path, internal: str) -> None:
    sidecar = next(anat(copy, "H2").glob("*coarse000.json"))
    record = stage.read_json(sidecar)
    record["licence"]["host"] = "CC BY-NC 4.0"
    stage.write_json(sidecar, record)
    with pytest.raises(InputError, match=r"host H2 \(CC BY-NC 4\.0\)"):
        make(copy)
    assert not (copy / "release").exists()
    folder = make(copy, "--internal") if internal == "option" else make(copy, internal=True)
    about = stage.read_json(folder / "bids" / "dataset_description.json")
    assert about["License"] == "internal use only, not for publication"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "**INTERNAL RELEASE: not for publication.**" in card
    assert not re.search(r"\bH2\b", card)


# Privacy


def texts(folder: Path) -> dict[str, str]:
    """Names of all files, and what those hold that are text."""
    found = {}
    for path in files.below(folder):
        text = "" if path.endswith((".nii.gz", ".parquet")) else (folder / path).read_text("utf-8")
        found[path] = f"{path}\n{text}"
    return found


def test_no_id_and_no_place_is_told(study: Path, rows: list[dict[str, Any]]) -> None:
    told = {**texts(study / "release"), "parquet": json.dumps(rows)}
    assert len(told) > 60
    for path, text in told.items():
        if path in (manifest.CSV, "SHA256SUMS"):
            text = re.sub(r"\b[0-9a-f]{64}\b", "", text)
        assert not re.search(rf"(?<![A-Za-z0-9])({'|'.join(IDS)})(?![A-Za-z0-9])", text), path
        assert "source-" not in text
        assert "scans/" not in text
        assert str(study) not in text


def test_ids_are_told_where_that_is_allowed(copy: Path) -> None:
    folder = make(copy, source_ids=True)
    rows, _ = manifest.read(folder)
    assert {row["host"] for row in rows} == {"H1", "H2"}
    assert (folder / "bids" / "sub-H1").is_dir()


def test_pages_with_names_and_pictures_go_only_where_they_may(copy: Path) -> None:
    for page in ("report", "qc"):
        (copy / page / "index.html").write_text(page)
    told = {"report.html": "report", "qc.html": "qc"}
    for section, expected in (
        ({}, set()),
        ({"source_ids": True}, {"report.html"}),
        ({"internal": True}, {"qc.html"}),
    ):
        pages = {p.name: p.read_text() for p in make(copy, **section).rglob("*.html")}
        assert pages == {name: told[name] for name in expected}


def test_an_id_in_words_of_a_sidecar_or_a_note_is_refused(copy: Path) -> None:
    sidecar = next(anat(copy, "H1").glob("*coarse000.json"))
    record = stage.read_json(sidecar)
    stage.write_json(sidecar, record | {"refused": ["no donor A3 in the bank"]})
    with pytest.raises(InputError, match=r"would publish the id .* 'no donor A3 in the bank'"):
        make(copy)
    stage.write_json(sidecar, record)
    review = copy / "qc" / "review.csv"
    write_table(review, [{"sample": sidecar.stem, "verdict": "reject", "note": "as in A1"}])
    with pytest.raises(InputError, match=r"'as in A1'"):
        make(copy, "--review", str(review))


@given(st.sets(st.text("abcXYZ019", min_size=1), min_size=1, max_size=20), st.integers(0, 9))
def test_pseudonyms_are_one_to_one_and_do_not_depend_on_order(ids: set[str], seed: int) -> None:
    found = privacy.pseudonyms(sorted(ids), seed)
    assert set(found) == ids
    assert len(set(found.values())) == len(ids)
    assert privacy.pseudonyms(sorted(ids, reverse=True), seed) == found
    record = {"host": min(ids), "donors": sorted(ids), "sub-" + min(ids) + "_x": f"{min(ids)}-0"}
    back = {name: subject for subject, name in found.items()}
    assert privacy.renamed(privacy.renamed(record, found), back) == record


PLANTED = {
    "descrip": lambda image: image.header.__setitem__("descrip", b"Jane Doe"),
    "aux_file": lambda image: image.header.__setitem__("aux_file", b"doe.txt"),
    "db_name": lambda image: image.header.__setitem__("db_name", b"Doe"),
    "intent_name": lambda image: image.header.__setitem__("intent_name", b"Doe"),
    "extensions": lambda image: image.header.extensions.append(
        Nifti1Extension("comment", b"Jane Doe")
    ),
}


@pytest.mark.parametrize("place", PLANTED)
def test_text_in_a_header_is_found(tmp_path: Path, place: str) -> None:
    path = tmp_path / "x.nii.gz"
    image = Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4))
    PLANTED[place](image)
    with gzip.GzipFile("", "wb", fileobj=path.open("wb"), mtime=0) as handle:
        handle.write(image.to_bytes())
    assert privacy.header_text(path) == [place]


def test_a_name_or_time_in_the_gzip_header_is_found(study: Path, tmp_path: Path) -> None:
    clean = next((study / "release" / "bids").rglob("*_T1w.nii.gz"))
    assert privacy.header_text(clean) == []
    path = tmp_path / "jane_doe.nii.gz"
    with gzip.open(path, "wb") as handle:
        handle.write(gzip.decompress(clean.read_bytes()))
    assert privacy.header_text(path) == ["gzip name", "gzip time"]
    path.write_bytes(clean.read_bytes()[:20])
    assert privacy.header_text(path) == ["unreadable"]


def test_a_voxel_outside_the_brain_is_refused(copy: Path) -> None:
    image = next(anat(copy, "H1").glob("*coarse000_T2w.nii.gz"))

    def add_nose(data: np.ndarray) -> None:
        data[20, 43, 10] = 1.0

    changed(image, add_nose)
    with pytest.raises(InputError, match=r"coarse000_T2w.nii.gz: 1 voxels outside the brain"):
        make(copy)
    assert not (copy / "release").exists()


# What gate and review say


def verdict_table(path: Path, sample: str, **cells: str) -> list[str]:
    write_table(path, [{"sample": sample, "verdict": "reject", **cells}])
    return [f"--{path.stem}", str(path)]


def test_rejected_samples_stay_out_with_their_reasons(copy: Path) -> None:
    gate = verdict_table(copy / "gate.csv", "sub-H1_space-analysis_desc-tf000",
                         reasons="too dark", realism="0.1")  # fmt: skip
    review = verdict_table(copy / "review.csv", "sub-H2_desc-coarse001", note="odd, look", by="me")
    folder = make(copy, *gate, *review)
    rows, _ = manifest.read(folder)
    key = pd.read_csv(copy / "release_key.tsv", sep="\t").set_index("subject")["release"]
    gone = {f"{key['H1']}_tf000", f"{key['H2']}_coarse001"}
    assert len(rows) == 6
    assert not gone & {row["sample"] for row in rows}
    assert not [path for path in files.below(folder) for name in gone if name in path]
    excluded = pd.read_csv(folder / "excluded.csv").set_index("sample")
    assert excluded["by"].to_dict() == {
        f"{key['H1']}_tf000": "gate",
        f"{key['H2']}_coarse001": "review",
    }
    assert excluded["reason"].to_dict() == {
        f"{key['H1']}_tf000": "too dark",
        f"{key['H2']}_coarse001": "odd, look",
    }


def test_scores_of_the_gate_are_in_the_manifest_and_the_last_verdict_holds(copy: Path) -> None:
    stem = "sub-H1_space-analysis_desc-tf000"
    rows = [
        {"sample": stem, "verdict": v, "note": n} for v, n in [("reject", "?"), ("accept", "ok")]
    ]
    write_table(copy / "review.csv", rows)
    write_table(copy / "gate.csv", [{"sample": stem, "verdict": "accept", "realism": "0.7"}])
    folder = make(copy, "--gate", str(copy / "gate.csv"), "--review", str(copy / "review.csv"))
    found = [r for r in manifest.read(folder)[0] if r["gate"] != "{}"]
    assert len(found) == 1
    assert json.loads(found[0]["gate"]) == {"verdict": "accept", "realism": "0.7"}
    assert json.loads(found[0]["review"]) == {"verdict": "accept", "note": "ok"}


def test_a_path_tells_the_sets_of_samples_apart(copy: Path) -> None:
    name = "sub-H1/anat/sub-H1_space-analysis_desc-tf000"
    rows = [
        {"sample": f"{FOLD}/{name}", "verdict": "reject", "note": "blurred"},
        {"sample": f"fold-7_k-9/{name.replace('tf000', 'tf001')}", "verdict": "reject"},
    ]
    write_table(copy / "review.csv", rows)
    folder = make(copy, "--review", str(copy / "review.csv"))
    assert pd.read_csv(folder / "excluded.csv")["reason"].tolist() == ["blurred"]


@pytest.mark.parametrize(
    ("sample", "verdict", "problem"),
    [
        ("sub-H9_desc-tf000", "reject", "line 2: H9 is no subject of this study"),
        ("H1 tf 0", "reject", "line 2: H1 tf 0: no name of a sample"),
        ("sub-H1_desc-tf000", "maybe", "line 2: verdict is 'maybe', not accept or reject"),
    ],
)
def test_a_verdict_that_names_nothing_is_refused(
    copy: Path, sample: str, verdict: str, problem: str
) -> None:
    write_table(copy / "review.csv", [{"sample": sample, "verdict": verdict}])
    with pytest.raises(InputError, match=re.escape(problem)):
        make(copy, "--review", str(copy / "review.csv"))


def test_a_release_without_samples_is_refused(copy: Path) -> None:
    rows = [
        {"sample": path.stem, "verdict": "reject"}
        for host in ("H1", "H2")
        for path in anat(copy, host).glob("*.json")
    ]
    write_table(copy / "review.csv", rows)
    with pytest.raises(InputError, match="leave no sample"):
        make(copy, "--review", str(copy / "review.csv"))


def test_a_failed_release_leaves_the_old_one(copy: Path) -> None:
    before = contents(make(copy))
    sidecar = next(anat(copy, "H1").glob("*coarse000.json"))
    stage.write_json(sidecar, stage.read_json(sidecar) | {"refused": ["A3"] , "licence": {
        "host": "unknown", "donors": {}}})  # fmt: skip
    with pytest.raises(InputError):
        make(copy)
    assert contents(copy / "release") == before


def test_sha256sums_is_the_usual_format(study: Path) -> None:
    told = subprocess.run(
        ["sha256sum", "--check", "--quiet", release.SUMS],
        cwd=study / "release", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stdout
