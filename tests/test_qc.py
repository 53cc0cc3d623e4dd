"""mosaic and qc: what is drawn lies where it is, outliers are flagged, the page stands alone."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from toy import GRID, LABEL, MODALITIES, distance, write_subject

from tumorfab import mosaic, qc, stage, volume
from tumorfab.stage import InputError
from tumorfab.view import page as viewer_page
from tumorfab.views import LABEL_NAMES, PLANES, View

CENTRE = (np.array(GRID.shape) - 1) / 2
BRAIN = distance(CENTRE) < 64

# Mosaics


def write_all(results: Path, subject: str, **tumour: Any) -> Path:
    """The files that a mosaic is made from; in the native space the head is a larger ball."""
    anat = write_subject(results, subject, **tumour)
    head = np.clip(144 - 2 * distance(CENTRE), 0, None).astype(np.float32)
    volume.save(anat / f"sub-{subject}_desc-N4_T1w.nii.gz", head, GRID.affine)
    volume.save(anat / f"sub-{subject}_desc-brain_mask.nii.gz", BRAIN, GRID.affine)
    template = results / "template" / f"template_space-{LABEL}_desc-brain_mask.nii.gz"
    volume.save(template, BRAIN, GRID.affine)
    return anat


def drawn(results: Path, *subjects: str) -> list[bytes]:
    mosaic.main(["--subject", *subjects, "--results", str(results), "--label", LABEL,
                 "--modality", *MODALITIES])  # fmt: skip
    return [mosaic.picture(results, subject).read_bytes() for subject in subjects]


def pixels(png: bytes, colour: str) -> np.ndarray:
    """Where a picture has about this colour (rows, columns)."""
    rgb = imread(io.BytesIO(png), format="png")[..., :3]
    return np.abs(rgb - np.array(to_rgb(colour))).max(axis=-1) < 0.1


def test_a_mosaic_is_a_picture_with_the_same_bytes_every_time(tmp_path: Path) -> None:
    write_all(tmp_path, "H1")
    write_all(tmp_path, "A1", tumour=(12, 22, 18))
    first = drawn(tmp_path, "H1", "A1")
    assert first[0] != first[1]
    assert drawn(tmp_path, "A1", "H1") == first[::-1]
    height, width, _ = imread(io.BytesIO(first[0]), format="png").shape
    assert width == 1000
    assert height > 1000


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("sub-H1/anat/sub-H1_desc-brain_mask.nii.gz", mosaic.BRAIN),
        (f"template/template_space-{LABEL}_desc-brain_mask.nii.gz", mosaic.TEMPLATE),
    ],
)
def test_a_mask_that_moved_is_seen(tmp_path: Path, file: str, name: str) -> None:
    write_all(tmp_path, "H1")
    (before,) = drawn(tmp_path, "H1")
    volume.save(tmp_path / file, np.roll(BRAIN, 2, axis=1), GRID.affine)
    (after,) = drawn(tmp_path, "H1")
    assert pixels(before, mosaic.COLOURS[name]).sum() > 500
    assert before != after


def test_only_an_annotated_case_shows_tumour(tmp_path: Path) -> None:
    for subject, tumour in (("H1", None), ("A1", (12, 22, 18))):
        anat = write_all(tmp_path, subject, tumour=tumour)
        native, analysis, tissues, other = mosaic.bands(
            subject, anat, tmp_path / "template", LABEL, MODALITIES
        )
        assert list(native.outlines) == [mosaic.BRAIN]
        classes = list(LABEL_NAMES.values()) if tumour else []
        assert list(analysis.outlines) == [mosaic.TEMPLATE, *classes]
        assert list(tissues.tissues) == ["CSF", "GM", "WM"]
        assert list(other.outlines) == [mosaic.WHITE]
        assert [band.title.split(",")[0] for band in (native, other)] == MODALITIES
    labels = analysis.outlines[LABEL_NAMES[1]]
    for row in analysis.rows:
        assert any(view.of(labels).any() for view in row)


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.0, 2.0, 4.0)])
def test_the_contour_lies_on_the_edge_of_the_mask(spacing: tuple[float, float, float]) -> None:
    """A block 60 mm wide, 80 deep and 40 high: its outline in the first slice of every plane."""
    size = np.array([60, 80, 40])
    shape = tuple((2 * size / spacing).astype(int))
    block = np.zeros(shape, bool)
    block[tuple(slice(n // 4, n // 4 + n // 2) for n in shape)] = True
    affine = np.diag([*spacing, 1.0])
    rows = [mosaic.slices(block, affine, plane) for plane in PLANES]
    band = mosaic.Band("", np.ones(shape, np.float32), block, rows, {mosaic.BRAIN: block})
    green = pixels(mosaic.draw([band]), mosaic.COLOURS[mosaic.BRAIN])
    cell = 80 + 2 * mosaic.MARGIN_MM
    per_mm = 10 * 100 / (cell * mosaic.ACROSS)
    top = 30.0  # below the title
    for row, (width, height) in zip(rows, ((60, 80), (60, 40), (80, 40)), strict=True):
        assert row[0].size_mm == pytest.approx(
            (width + 2 * mosaic.MARGIN_MM, height + 2 * mosaic.MARGIN_MM), abs=2 * max(spacing)
        )
        tall = row[0].size_mm[1] * per_mm
        lines, columns = np.nonzero(green[int(top) : int(top + tall), : int(cell * per_mm)])
        middle = cell * per_mm / 2
        edges = [columns.min(), columns.max(), lines.min(), lines.max()]
        wanted = [middle - width / 2 * per_mm, middle + width / 2 * per_mm,
                  tall / 2 - height / 2 * per_mm, tall / 2 + height / 2 * per_mm]  # fmt: skip
        assert edges == pytest.approx(wanted, abs=2.5)
        top += tall


def test_native_slices_are_cropped_to_the_brain_and_a_margin() -> None:
    """Whatever of a face lies farther from the brain is not in the picture."""
    for plane in PLANES:
        for shown in mosaic.slices(BRAIN, GRID.affine, plane):
            assert max(shown.size_mm) <= 128 + 2 * (mosaic.MARGIN_MM + 4)


def test_one_slice_of_each_plane_goes_through_the_middle_of_a_tumour() -> None:
    focus = np.zeros_like(BRAIN)
    focus[9, 31, 21] = True
    for plane in PLANES:
        views = mosaic.slices(BRAIN, GRID.affine, plane, focus)
        assert len(views) == mosaic.ACROSS
        assert sum(view.of(focus).any() for view in views) == 1
        assert all(view.of(BRAIN).any() for view in views)


def test_planes_show_the_front_and_the_crown_where_they_belong() -> None:
    data = np.zeros((5, 6, 7))
    data[4, 5, 6] = 1  # right, front, crown
    everything = np.ones(data.shape, bool)
    for plane, axis in PLANES.items():
        view = View.through(data > 0, everything, np.eye(4), plane)
        assert view.index == data.shape[axis] - 1
        assert view.of(data)[0, 0] == 1


def test_a_file_on_another_grid_is_one_line(tmp_path: Path) -> None:
    write_all(tmp_path, "H1")
    (path,) = (tmp_path / "template").iterdir()
    volume.save(path, BRAIN[1:], GRID.affine)
    with pytest.raises(InputError, match=r"template_space.*another grid"):
        drawn(tmp_path, "H1")


# Numbers


def test_scalars_are_the_numbers_at_any_depth() -> None:
    record = {"a": 1, "b": {"c": {"d": 0.5}, "e": "x"}, "f": [1, 2], "g": True, "h": None}
    assert qc.scalars(record) == {"a": 1.0, "b.c.d": 0.5}


def test_evidence_of_both_spaces() -> None:
    native = {"brain_volume_ml": 1500.0, "bias_field": {"T1w": [0.8, 1.2]}, "subject": "X"}
    analysis = {"brain_volume_ml": 1400.0}
    assert qc.evidence(native, analysis) == pytest.approx(
        {"brain_volume_ml": 1500, "bias_field.T1w": 1.5, "analysis.brain_volume_ml": 1400}
    )


def test_columns_have_names_units_and_meanings_known_or_not() -> None:
    assert qc.described("bias_field.FLAIR").name == "FLAIR bias"
    assert qc.described("coregistration.T2w.aligned").name == "T2w follows"
    assert not qc.described("analysis.intensity.T1w.scale").judged
    new = qc.described("analysis.lesion.volume_ml")
    assert (new.name, new.unit, new.judged) == ("lesion volume", "ml", True)
    assert "analysis.lesion.volume_ml" in new.meaning
    assert qc.described("ringing") == qc.Metric("ringing", "", "ringing of the sidecar.")


def test_robust_z_by_hand() -> None:
    values = np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 100])  # median 5; deviations 4 3 2 1 0 1 2 3 95
    z = qc.robust_z(values)
    assert z[-1] == pytest.approx(95 / (1.4826 * 2))
    assert np.abs(z[:-1]).max() < qc.MAX_Z


def test_robust_z_of_equal_values_and_of_few() -> None:
    assert not qc.robust_z(np.full(9, 0.1)).any()
    assert not qc.robust_z(np.array([0.1] * 8 + [0.1 + 1e-16])).any()
    alone = qc.robust_z(np.array([0.0] * 9 + [0.2]))  # the mean absolute deviation is 0.02
    assert alone == pytest.approx([0] * 9 + [0.2 / (1.2533 * 0.02)])
    assert not qc.robust_z(np.array([1, 2, 3, 4, 5, 6, 1000.0])).any()
    missing = qc.robust_z(np.array([1, 2, 3, 4, 5, 6, 1000.0, np.nan]))
    assert np.isnan(missing[-1])
    assert not missing[:-1].any()


# Table and page


class Cohort:
    """Sidecars and one small picture per subject, and the arguments of the stage."""

    def __init__(self, root: Path) -> None:
        self.results = root / "results"
        self.rows: list[list[str]] = []

    def add(self, subject: str, cohort: str, ml: float, flags: list[str] | None = None) -> None:
        stem = f"{self.results}/sub-{subject}/anat/sub-{subject}"
        native = {"subject": subject, "cohort": cohort, "brain_volume_ml": ml, "snr": ml / 50}
        if flags:
            native["flags"] = flags
        if cohort == "healthy":
            native["template_brain_outside_view"] = 0.0
        stage.write_json(f"{stem}_desc-preproc.json", native)
        scale = {"T1w": {"scale": 1e6 if ml > 1500 else len(self.rows)}}
        stage.write_json(f"{stem}_space-{LABEL}_desc-preproc.json", {"intensity": scale})
        with stage.atomic(mosaic.picture(self.results, subject)) as temporary:
            temporary.write_bytes(b"picture of " + subject.encode())
        self.rows.append([subject, cohort])

    def make(self) -> str:
        table = self.results / "cohort" / "subjects.tsv"
        text = pd.DataFrame(self.rows, columns=["subject", "cohort"]).to_csv(sep="\t", index=False)
        stage.write_text(table, text)
        qc.main(["--subjects", str(table), "--results", str(self.results), "--label", LABEL,
                 "--out", str(self.results / "qc")])  # fmt: skip
        return (self.results / "qc" / "index.html").read_text(encoding="utf-8")

    def metrics(self) -> pd.DataFrame:
        path = self.results / "qc" / "metrics.tsv"
        return pd.read_csv(path, sep="\t", keep_default_na=False, dtype=str)


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Nine healthy brains, the last twice as large as any; three annotated, one flagged."""
    made = Cohort(tmp_path)
    for number in range(8):
        made.add(f"H{number}", "healthy", 1400 + 10 * number)
    made.add("H8", "healthy", 2900)
    made.add("A0", "annotated", 1300)
    made.add("A1", "annotated", 2600)  # an outlier, if three cases could tell
    made.add("A2", "annotated", 1310, ["motion", "low contrast"])
    return made


class Page(HTMLParser):
    """References, cells of the table and pictures of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.figures: list[str | None] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.references += [v or "" for k, v in attrs if k in ("src", "href", "srcset")]
        if tag == "img":
            self.images.append(found)
        if tag == "figure":
            self.figures.append(found["id"])


def test_planted_flags_and_the_order_of_the_table(cohort: Cohort) -> None:
    html = cohort.make()
    table = cohort.metrics()
    assert table["subject"].tolist()[:2] == ["A2", "H8"]  # two flags, then the outlier
    assert table["subject"].tolist()[2:] == ["A0", "A1", *[f"H{i}" for i in range(8)]]
    flags = dict(zip(table["subject"], table["flags"], strict=True))
    assert flags["A2"] == "motion; low contrast"
    # Healthy: the median is 1440 and the median deviation 20. The scale, in scanner units, is 1e6.
    z = (2900 - 1440) / (1.4826 * 20)
    assert flags["H8"] == f"Brain 2,900 (z {z:+.1f}); snr 58.0 (z {z:+.1f})"
    assert not any(flag for subject, flag in flags.items() if subject not in ("A2", "H8"))
    assert Page(html).figures == [f"sub-{subject}" for subject in table["subject"]]
    assert html.count('class="n out"') == 2
    assert "The\nannotated cohort has 3 subjects" in html


def test_the_table_holds_every_number_known_ones_first(cohort: Cohort) -> None:
    cohort.make()
    table = cohort.metrics()
    assert table.columns.tolist() == [
        "subject", "cohort", "flags", "brain_volume_ml", "template_brain_outside_view", "snr",
        "analysis.intensity.T1w.scale",
    ]  # fmt: skip
    rows = table.set_index("subject")
    assert rows.loc["H3", "brain_volume_ml"] == "1430"
    assert rows.loc["A0", "template_brain_outside_view"] == "n/a"


def test_the_page_stands_alone(cohort: Cohort) -> None:
    html = cohort.make()
    page = Page(html)
    assert not re.search(r"https?:|//[a-z]", re.sub(r"base64,[^\"]*", "", html))
    for reference in page.references:
        assert reference.startswith(("#sub-", "#table", "data:", "viewer.html")) or (
            reference == "metrics.tsv"
        )
    (picture,) = [i["src"] for i in page.images if i["alt"] == "Preprocessing of H8"]
    assert base64.b64decode((picture or "").split("base64,")[1]) == b"picture of H8"
    assert str(cohort.results) not in html


def test_the_viewer_lies_beside_the_page_and_opens_at_the_samples_of_a_host(
    cohort: Cohort,
) -> None:
    references = Page(cohort.make()).references
    assert (cohort.results / "qc" / "viewer.html").read_text(encoding="utf-8") == viewer_page()
    assert "viewer.html#H8" in references
    assert "viewer.html#A1" not in references  # no host: it has no samples


def test_above_fifty_subjects_the_pictures_are_linked(cohort: Cohort) -> None:
    for number in range(38):
        cohort.add(f"X{number:02d}", "healthy", 1400 + number)
    embedded = Page(cohort.make()).images
    assert len(embedded) == qc.MOST_EMBEDDED
    assert all((image["src"] or "").startswith("data:") for image in embedded)
    cohort.add("X38", "healthy", 1450)
    linked = Page(cohort.make()).images
    assert len(linked) == qc.MOST_EMBEDDED + 1
    for image in linked:
        assert image["loading"] == "lazy"
        assert (cohort.results / "qc" / (image["src"] or "")).is_file()


def test_odd_subjects_and_flags_are_escaped(cohort: Cohort) -> None:
    odd = "<b>\"x'&#% y"
    cohort.add(odd, "annotated", 1320, ["<script>alert(1)</script>"] * 3)
    html = cohort.make()
    assert '<b>"' not in html
    assert "<script>alert" not in html
    page = Page(html)
    assert page.figures[0] == f"sub-{odd}"
    assert "#sub-%3Cb%3E%22x%27%26%23%25%20y" in page.references


def test_the_same_sidecars_give_the_same_bytes_in_any_order(cohort: Cohort) -> None:
    before = cohort.make()
    table = cohort.metrics()
    cohort.rows.reverse()
    assert cohort.make() == before
    pd.testing.assert_frame_equal(cohort.metrics(), table)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("anat/sub-H3_desc-preproc.json", "sub-H3_desc-preproc.json: no such file"),
        (f"anat/sub-H3_space-{LABEL}_desc-preproc.json", "sub-H3_space.*: no such file"),
        ("figures/sub-H3_desc-qc.png", "sub-H3_desc-qc.png: no such file; run the stage mosaic"),
    ],
)
def test_a_missing_file_is_named_and_nothing_is_written(
    cohort: Cohort, file: str, message: str
) -> None:
    (cohort.results / "sub-H3" / file).unlink()
    with pytest.raises(InputError, match=message):
        cohort.make()
    assert not (cohort.results / "qc").exists()
