"""report: numbers computed by hand, honest words, one page that needs nothing else."""

import base64
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from tumorfab import figures, report, stage, stats, views
from tumorfab.config import validated
from tumorfab.stage import InputError
from tumorfab.volume import save

MINUS = "\N{MINUS SIGN}"
SHAPE = (9, 10, 8)
AFFINE = np.diag([-2.0, -2.0, 2.0, 1.0])
# WT Dice by arm and case, one value per seed. TC is half of it; no case has any ET, so ET is 1.
WT = {"real": {"A1": (0.2, 0.4), "B2": (0.0, 0.0)}, "tf": {"A1": (0.5, 0.7), "B2": (0.2, 0.2)}}


def score_rows(arm: str, k: int, n: int, seed: int, dice: dict[str, float]) -> pd.DataFrame:
    rows = []
    for case, value in dice.items():
        for region, found, volume in (
            ("ET", 1.0, 0.0),
            ("WT", value, 12.5),
            ("TC", value / 2, 3.0),
        ):
            rows.append([arm, k, n, 0, seed, case, region, found, volume, 1.0])
    return pd.DataFrame(rows, columns=report.COLUMNS)


def save_image(path: Path, seed: int) -> np.ndarray:
    image = np.zeros(SHAPE, np.float32)
    image[1:-1, 1:-1, 1:-1] = np.random.default_rng(seed).uniform(50, 150, (7, 8, 6))
    save(path, image, AFFINE)
    return image


def save_labels(path: Path, seed: int) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:6, 3:6, 3:6] = np.random.default_rng(seed).integers(0, 4, (3, 3, 3))
    save(path, labels, AFFINE)


class Study:
    """A small results tree and the arguments of the stage."""

    def __init__(self, root: Path, **config: Any) -> None:
        self.results = root / "results"
        study = {"arms": ["real", "tf"], "k": [2], "n": [3], "seeds": [0, 1]}
        self.config = validated({"results": str(self.results), "study": study, **config})
        self.runs: list[Path] = []
        self.samples: list[Path] = []
        self.refiners: list[Path] = []
        self.out = self.results / "report"
        rows = [["H1", "healthy", "host", "<b>host</b> & co", "CC0", "x", ""]]
        rows += [[f"T{i}", "annotated", "train", f"t-{i}", "CC BY 4.0", "x", "y"] for i in (1, 2)]
        rows += [[case, "annotated", "test", case, "CC BY 4.0", "x", "y"] for case in ("A1", "B2")]
        self.table(
            "subjects", ["subject", "cohort", "role", "source_id", "licence", "T1w", "seg"], rows
        )
        self.table("skipped", ["subject", "cohort", "problem"], [])
        for number, case in enumerate(("A1", "B2", "H1")):
            anat = self.results / f"sub-{case}" / "anat" / f"sub-{case}_space-analysis"
            save_image(Path(f"{anat}_desc-preproc_T1w.nii.gz"), number)
            if case != "H1":
                save_labels(Path(f"{anat}_dseg.nii.gz"), number)
        for arm, n in (("real", 0), ("tf", 3)):
            for seed in (0, 1):
                self.add_run(arm, 2, n, seed, {c: v[seed] for c, v in WT[arm].items()})

    def table(self, name: str, columns: list[str], rows: list[list[str]]) -> None:
        text = pd.DataFrame(rows, columns=columns).to_csv(sep="\t", index=False)
        stage.write_text(self.results / "cohort" / f"{name}.tsv", text)

    def add_run(self, arm: str, k: int, n: int, seed: int, dice: dict[str, float]) -> None:
        run = self.results / "segment" / f"arm-{arm}_k-{k}_n-{n}_fold-0_seed-{seed}"
        for case in dice:
            save_labels(run / f"sub-{case}_space-analysis_desc-pred_dseg.nii.gz", 5 + seed)
        history = "step,loss,validation_dice\n0,1.5,\n1,1.2,0.25\n2,1.1,\n3,0.9,0.5\n"
        stage.write_text(run / "training.csv", history)
        stage.write_text(run / "scores.csv", score_rows(arm, k, n, seed, dice).to_csv(index=False))
        self.runs.append(run)

    def add_samples(self, count: int, refined: bool) -> None:
        for number in range(count):
            stem = (
                self.results
                / f"fold-0_k-2/sub-H1/anat/sub-H1_space-analysis_desc-coarse{number:03d}"
            )
            record = {"host": "H1", "donors": ["T1"], "number": number, "draw": {}, "checks": {}}
            stage.write_json(f"{stem}.json", record)
            save_labels(Path(f"{stem}_dseg.nii.gz"), number)
            for kind in ["coarse", "tf"] if refined else ["coarse"]:
                save_image(
                    Path(f"{stem}_T1w.nii.gz".replace("desc-coarse", f"desc-{kind}")), number
                )
            self.samples.append(Path(f"{stem}.json"))

    def add_refiner(self) -> None:
        path = self.results / "fold-0_k-2/refiner/training.csv"
        rows = "0,1.2,,,,,\n1,1.1,,,,,\n2,,2.0,0.1,1.0,0.5,0.2\n3,,1.9,0.2,0.9,0.4,0.1\n"
        stage.write_text(path, ",".join(["step", *report.REFINER_LOSSES]) + "\n" + rows)
        self.refiners.append(path)

    def arguments(self) -> list[str]:
        scores = [run / "scores.csv" for run in self.runs]
        cohort = self.results / "cohort"
        arguments = ["--scores", *scores, "--runs", *self.runs, "--out", self.out]
        arguments += ["--subjects", cohort / "subjects.tsv", "--skipped", cohort / "skipped.tsv"]
        arguments += ["--config", json.dumps(self.config)]
        arguments += ["--samples", *self.samples] if self.samples else []
        arguments += ["--refiners", *self.refiners] if self.refiners else []
        return [str(argument) for argument in arguments]

    def make(self) -> str:
        report.main(self.arguments())
        return self.read("index.html")

    def read(self, name: str) -> str:
        return (self.out / name).read_text(encoding="utf-8")

    def summary(self) -> dict[tuple[int, str, str], dict[str, Any]]:
        scores = report.read_scores([run / "scores.csv" for run in self.runs], ["real", "tf"])
        rows = stats.summarise(scores, self.config["seed"])
        return {(row["k"], row["region"], row["arm"]): row for row in rows}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study whose report was made once; read it, do not change it."""
    study = Study(tmp_path_factory.mktemp("made"))
    study.add_samples(10, refined=True)
    study.add_refiner()
    study.make()
    return study


class Page(HTMLParser):
    """Fails on tags that do not nest; collects references, pictures and text."""

    VOID = ("meta", "link", "img", "br", "hr")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.tags: set[str] = set()
        self.words: list[str] = []
        self.alts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.references += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data")]
        self.alts += [v or "" for k, v in attrs if k == "alt"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def table_rows(html: str, caption: str = "dice") -> list[list[str]]:
    """Cells of the Dice table, the region repeated on each of its rows."""
    part = html.split(f'<table class="{caption}">')[1].split("</table>")[0]
    rows, region = [], ""
    for row in re.findall(r"<tr>(.*?)</tr>", part, re.S):
        if found := re.search(r"rowspan=\S+>(.*?)</th>", row):
            region = found[1]
        if cells := re.findall(r"<td>(.*?)</td>", row, re.S):
            rows.append([region, *cells])
    return rows


EXPECTED = {
    # real A1 0.3, B2 0; tf A1 0.6, B2 0.2: sd 0.3 / sqrt 2, 0.4 / sqrt 2; differences 0.3 and 0.2.
    # Of two values the bootstrap mean is the lower, the middle or the upper (1/4, 1/2, 1/4).
    ("WT", "real"): ["-", "0.150 ± 0.212", "1 of 2", "2", "2", "-"],
    ("WT", "tf"): ["3", "0.400 ± 0.283", "0 of 2", "2", "2", "+0.250 [+0.200, +0.300]"],
    ("TC", "real"): ["-", "0.075 ± 0.106", "1 of 2", "2", "2", "-"],
    ("TC", "tf"): ["3", "0.200 ± 0.141", "0 of 2", "2", "2", "+0.125 [+0.100, +0.150]"],
    ("ET", "real"): ["-", "1.000 ± 0.000", "0 of 2", "2", "2", "-"],
    ("ET", "tf"): ["3", "1.000 ± 0.000", "0 of 2", "2", "2", "+0.000 [+0.000, +0.000]"],
    # real (0.3 + 0.15 + 1) / 3 and 1 / 3; tf (0.6 + 0.3 + 1) / 3 and (0.2 + 0.1 + 1) / 3
    ("mean", "real"): ["-", "0.408 ± 0.106", "0 of 2", "2", "2", "-"],
    ("mean", "tf"): ["3", "0.533 ± 0.141", "0 of 2", "2", "2", "+0.125 [+0.100, +0.150]"],
}


def test_the_tables_hold_the_numbers_computed_by_hand(made: Study) -> None:
    shown = {(row[0], row[1]): row[2:] for row in table_rows(made.read("index.html"))}
    assert shown == {k: [c.replace("-", MINUS) for c in v] for k, v in EXPECTED.items()}
    text = made.read("table.txt")
    lines = [re.split(r"\s{2,}", line) for line in text.splitlines()]
    for (region, arm), cells in EXPECTED.items():
        assert [region, arm, *cells] in lines
    assert text.rstrip().splitlines()[-1] == str(made.out / "index.html")


def test_dice_csv_holds_every_row_in_order(made: Study) -> None:
    table = pd.read_csv(made.out / "dice.csv")
    assert table.columns.tolist() == report.COLUMNS
    keys = table[["arm", "seed", "case", "region"]].values.tolist()
    assert keys == [
        [arm, seed, case, region]
        for arm in ("real", "tf")
        for seed in (0, 1)
        for case in ("A1", "B2")
        for region in ("WT", "TC", "ET")
    ]
    wt = table[table["region"] == "WT"]
    assert wt["dice"].tolist() == [0.2, 0.0, 0.4, 0.0, 0.5, 0.2, 0.7, 0.2]


@pytest.mark.parametrize("arms", [["real", "tf"], ["tf", "real"]])
def test_the_config_orders_the_arms_whatever_the_order_of_the_files(
    study: Study, arms: list[str]
) -> None:
    paths = [run / "scores.csv" for run in study.runs]
    scores = report.read_scores(paths, arms)
    pd.testing.assert_frame_equal(report.read_scores(paths[::-1], arms), scores)
    assert scores["arm"].drop_duplicates().tolist() == arms
    assert [row["arm"] for row in stats.summarise(scores, 1)][:2] == arms


def test_real_is_compared_at_the_same_k_only(study: Study) -> None:
    for seed in (0, 1):
        study.add_run("real", 4, 0, seed, {"A1": 0.9, "B2": 0.8})
        study.add_run("tf", 4, 3, seed, {"A1": 0.8, "B2": 0.6})
    found = study.summary()
    assert found[2, "WT", "tf"]["difference"] == pytest.approx(0.25)
    assert found[4, "WT", "tf"]["difference"] == pytest.approx(-0.15)
    assert found[4, "WT", "tf"]["interval"] == pytest.approx((-0.2, -0.1))
    assert found[4, "WT", "real"]["difference"] is None
    assert len(re.findall('<table class="dice">', study.make())) == 2


def test_without_real_there_is_no_difference_and_one_case_has_no_sd(study: Study) -> None:
    study.runs = []
    study.add_run("tf", 2, 3, 0, {"A1": 0.5})
    rows = table_rows(study.make())
    assert rows[0] == ["WT", "tf", "3", "0.500 (one case)", "0 of 1", "1", "1", MINUS]
    study.add_run("real", 2, 0, 0, {"A1": 0.25})
    cells = report.cells(study.summary()[2, "WT", "tf"])
    assert cells[-1] == "+0.250 (one case: no interval)"


def test_a_zero_counts_only_when_every_seed_has_it() -> None:
    scores = pd.concat(
        score_rows("real", 2, 0, seed, {"A": [0.0, 0.4][seed], "B": 0.0}) for seed in (0, 1)
    )
    rows = {row["region"]: row for row in stats.summarise(scores, 1)}
    assert rows["WT"]["zeros"] == 1
    assert rows["WT"]["seeds"] == 2


def test_a_phantom_cohort_is_called_one(made: Study) -> None:
    html = made.read("index.html")
    assert '<div class="warning"><strong>This cohort is a phantom.' in html
    assert "say nothing about patients" in Page(html).text
    assert "PHANTOM: these figures say nothing about patients" in made.read("table.txt")


def test_a_real_cohort_is_not_called_a_phantom(tmp_path: Path) -> None:
    healthy = {"source": "bids", "path": "healthy"}
    study = Study(tmp_path, healthy=healthy, annotated={"source": "brats", "path": "annotated"})
    html = study.make()
    assert '<div class="warning">' not in html
    assert "phantom" not in (html + study.read("table.txt")).lower()


def test_subjects_are_listed(made: Study) -> None:
    page = Page(made.read("index.html"))
    assert "No subject was left out." in page.text
    assert "2 training, 0 validation, 2 test" in page.text
    assert "H1 healthy host <b>host</b> & co CC0" in page.text  # escaped: text here, not a tag
    assert "b" not in page.tags


def test_skipped_subjects_are_listed_with_their_problem(study: Study) -> None:
    problem = "sub-H9_T1w.nii.gz: holds NaN; mend it & <try> again"
    study.table("skipped", ["subject", "cohort", "problem"], [["H9", "healthy", problem]])
    page = Page(study.make())
    assert f"H9 healthy {problem}" in page.text
    assert "No subject was left out." not in page.text


def test_absent_regions_and_equal_steps_are_explained(made: Study) -> None:
    text = Page(made.read("index.html")).text
    assert "2 of 2 test cases have no annotated ET" in text
    assert "no annotated WT" not in text
    assert "fewer patches of real cases" in text
    patches = made.config["segment"]["batch"] * made.config["segment"]["steps"]
    found = report.exposures(made.config)
    assert [row["real"] for row in found] == [patches, patches / 2]
    assert [row["synthetic"] for row in found] == [0, patches / 2]


def test_the_page_needs_nothing_from_outside(made: Study) -> None:
    html = made.read("index.html")
    page = Page(html)
    for reference in page.references:
        assert reference.startswith("data:") or (made.out / reference).is_file(), reference[:80]
    assert "script" not in page.tags
    assert not re.search(r"url\(|@import|https?://", html)
    assert len(html) < 5e6


def test_every_picture_can_be_read_and_shows_something(made: Study) -> None:
    page = Page(made.read("index.html"))
    found = [reference for reference in page.references if reference.startswith("data:image")]
    assert len(found) == len(page.alts)
    assert all(page.alts)
    for reference in found:
        head, payload = reference.split(",", 1)
        data = base64.b64decode(payload, validate=True)
        if "svg" in head:
            assert len(list(ElementTree.fromstring(data).iter())) > 50
        else:
            assert imread(io.BytesIO(data)).std() > 0.05


def pictures(html: str) -> list[str]:
    return re.findall(r"data:image/(\w+)", html)


def test_samples_are_spread_over_the_list(made: Study) -> None:
    html = made.read("index.html")
    # paired Dice; best and worst case; samples; learning curves; refiner
    assert pictures(html) == ["svg", *["png"] * (2 + report.MOST_SAMPLES), "svg", "svg"]
    numbers = re.findall(r"<figcaption>Host H1, sample (\d+): a tumour from T1", html)
    assert (numbers[0], numbers[-1], len(set(numbers))) == ("0", "9", report.MOST_SAMPLES)


def test_samples_refiners_and_validation_may_be_absent(study: Study) -> None:
    for run in study.runs:
        stage.write_text(run / "training.csv", "step,loss,validation_dice\n0,1.5,\n1,1.2,\n")
    html = study.make()
    assert "Synthetic samples" not in html
    assert pictures(html) == ["svg", "png", "png", "svg"]


def test_a_sample_shows_the_refined_image_when_there_is_one(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[list[str]] = []
    monkeypatch.setattr(
        figures, "strip", lambda tiles, view: shown.append([t.title for t in tiles])
    )
    study.add_samples(1, refined=False)
    figures.sample_strip(study.samples[0], study.config)
    study.add_samples(1, refined=True)
    figures.sample_strip(study.samples[0], study.config)
    assert shown == [
        ["host, T1w", "coarse (TF-Aug)", "labels"],
        ["host, T1w", "coarse (TF-Aug)", "refined (TF-GAN)", "labels"],
    ]


def test_the_caption_of_a_tumour_free_sample_says_so(study: Study) -> None:
    study.add_samples(1, refined=False)
    caption = figures.sample_strip(study.samples[0], study.config)["caption"]
    assert "a tumour from T1, 0.2 ml" in caption
    dseg = Path(str(study.samples[0]).replace(".json", "_dseg.nii.gz"))
    save(dseg, np.zeros(SHAPE, np.uint8), AFFINE)
    free = figures.sample_strip(study.samples[0], study.config)["caption"]
    assert free == "Host H1, sample 0: no tumour."


def test_the_same_inputs_give_the_same_bytes(made: Study) -> None:
    names = ("dice.csv", "table.txt", "index.html")
    before = [made.read(name) for name in names]
    made.make()
    assert [made.read(name) for name in names] == before


def test_best_median_and_worst_case() -> None:
    def chosen(**dice: float) -> list[tuple[str, str]]:
        rows = [{"region": "WT", "case": case, "dice": value} for case, value in dice.items()]
        rows += [{"region": "mean", "case": case, "dice": 1 - v} for case, v in dice.items()]
        return report.chosen_cases(pd.DataFrame(rows))

    assert chosen(a=0.4, b=0.9, c=0.0, d=0.5) == [("best", "b"), ("median", "a"), ("worst", "c")]
    assert chosen(b=0.0, a=0.0, c=0.0) == [("best", "c"), ("median", "b"), ("worst", "a")]
    assert chosen(a=0.4, b=0.9) == [("best", "b"), ("worst", "a")]
    assert chosen(a=0.4) == [("only", "a")]


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR", "IAL", "SLP"])
def test_slices_look_the_same_however_the_file_is_turned(codes: str) -> None:
    import nibabel as nib

    ras = np.random.default_rng(0).uniform(1, 2, (7, 9, 6)).astype(np.float32)
    ras[5, 7, 3] = 9  # right, front
    focus = np.zeros(ras.shape, bool)
    focus[2, 2, 3] = True
    affine = np.diag([2.0, 3.0, 1.0, 1.0])
    orientation = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(codes)
    )
    turned = affine @ nib.orientations.inv_ornt_aff(orientation, ras.shape)
    stored, mask = (nib.orientations.apply_orientation(x, orientation) for x in (ras, focus))
    view = views.View.through(mask, stored > 0, turned)
    picture = view.of(stored)
    assert picture.shape == (9, 7)
    row, column = np.unravel_index(picture.argmax(), picture.shape)
    assert (row, column) == (1, 1)  # front is up, the patient's right is on the left
    assert view.aspect == pytest.approx(1.5)
    assert view.of(mask)[6, 4]


def test_the_slice_shows_tumour_even_when_its_centre_of_mass_does_not() -> None:
    focus = np.zeros((5, 5, 20), bool)
    focus[2, 2, [1, 2, 17, 18, 19]] = True
    assert views.View.through(focus, focus, np.eye(4)).index == 17
    empty = np.zeros_like(focus)
    assert views.View.through(empty, focus, np.eye(4)).index == 17
    assert views.View.through(empty, empty, np.eye(4)).of(focus).shape == (5, 5)


def drop_column(study: Study) -> None:
    path = study.runs[1] / "scores.csv"
    pd.read_csv(path).drop(columns="dice").to_csv(path, index=False)


def repeat_run(study: Study) -> None:
    study.runs.append(study.runs[0])


def unknown_arm(study: Study) -> None:
    study.config["study"]["arms"] = ["real", "coarse"]


def other_cases(study: Study) -> None:
    score_rows("tf", 2, 3, 0, {"A1": 0.1}).to_csv(study.runs[2] / "scores.csv", index=False)
    score_rows("tf", 2, 3, 1, {"A1": 0.1}).to_csv(study.runs[3] / "scores.csv", index=False)


def empty_history(study: Study) -> None:
    (study.runs[0] / "training.csv").write_text("")


def odd_folder(study: Study) -> None:
    study.runs[0] = study.runs[0].rename(study.runs[0].with_name("run1"))


def lost_prediction(study: Study) -> None:
    for path in study.runs[2].glob("sub-A1*"):
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop_column, r"seed-1/scores\.csv: lacks the columns dice"),
        (repeat_run, r"a score occurs twice"),
        (unknown_arm, r"scores\.csv: arm tf is not in study\.arms"),
        (other_cases, r"scores: tf 2 3 was scored on other cases"),
        (empty_history, r"training\.csv: not a CSV table"),
        (odd_folder, r"run1: is not named arm-A_k-K_n-N_fold-F_seed-S"),
        (lost_prediction, r"sub-A1_space-analysis_desc-pred_dseg\.nii\.gz: no such file"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    study: Study, spoil: Callable[[Study], None], message: str
) -> None:
    spoil(study)
    with pytest.raises(InputError, match=message) as caught:
        study.make()
    assert "\n" not in str(caught.value)
    assert not study.out.exists()


def test_a_run_whose_folder_is_not_given_is_named(study: Study) -> None:
    arguments = study.arguments()
    arguments.remove(str(study.runs[2]))
    with pytest.raises(InputError, match="--runs: lacks the folder of arm tf, k 2, n 3"):
        report.main(arguments)
