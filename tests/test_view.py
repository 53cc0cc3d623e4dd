"""The viewer's server, and its page in a real browser."""

import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from browser import CHROMIUM, Tab, chromium
from matplotlib.colors import to_rgb
from toy import make_samples, write_cohort

from tumorfab import review, stage, view, volume
from tumorfab.review import Review
from tumorfab.stage import InputError
from tumorfab.views import LABEL_COLOURS

ROOT = Path(__file__).parent.parent
KEY = "key"
FIRST, SECOND = (
    f"fold-0_k-2/sub-H1/anat/sub-H1_space-analysis_desc-coarse00{number}" for number in (0, 1)
)
SECRET = b"what lies beside the results"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with two samples of one host, and something beside it that is private."""
    results = tmp_path_factory.mktemp("study") / "results"
    write_cohort(results)
    make_samples(results, results / "fold-0_k-2/sub-H1/anat", mass_effect=[0.3, 0.3])
    (results / "qc").mkdir()
    (results.parent / "secret.txt").write_bytes(SECRET)
    (results / "digits.txt").write_bytes(b"0123456789")
    return results


@pytest.fixture
def results(study: Path) -> Iterator[Path]:
    """The same without a verdict."""
    review.path(study).unlink(missing_ok=True)
    yield study
    review.path(study).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def port(study: Path) -> Iterator[int]:
    """The port of a running server."""
    with view.server(study, 0, KEY) as running:
        thread = Thread(target=running.serve_forever)
        thread.start()
        yield running.port
        running.shutdown()
        thread.join()


class Answer:
    def __init__(self, port: int, method: str, path: str, body: bytes, headers: dict) -> None:
        connection = http.client.HTTPConnection(view.ADDRESS, port)
        connection.request(method, path, body or None, headers)
        found = connection.getresponse()
        self.status, self.headers, self.body = found.status, found.headers, found.read()
        connection.close()


def get(port: int, path: str, method: str = "GET", **headers: str) -> Answer:
    return Answer(port, method, path, b"", headers)


def post(port: int, value: Any, key: str = KEY) -> Answer:
    kind = {"Content-Type": "application/json"}
    return Answer(port, "POST", f"/{key}/qc/review.csv", json.dumps(value).encode(), kind)


def judge(port: int, sample: str, verdict: str, note: str = "") -> int:
    return post(port, {"sample": sample, "verdict": verdict, "note": note}).status


# Files


@pytest.mark.parametrize(
    ("asked", "status", "body", "told"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
    ],
)
def test_a_range_is_served(
    port: int, asked: str, status: int, body: bytes, told: str | None
) -> None:
    answer = get(port, f"/{KEY}/digits.txt", Range=asked)
    assert (answer.status, answer.body) == (status, body)
    assert answer.headers["Content-Range"] == told
    assert answer.headers["Content-Length"] == str(len(body))


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=5-3", "lines=1-2"])
def test_a_range_that_is_none_is_refused(port: int, asked: str) -> None:
    assert get(port, f"/{KEY}/digits.txt", Range=asked).status == 416


def test_a_volume_comes_as_it_is_on_disk(port: int, results: Path) -> None:
    """Sent as a gzip encoding it would arrive unpacked, and its ranges would mean other bytes."""
    path = f"/{KEY}/{FIRST}_T1w.nii.gz"
    content = (results / f"{FIRST}_T1w.nii.gz").read_bytes()
    whole = get(port, path)
    assert (whole.status, whole.body) == (200, content)
    assert whole.headers["Content-Encoding"] is None
    assert whole.headers["Accept-Ranges"] == "bytes"
    assert get(port, path, Range="bytes=100-199").body == content[100:200]
    head = get(port, path, "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(content))


def test_a_volume_that_was_made_again_is_not_taken_from_the_cache(port: int, results: Path) -> None:
    before = get(port, f"/{KEY}/digits.txt").headers["ETag"]
    assert get(port, f"/{KEY}/digits.txt", **{"If-None-Match": before}).status == 304
    os.utime(results / "digits.txt", (1, 1))
    assert get(port, f"/{KEY}/digits.txt", **{"If-None-Match": before}).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt", "%2e%2e/secret.txt", "qc/../../secret.txt", "..%2fsecret.txt",
        "qc/..%2f..%2fsecret.txt", "..\\secret.txt", "%2e%2e%5csecret.txt", "//{absolute}",
        "{absolute}", "%2f{absolute}", "..%00/secret.txt", "qc", "", "absent.txt",
    ],
)  # fmt: skip
def test_nothing_outside_the_results_is_served(port: int, results: Path, path: str) -> None:
    absolute = (results.parent / "secret.txt").as_posix()
    answer = get(port, f"/{KEY}/{path.format(absolute=absolute)}")
    assert answer.status == 404
    assert SECRET not in answer.body


@pytest.mark.parametrize("path", ["", "qc/viewer.html", "qc/samples.json", "digits.txt"])
@pytest.mark.parametrize("prefix", ["/", "/other/", "/KEY/"])
def test_without_the_key_there_is_nothing(port: int, prefix: str, path: str) -> None:
    answer = get(port, prefix + path)
    assert answer.status == 404
    assert KEY.encode() not in answer.body


def test_without_the_key_nothing_is_saved(port: int, results: Path) -> None:
    decision = {"sample": FIRST, "verdict": "reject", "note": ""}
    assert post(port, decision, key="other").status == 404
    assert post(port, decision).status == 204
    assert list(review.read(review.path(results))) == [FIRST]


def test_only_this_machine_reaches_it(port: int) -> None:
    """Linux takes all of 127/8 for itself: a server that listens everywhere answers there too."""
    assert get(port, f"/{KEY}/digits.txt").status == 200
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port)).close()


def test_the_samples_are_those_on_disk(port: int, results: Path) -> None:
    found = json.loads(get(port, f"/{KEY}/qc/samples.json").body)
    assert found == [
        f"{sample}_{name}.nii.gz" for sample in (FIRST, SECOND) for name in ("T1w", "T2w", "dseg")
    ]


# Verdicts


def test_verdicts_are_added_changed_and_taken_back(port: int, results: Path) -> None:
    table = review.path(results)
    review.write(table, {"older": Review("accept", "by hand")})
    assert judge(port, FIRST, "accept") == 204
    assert judge(port, SECOND, "reject", "  oedema,\n\t“cut” off ") == 204
    kept = {"older": Review("accept", "by hand"), SECOND: Review("reject", "oedema, “cut” off")}
    assert review.read(table) == kept | {FIRST: Review("accept")}
    assert judge(port, FIRST, "reject", "x" * 1000) == 204
    assert review.read(table)[FIRST] == Review("reject", "x" * view.LONGEST_NOTE)
    assert judge(port, FIRST, "") == 204
    assert review.read(table) == kept
    assert [path.name for path in table.parent.iterdir()] == ["review.csv"]


@pytest.mark.parametrize(
    "posted",
    [
        {"sample": FIRST.replace("000", "009"), "verdict": "accept", "note": ""},
        {"sample": "sub-H1/anat/sub-H1_space-analysis_desc-preproc", "verdict": "accept",
         "note": ""},
        {"sample": f"fold-0_k-2/../../results/{FIRST}", "verdict": "accept", "note": ""},
        {"sample": FIRST, "verdict": "maybe", "note": ""},
        {"sample": FIRST, "verdict": "accept"},
        {"sample": FIRST, "verdict": "accept", "note": None},
        [FIRST, "accept", ""],
    ],
)  # fmt: skip
def test_a_wrong_verdict_is_refused_and_changes_nothing(
    port: int, results: Path, posted: Any
) -> None:
    review.write(review.path(results), {FIRST: Review("reject", "kept")})
    assert post(port, posted).status == 400
    assert review.read(review.path(results)) == {FIRST: Review("reject", "kept")}


def test_a_body_that_is_too_long_or_no_json_is_refused(port: int, results: Path) -> None:
    assert judge(port, FIRST, "accept", "x" * 20_000) == 413
    path = f"/{KEY}/qc/review.csv"
    assert Answer(port, "POST", path, b"{", {"Content-Type": "application/json"}).status == 400
    assert Answer(port, "POST", path, b"a=b", {"Content-Type": "text/plain"}).status == 415
    assert not review.path(results).exists()


def test_a_broken_table_is_told_and_left_alone(port: int, results: Path) -> None:
    review.path(results).write_text("sample,verdict,note\na,perhaps,\n")
    answer = post(port, {"sample": FIRST, "verdict": "accept", "note": ""})
    assert answer.status == 400
    assert b"line 2" in answer.body
    assert review.path(results).read_text() == "sample,verdict,note\na,perhaps,\n"


def test_no_verdict_is_lost_when_many_come_at_once(port: int, results: Path) -> None:
    made = [FIRST.replace("coarse000", f"many{number:03d}") for number in range(24)]
    for sample in made:
        stage.write_json(results / f"{sample}.json", {})
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda sample: judge(port, sample, "accept"), made)) == {204}
    assert sorted(review.read(review.path(results))) == made
    for sample in made:
        (results / f"{sample}.json").unlink()


# Command


def test_a_used_port_a_wrong_folder_and_a_broken_table_are_one_line(
    port: int, results: Path
) -> None:
    with pytest.raises(InputError, match=f"--port {port}: .*in use.*choose another"):
        view.server(results, port, KEY)
    with pytest.raises(InputError, match="--port 70000: "):
        view.server(results, 70000, KEY)
    with pytest.raises(InputError, match="holds no qc/; name the results folder"):
        view.server(results.parent, 0, KEY)
    review.path(results).write_text("nothing\n")
    with pytest.raises(InputError, match=r"review\.csv: its first line"):
        view.server(results, 0, KEY)


def test_the_command_tells_its_address_and_ends_on_an_interrupt(results: Path) -> None:
    command = [sys.executable, "-m", "tumorfab.view", str(results)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # Tests in the background of a shell ignore interrupts, and what they start inherits that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    signal.signal(signal.SIGINT, before)
    assert running.stdout
    address = urlsplit(running.stdout.readline().strip())
    key = address.path.split("/")[1]
    assert address.hostname == view.ADDRESS
    assert len(key) >= 20
    assert b"<canvas" in get(address.port or 0, address.path).body
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert (running.returncode, errors) == (0, "")


# Page


def test_the_page_holds_all_that_it_needs() -> None:
    page = view.page()
    outside = page.replace(view.NIIVUE.read_text(encoding="utf-8"), "")
    assert len(outside) < len(page) / 10
    assert not re.search(
        r"(?:src|href)=|https?:|@import|url\(", outside.replace('href="data:,"', "")
    )
    assert page.count("</script>") == 2


def test_the_library_is_the_one_that_its_readme_tells_of() -> None:
    about = (view.NIIVUE.parent / "README.md").read_text(encoding="utf-8")
    content = view.NIIVUE.read_bytes()
    assert hashlib.sha256(content).hexdigest() in about
    (version,) = re.findall(r"@niivue/niivue@([\d.]+)", about)
    assert f'"{version}"' in content.decode()
    licences = (view.NIIVUE.parent / "LICENSES.txt").read_text(encoding="utf-8")
    assert f"@niivue/niivue {version} (BSD-2-Clause)" in licences


# In a browser


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """A tab of a headless Chromium, one for all tests."""
    if not CHROMIUM:
        pytest.skip("no Chromium: install the package chromium to test the viewer's page")
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


SHOWN = "document.body?.dataset.shown"
SAVED = "document.getElementById('saved').textContent.startsWith('Saved')"


def opened(tab: Tab, address: str) -> None:
    """Open an address of the viewer anew and wait for its first sample."""
    tab.go("about:blank")
    tab.requests.clear()
    tab.go(address)
    tab.until(SHOWN)


def set_to(tab: Tab, name: str, value: str) -> None:
    """Move a slider."""
    box = f"document.getElementById('{name}')"
    tab.value(f"{box}.value = {json.dumps(value)}; {box}.dispatchEvent(new Event('input'))")


def drawing(tab: Tab, name: str) -> np.ndarray:
    """What is drawn in one of the two views: (rows, columns, 3) in 0..1, without its caption."""
    box = tab.value(
        f"(({{x, y, width, height}}) => [x, y, width, height])"
        f"(document.getElementById('{name}').getBoundingClientRect())"
    )
    x, y, width, height = (int(edge) for edge in box)
    return tab.picture()[y + 30 : y + height, x : x + width]


def coloured(picture: np.ndarray, value: int) -> int:
    """Pixels of the colour of a label."""
    away = np.abs(picture - np.array(to_rgb(LABEL_COLOURS[value]))).max(axis=-1)
    return int((away < 0.06).sum())


def grey(picture: np.ndarray) -> int:
    """Pixels that are neither black nor coloured."""
    return int(((np.ptp(picture, axis=-1) < 0.02) & (picture.mean(axis=-1) > 0.15)).sum())


def read_by_page(tab: Tab, selector: str) -> str:
    return str(tab.value(f"document.querySelector({json.dumps(selector)}).textContent"))


def test_a_brain_with_a_coloured_tumour_is_drawn(tab: Tab, port: int, results: Path) -> None:
    opened(tab, f"http://{view.ADDRESS}:{port}/{KEY}/qc/viewer.html")
    assert tab.value(SHOWN) == FIRST
    set_to(tab, "opacity", "1")
    labels = volume.load_labels(results / f"{FIRST}_dseg.nii.gz").data
    present = [value for value in LABEL_COLOURS if (labels == value).sum() > 20]
    assert len(present) >= 2
    for name in ("host", "sample"):
        picture = drawing(tab, name)
        assert grey(picture) > 0.1 * picture.shape[0] * picture.shape[1]
        assert (picture.max(axis=-1) < 0.05).mean() > 0.2  # around the brain it is black
        assert all(coloured(picture, value) > 30 for value in present)
    tab.press("l")
    pictures = {name: drawing(tab, name) for name in ("host", "sample")}
    for picture in pictures.values():
        assert not any(coloured(picture, value) for value in LABEL_COLOURS)
    assert (np.abs(pictures["host"] - pictures["sample"]) > 0.1).any(axis=-1).sum() > 100
    tab.press("l")
    assert coloured(drawing(tab, "sample"), present[0]) > 30
    assert not tab.errors
    assert {urlsplit(url).netloc for url in tab.requests if not url.startswith("data:")} == {
        f"{view.ADDRESS}:{port}"
    }


def test_the_keyboard_leads_through_the_samples_and_saves_verdicts(
    tab: Tab, port: int, results: Path
) -> None:
    table = review.path(results)
    review.write(table, {SECOND: Review("accept", 'an "old", note')})
    opened(tab, f"http://{view.ADDRESS}:{port}/{KEY}/qc/viewer.html#H1")
    tab.press("n")
    tab.press("n")  # the last one stays
    tab.until(f"{SHOWN} === {json.dumps(SECOND)}")
    assert tab.value("document.getElementById('note').value") == 'an "old", note'
    tab.press("p")
    tab.until(f"{SHOWN} === {json.dumps(FIRST)}")
    tab.press("a")
    tab.until(SAVED)
    assert tab.value("document.querySelector('li[aria-current]').className") == "accept"
    assert review.read(table)[FIRST] == Review("accept")
    tab.press("r")
    tab.type("cut off, “flat”: n")  # n is a letter here, not a key
    tab.press("Enter")
    tab.until(f"document.activeElement === document.body && {SAVED}")
    assert read_by_page(tab, "#count") == "2 of 2 samples, 2 judged"
    assert review.read(table) == {
        FIRST: Review("reject", "cut off, “flat”: n"), SECOND: Review("accept", 'an "old", note'),
    }  # fmt: skip
    tab.press("u")
    tab.until(SAVED)
    assert read_by_page(tab, "#count") == "2 of 2 samples, 1 judged"
    assert list(review.read(table)) == [SECOND]
    assert not tab.errors


def test_modality_and_host_are_switched_by_keys(tab: Tab, port: int, results: Path) -> None:
    opened(tab, f"http://{view.ADDRESS}:{port}/{KEY}/qc/viewer.html")
    first = drawing(tab, "sample")
    tab.press("m")
    tab.until(f"{SHOWN} && document.getElementById('modality').value === 'T2w'")
    assert np.abs(drawing(tab, "sample") - first).max() > 0.3
    hidden = "['host', 'sample'].map(name => document.getElementById(`${name}-view`).hidden)"
    for key, expected in (("h", [False, True]), ("h", [True, False]), ("b", [False, False])):
        tab.press(key)
        assert tab.value(hidden) == expected
        assert grey(drawing(tab, "host" if expected[1] else "sample")) > 5000


def test_the_panel_tells_what_the_sidecar_holds(tab: Tab, port: int, results: Path) -> None:
    opened(tab, f"http://{view.ADDRESS}:{port}/{KEY}/qc/viewer.html")
    record = stage.read_json(results / f"{FIRST}.json")
    about = read_by_page(tab, "#about")
    assert ", ".join(record["donors"]) in about
    assert f"{record['largest_displacement_mm']:.1f} mm at most" in about
    assert f"all {len(record['checks'])} hold" in about
    labels = volume.load_labels(results / f"{FIRST}_dseg.nii.gz")
    for value in (1, 2, 3):
        ml = (labels.data == value).sum() * labels.grid.voxel_volume / 1000
        assert f"{ml:.1f} ml" in about


def test_a_release_without_hosts_shows_the_samples_alone(
    tab: Tab, port: int, results: Path
) -> None:
    image = results / "sub-H1/anat/sub-H1_space-analysis_desc-preproc_T1w.nii.gz"
    image.rename(image.with_suffix(".away"))
    try:
        opened(tab, f"http://{view.ADDRESS}:{port}/{KEY}/qc/viewer.html")
        assert tab.value("document.getElementById('host-view').hidden")
        assert grey(drawing(tab, "sample")) > 5000
    finally:
        image.with_suffix(".away").rename(image)


def test_a_volume_that_cannot_be_read_is_told(tab: Tab, port: int, results: Path) -> None:
    label = results / f"{FIRST}_dseg.nii.gz"
    label.rename(label.with_suffix(".away"))
    try:
        tab.go("about:blank")
        tab.go(f"http://{view.ADDRESS}:{port}/{KEY}/qc/viewer.html")
        tab.until("document.getElementById('message')?.textContent.includes('no such file')")
        assert f"{FIRST}_dseg.nii.gz" in read_by_page(tab, "#message")
    finally:
        label.with_suffix(".away").rename(label)


def test_as_a_file_it_reads_the_chosen_folder_and_hands_out_the_verdicts(
    tab: Tab, results: Path
) -> None:
    page = results / "qc" / "viewer.html"
    page.write_text(view.page(), encoding="utf-8")
    kept = {SECOND: Review("accept", 'an "old", note')}
    review.write(review.path(results), kept)
    tab.go("about:blank")
    tab.requests.clear()
    tab.go(page.as_uri())
    tab.until("document.getElementById('chooser')?.hidden === false")
    tab.choose("#folder", results)
    tab.until(SHOWN)
    set_to(tab, "opacity", "1")
    picture = drawing(tab, "sample")
    assert grey(picture) > 0.1 * picture.shape[0] * picture.shape[1]
    assert coloured(picture, 2) > 30
    tab.press("r")
    tab.type("too, flat")
    tab.press("Enter")
    tab.until("document.getElementById('note') !== document.activeElement")
    handed = tab.value("fetch(document.getElementById('download').href).then(file => file.text())")
    review.write(review.path(results), kept | {FIRST: Review("reject", "too, flat")})
    assert handed == review.path(results).read_text(encoding="utf-8")
    assert not tab.errors
    assert {urlsplit(url).scheme for url in tab.requests} <= {"file", "data", "blob"}
    assert tab.value("unsaved")
    tab.value("document.getElementById('download').click()")
    assert not tab.value("unsaved")  # else the browser would ask before it leaves the page
    page.unlink()


def test_a_verdict_that_could_not_be_saved_is_taken_back_and_told(
    tab: Tab, port: int, results: Path
) -> None:
    opened(tab, f"http://{view.ADDRESS}:{port}/{KEY}/qc/viewer.html")
    review.path(results).write_text("broken\n")
    tab.press("a")
    tab.until("document.getElementById('saved').textContent.startsWith('Not saved')")
    assert "first line must be" in read_by_page(tab, "#saved")
    assert read_by_page(tab, "#count") == "2 of 2 samples, 0 judged"
