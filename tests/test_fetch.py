"""Public data by name, from a server on this machine: transfers, archives, cache, cohorts."""

import errno
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from test_ingest import SHAPE, head, nifti, tumour

from tumorfab import cli, download, fetch, ingest, plan, public, volume
from tumorfab.config import validated
from tumorfab.stage import InputError

CHANNELS = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
LABELS = {
    "0": "background",
    "1": "edema",
    "2": "non-enhancing tumor",
    "3": "enhancing tumour",
}
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


@dataclass
class Server:
    """What is served by name, and how badly; `asked` lists (name, Range header) of each request."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    drop_after: list[int] = field(default_factory=list)  # bytes of one answer each, then whole ones
    asked: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, wanted = self.path.lstrip("/"), self.headers.get("Range", "")
            server.asked.append((name, wanted))
            if name not in server.files:
                return self.send_error(404)
            body, start = server.files[name], 0
            if wanted and server.ranges:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(body):
                    return self.send_error(416)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            end = start + server.drop_after.pop(0) if server.drop_after else len(body)
            self.wfile.write(body[start:end])
            return None

        def log_message(self, *arguments: Any) -> None:
            pass

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(state)) as listening:
        state.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield state
        listening.shutdown()
        thread.join()


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def archive(folder: Path, files: dict[str, Path | bytes]) -> bytes:
    """A tar with `files` by their name inside."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.read_bytes()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def ixi(folder: Path, modality: str, subjects: list[str]) -> bytes:
    files: dict[str, Path | bytes] = {"._IXI001-Guys-0001-T1.nii.gz": b"resource fork"}
    for number, subject in enumerate(subjects):
        name = f"{subject}-{modality}.nii.gz"
        files[name] = nifti(folder / name, head(number))
    return archive(folder, files)


def channel(case: int, number: int) -> np.ndarray:
    return np.rint(head(10 * case + number))


def msd(folder: Path, cases: int, about: dict[str, Any] | None = None) -> bytes:
    """As Task 1: 4D images, labels, a description; test cases and macOS's files beside."""
    top = "Task01_BrainTumour"
    described = about or {"modality": CHANNELS, "labels": LABELS}
    files: dict[str, Path | bytes] = {}
    for case in range(cases):
        name = f"BRATS_{case:03d}.nii.gz"
        stack = np.stack([channel(case, number) for number in range(4)], axis=-1)
        files[f"{top}/imagesTr/._{name}"] = b"resource fork"
        files[f"{top}/imagesTr/{name}"] = nifti(folder / "image" / name, stack)
        files[f"{top}/labelsTr/{name}"] = nifti(folder / "label" / name, tumour(1, 2, 3))
    files[f"{top}/imagesTs/BRATS_999.nii.gz"] = b"not to be opened"
    files[f"{top}/._dataset.json"] = b"resource fork"
    files[f"{top}/dataset.json"] = json.dumps(described).encode()
    return archive(folder, files)


def publish(
    monkeypatch: pytest.MonkeyPatch, server: Server, name: str, bodies: dict[str, bytes]
) -> None:
    """Serve `bodies` in the place of a data set's archives, with checksums that are right."""
    dataset = public.DATASETS[name]
    served = []
    for entry in dataset.archives:
        body = bodies.get(entry.name, b"")
        server.files[entry.name] = body
        served.append(replace(entry, url=f"{server.url}/{entry.name}", md5=md5(body)))
    monkeypatch.setitem(public.DATASETS, name, replace(dataset, archives=tuple(served)))


@pytest.fixture
def cache(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache, and both data sets on the server: 3 and 2 scans of IXI, 4 cases of the Decathlon."""
    subjects = ["IXI012-HH-1211", "IXI002-Guys-0828", "IXI035-IOP-0873"]
    made = tmp_path / "made"
    bodies = {
        "IXI-T1.tar": ixi(made, "T1", subjects),
        "IXI-T2.tar": ixi(made, "T2", subjects[1:]),
    }
    publish(monkeypatch, server, "ixi", bodies)
    publish(monkeypatch, server, "msd-task01", {"Task01_BrainTumour.tar": msd(made, 4)})
    return tmp_path / "cache"


def config_of(cache: Path, **sections: Any) -> dict[str, Any]:
    config = {
        "results": str(cache.parent / "results"),
        "cache": str(cache),
        "modalities": ["T1w", "T2w"],
        "healthy": {"source": "ixi"},
        "annotated": {"source": "msd-task01"},
        "split": {"train": 2, "validation": 1},
        "study": {"k": [2]},
    }
    return validated({**config, **sections})


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# One file


BODY = np.random.default_rng(1).bytes(5000)


def test_a_file_is_fetched_whole(server: Server, tmp_path: Path) -> None:
    server.files["a.tar"] = BODY
    download.obtain(f"{server.url}/a.tar", tmp_path / "a.tar", md5(BODY))
    assert (tmp_path / "a.tar").read_bytes() == BODY
    assert files_below(tmp_path) == ["a.tar"]


def test_a_broken_transfer_goes_on_where_it_ended(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["a.tar"] = BODY
    server.drop_after = [2000, 1000]
    download.obtain(f"{server.url}/a.tar", tmp_path / "a.tar", md5(BODY))
    assert (tmp_path / "a.tar").read_bytes() == BODY
    assert [wanted for _, wanted in server.asked] == ["", "bytes=2000-", "bytes=3000-"]
    told = capsys.readouterr().err
    assert told.count("a.tar.part: the connection was closed; trying to go on\n") == 2
    assert told.count("MiB: 1/1") == 0  # the first answer did not come to its end


def test_a_later_run_goes_on_where_an_earlier_one_failed(server: Server, tmp_path: Path) -> None:
    server.files["a.tar"] = BODY
    server.drop_after = [2000, 0]
    url, path = f"{server.url}/a.tar", tmp_path / "a.tar"
    with pytest.raises(InputError, match="the connection was closed") as caught:
        download.obtain(url, path, md5(BODY))
    assert "\n" not in str(caught.value)
    assert files_below(tmp_path) == ["a.tar.part"]
    server.asked.clear()
    download.obtain(url, path, md5(BODY))
    assert server.asked == [("a.tar", "bytes=2000-")]
    assert path.read_bytes() == BODY


def test_a_server_without_ranges_sends_all_of_it_again(server: Server, tmp_path: Path) -> None:
    server.files["a.tar"] = BODY
    server.ranges = False
    server.drop_after = [2000]
    download.obtain(f"{server.url}/a.tar", tmp_path / "a.tar", md5(BODY))
    assert (tmp_path / "a.tar").read_bytes() == BODY


def test_a_part_that_is_complete_is_used(server: Server, tmp_path: Path) -> None:
    server.files["a.tar"] = BODY
    (tmp_path / "a.tar.part").write_bytes(BODY)
    download.obtain(f"{server.url}/a.tar", tmp_path / "a.tar", md5(BODY))
    assert (tmp_path / "a.tar").read_bytes() == BODY


def test_a_wrong_checksum_is_refused_and_nothing_stays(server: Server, tmp_path: Path) -> None:
    server.files["a.tar"] = BODY
    with pytest.raises(InputError, match=rf"a\.tar: what came has MD5 {md5(BODY)} instead of 0+"):
        download.obtain(f"{server.url}/a.tar", tmp_path / "a.tar", "0" * 32)
    assert files_below(tmp_path) == []


def test_a_file_put_there_by_hand_needs_no_server_but_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(BODY)
    download.obtain("http://127.0.0.1:1/a.tar", path, md5(BODY))
    with pytest.raises(InputError, match=r"its MD5 is .* but must be 0+; delete it"):
        download.obtain("http://127.0.0.1:1/a.tar", path, "0" * 32)
    assert path.read_bytes() == BODY  # the user's own: not ours to delete


def test_a_missing_file_is_one_line(server: Server, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="the server says 404 Not Found; run again, or put"
    ) as error:
        download.obtain(f"{server.url}/a.tar", tmp_path / "a.tar", md5(BODY))
    assert "\n" not in str(error.value)
    assert files_below(tmp_path) == []


def test_no_network_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"127\.0\.0\.1:1/a\.tar: .*refused") as caught:
        download.obtain("http://127.0.0.1:1/a.tar", tmp_path / "a.tar", md5(BODY))
    assert "\n" not in str(caught.value)


# The cache


def test_both_data_sets_end_in_the_layouts_that_are_read(cache: Path) -> None:
    fetch.fetch_cohorts(config_of(cache))
    scans = {
        f"sub-{subject}/anat/sub-{subject}_{modality}.nii.gz"
        for modality, subjects in {
            "T1w": ["IXI012HH1211", "IXI002Guys0828", "IXI035IOP0873"],
            "T2w": ["IXI002Guys0828", "IXI035IOP0873"],
        }.items()
        for subject in subjects
    }
    records = {".lock", "IXI-T1.tar.json", "IXI-T2.tar.json"}
    assert set(files_below(cache / "ixi")) == scans | records
    cases = {
        f"BRATS_{case:03d}/BRATS_{case:03d}-{ending}.nii.gz"
        for case in range(4)
        for ending in ("t1n", "t1c", "t2w", "t2f", "seg")
    }
    assert set(files_below(cache / "msd-task01")) == cases | {
        ".lock",
        "Task01_BrainTumour.tar.json",
    }
    record = json.loads((cache / "ixi" / "IXI-T1.tar.json").read_text())
    assert record["licence"] == "CC BY-SA 3.0"
    assert record["md5"] == public.DATASETS["ixi"].archives[0].md5


def test_what_is_in_the_cache_needs_no_server(
    cache: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch.fetch_cohorts(config_of(cache))
    assert len(server.asked) == 3
    server.files.clear()
    fetch.fetch_cohorts(config_of(cache))
    assert len(server.asked) == 3


def test_only_the_modalities_of_the_study_are_fetched(cache: Path, server: Server) -> None:
    fetch.fetch("ixi", str(cache), ["T1w"])
    assert [name for name, _ in server.asked] == ["IXI-T1.tar"]
    fetch.fetch("ixi", str(cache), ["T1w", "T2w"])
    assert [name for name, _ in server.asked] == ["IXI-T1.tar", "IXI-T2.tar"]


def test_a_fetch_says_what_it_does_and_who_is_left_out(
    cache: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch.fetch("ixi", str(cache), ["T1w", "T2w"])
    told = capsys.readouterr().err.splitlines()
    assert told[0] == (
        f"ixi: fetching {server.url}/IXI-T1.tar into {cache / 'ixi'} "
        "(CC BY-SA 3.0, see https://brain-development.org/ixi-dataset/)"
    )
    assert told[-1] == (f"ixi: 2 subjects in {cache / 'ixi'}; 1 left out that lack one of T1w, T2w")


def test_the_cache_may_be_read_only_once_it_is_filled(cache: Path) -> None:
    fetch.fetch("ixi", str(cache), ["T1w"])
    before = files_below(cache)
    (cache / "ixi" / ".lock").unlink()
    fetch.fetch("ixi", str(cache), ["T1w"])
    assert files_below(cache) == [name for name in before if name != "ixi/.lock"]


def test_two_runs_at_a_time_fetch_once(
    cache: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = []

    def one() -> None:
        try:
            fetch.fetch("msd-task01", str(cache), ["T1w"])
        except InputError as error:
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(server.asked) == 1
    assert len(files_below(cache / "msd-task01")) == 4 * 5 + 2


@pytest.mark.parametrize("name", ["ixi", "msd-task01"])
def test_an_interrupted_unpacking_goes_on_without_a_new_transfer(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    real = fetch._extract
    calls: list[Path] = []

    def interrupted(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
        calls.append(path)
        if len(calls) == 5 - 3 * (name == "ixi"):  # amid the second subject
            raise OSError(errno.ENOSPC, "No space left on device")
        real(tar, member, path)

    monkeypatch.setattr(fetch, "_extract", interrupted)
    with pytest.raises(
        InputError, match="No space left on device; make room or set cache"
    ) as error:
        fetch.fetch(name, str(cache), ["T1w"])
    assert "\n" not in str(error.value)
    half = cache / name / ".tmp-of-a-killed-run.nii.gz"
    half.write_bytes(b"\x1f")
    done = {path: path.stat().st_mtime_ns for path in (cache / name).glob("*/**/*.nii.gz")}
    assert done
    monkeypatch.setattr(fetch, "_extract", real)
    fetch.fetch(name, str(cache), ["T1w"])
    assert len(server.asked) == 1
    assert not half.exists()
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())
    assert not list((cache / name).glob("*.tar"))


def test_a_truncated_archive_is_one_line_and_not_taken_for_done(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = server.files["Task01_BrainTumour.tar"]
    publish(monkeypatch, server, "msd-task01", {"Task01_BrainTumour.tar": whole[:4000]})
    for _ in range(2):
        with pytest.raises(InputError, match=r"not a readable tar archive .*; delete it") as error:
            fetch.fetch("msd-task01", str(cache), ["T1w"])
        assert "\n" not in str(error.value)
    assert len(server.asked) == 1


def test_a_full_disk_is_one_line(cache: Path) -> None:
    (cache / "ixi").mkdir(parents=True)
    (cache / "ixi" / "IXI-T1.tar.part").symlink_to("/dev/full")
    with pytest.raises(InputError, match="No space left on device; make room") as caught:
        fetch.fetch("ixi", str(cache), ["T1w"])
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_one_line(cache: Path) -> None:
    cache.write_text("a file where the cache should be")
    with pytest.raises(InputError, match=r"Not a directory; make room or set cache") as caught:
        fetch.fetch("ixi", str(cache), ["T1w"])
    assert "\n" not in str(caught.value)


def test_no_member_of_an_archive_leaves_the_cache(
    cache: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = nifti(tmp_path / "x.nii.gz", head())
    names = ["../../IXI900-HH-0001-T1.nii.gz", str(tmp_path / "evil" / "IXI901-HH-0002-T1.nii.gz")]
    body = archive(tmp_path, dict.fromkeys(names, scan))
    publish(monkeypatch, server, "ixi", {"IXI-T1.tar": body})
    before = set(files_below(tmp_path))
    fetch.fetch("ixi", str(cache), ["T1w"])
    new = set(files_below(tmp_path)) - before
    assert {name.split("/")[:2] == ["cache", "ixi"] for name in new} == {True}
    assert len(new) == 4  # lock, record and two scans


# The Decathlon's cases


def test_channels_and_labels_go_by_their_names(cache: Path) -> None:
    fetch.fetch("msd-task01", str(cache), ["T1w"])
    stem = cache / "msd-task01" / "BRATS_002" / "BRATS_002"
    for number, ending in enumerate(["t2f", "t1n", "t1c", "t2w"]):
        loaded = volume.load(f"{stem}-{ending}.nii.gz")
        assert np.array_equal(loaded.data, channel(2, number))
        assert np.array_equal(loaded.affine, AFFINE)
    # edema 1, non-enhancing 2, enhancing 3 there; NCR 1, ED 2, ET 3 here
    assert np.array_equal(volume.load_labels(f"{stem}-seg.nii.gz").data, tumour(2, 1, 3))


def test_another_order_in_the_description_is_followed(
    cache: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = {
        "modality": {"3": "T1w", "2": "FLAIR", "0": "T2w", "1": "t1gd"},
        "labels": {
            "0": "background",
            "3": "edema",
            "1": "enhancing tumour",
            "2": "non-enhancing tumor",
        },
    }
    body = msd(tmp_path / "other", 1, about)
    publish(monkeypatch, server, "msd-task01", {"Task01_BrainTumour.tar": body})
    fetch.fetch("msd-task01", str(cache), ["T1w"])
    stem = cache / "msd-task01" / "BRATS_000" / "BRATS_000"
    for number, ending in enumerate(["t2w", "t1c", "t2f", "t1n"]):
        assert np.array_equal(volume.load(f"{stem}-{ending}.nii.gz").data, channel(0, number))
    assert np.array_equal(volume.load_labels(f"{stem}-seg.nii.gz").data, tumour(3, 1, 2))


@pytest.mark.parametrize(
    ("about", "named"),
    [
        ({"modality": {"0": "ADC"}, "labels": LABELS}, "'adc'"),
        ({"modality": CHANNELS, "labels": {"1": "cyst"}}, "'cyst'"),
        ({"labels": LABELS}, "'modality'"),
    ],
)
def test_an_unknown_description_is_one_line(
    tmp_path: Path, about: dict[str, Any], named: str
) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(about))
    with pytest.raises(InputError, match=rf"dataset\.json: {named} is not known"):
        fetch.read_description(path)


def test_a_case_that_does_not_fit_its_description_is_named(tmp_path: Path) -> None:
    image = nifti(tmp_path / "i.nii.gz", np.zeros((*SHAPE, 3), np.float32))
    seg = nifti(tmp_path / "s.nii.gz", tumour(1, 7))
    stem = tmp_path / "BRATS_001"
    with pytest.raises(InputError, match="BRATS_001: has 3 channels, not 4"):
        fetch.split_case(image, seg, ["T1w", "T1c", "T2w", "FLAIR"], {0: 0, 1: 2}, stem)
    with pytest.raises(InputError, match=r"BRATS_001: has label 7, which dataset\.json does not"):
        fetch.split_case(image, seg, ["T1w", "T1c", "T2w"], {0: 0, 1: 2}, stem)
    assert files_below(tmp_path) == ["i.nii.gz", "s.nii.gz"]


def test_a_3d_file_has_no_channels(tmp_path: Path) -> None:
    path = nifti(tmp_path / "i.nii.gz", np.zeros(SHAPE, np.float32))
    with pytest.raises(InputError, match="one 4D volume is needed"):
        volume.load_channels(path)


# Cohorts


def test_a_study_is_planned_from_names_alone(cache: Path, server: Server) -> None:
    table = plan.subjects(config_of(cache), main_process=True)
    hosts = table[table["role"] == "host"]
    assert hosts["subject"].tolist() == ["IXI002Guys0828", "IXI035IOP0873"]
    assert set(hosts["licence"]) == {"CC BY-SA 3.0"}
    annotated = table[table["cohort"] == "annotated"]
    assert sorted(annotated["subject"]) == [f"BRATS00{case}" for case in range(4)]
    assert set(annotated["licence"]) == {"CC BY-SA 4.0"}
    assert sorted(annotated["role"]) == ["test", "train", "train", "validation"]
    for path in [*table["T1w"], *table["T2w"], *annotated["seg"]]:
        assert Path(path).is_relative_to(cache)
        assert nib.load(path).shape == SHAPE
    server.files.clear()  # and from then on without a server
    assert plan.subjects(config_of(cache), main_process=True).equals(table)


def test_a_licence_in_the_config_wins(cache: Path) -> None:
    config = config_of(cache, healthy={"source": "ixi", "licence": "by agreement"})
    assert plan.ingest_params(config)["healthy"]["licence"] == "by agreement"
    assert plan.ingest_params(config)["annotated"]["licence"] == "CC BY-SA 4.0"


def test_a_job_asks_nothing_of_the_network(cache: Path, server: Server) -> None:
    planned = plan.subjects(config_of(cache), main_process=True)
    asked = len(server.asked)
    (cache / "ixi" / "IXI-T1.tar.json").unlink()
    assert plan.subjects(config_of(cache), main_process=False).equals(planned)
    assert len(server.asked) == asked


def test_an_ingest_of_its_own_reads_the_cache(cache: Path, tmp_path: Path) -> None:
    config = config_of(cache)
    fetch.fetch_cohorts(config)
    params, out = json.dumps(plan.ingest_params(config)), tmp_path / "out"
    ingest.main(
        ["--params", params, "--subjects", f"{out}/s.tsv", "--skipped", f"{out}/k.tsv",
         "--threads", "1"]
    )  # fmt: skip
    assert len(ingest.read_subjects(out / "s.tsv")) == 2 + 4
    assert len((out / "k.tsv").read_text().splitlines()) == 1  # missing scans are no problem


def test_the_home_folder_may_be_written_as_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert public.cached("~/.cache/tumorfab", "ixi") == tmp_path / ".cache" / "tumorfab" / "ixi"


# The command


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["tumorfab", "fetch", *arguments])
    cli.main()


def test_the_command_fills_the_cache_for_a_study(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "my.yaml"
    study.write_text(f"cache: {cache}\nmodalities: [T1w]\nhealthy: {{source: ixi}}\n"
                     "annotated: {source: msd-task01}\n")  # fmt: skip
    call(monkeypatch, "--configfile", str(study))
    assert (cache / "ixi" / "IXI-T1.tar.json").exists()
    assert not (cache / "ixi" / "IXI-T2.tar.json").exists()
    assert (cache / "msd-task01" / "Task01_BrainTumour.tar.json").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", "neither healthy.source nor annotated.source is one of ixi, msd-task01"),
        ("[1", "not a readable YAML file"),
        ("text", "holds no keys"),
        ("sead: 1", "unknown key sead"),
        (None, "no such file"),
    ],
)
def test_a_bad_study_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, expected: str
) -> None:
    study = tmp_path / "my.yaml"
    if text is not None:
        study.write_text(text)
    with pytest.raises(SystemExit) as caught:
        call(monkeypatch, "--configfile", str(study))
    message = str(caught.value.code)
    assert message.startswith("error: ")
    assert expected in message
    assert "\n" not in message


def test_planning_imports_neither_images_nor_networks() -> None:
    program = "import sys, tumorfab.plan; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=plan.PACKAGE.parent, capture_output=True, text=True
    ).stdout.split()
    assert "tumorfab.fetch" in loaded
    assert not {"torch", "monai", "SimpleITK", "nibabel"} & set(loaded)
