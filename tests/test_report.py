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

from tumorfab import charts, figures, outcomes, report, score, stage, stats, tables, usage, views
from tumorfab.config import validated
from tumorfab.stage import InputError
from tumorfab.volume import save

MINUS = "\N{MINUS SIGN}"
SHAPE = (9, 10, 8)
AFFINE = np.diag([-2.0, -2.0, 2.0, 1.0])
# WT Dice by arm and case, one value per seed. TC is half of it; no case has any ET, so ET is 1.
WT = {"real": {"A1": (0.2, 0.4), "B2": (0.0, 0.0)}, "tf": {"A1": (0.5, 0.7), "B2": (0.2, 0.2)}}


def score_rows(
    arm: str, k: int, n: int, seed: int, dice: dict[str, float], fold: int = 0
) -> pd.DataFrame:
    rows = []
    for case, value in dice.items():
        for region, found, volume in (
            ("ET", 1.0, 0.0),
            ("WT", value, 12.5),
            ("TC", value / 2, 3.0),
        ):
            scores = [found, 40 * (1 - found), found, found, found if volume else np.nan, 2, 1, 1]
            rows.append([arm, k, n, fold, seed, case, region, *scores, volume, 1.0])
    return pd.DataFrame(rows, columns=score.COLUMNS)


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
        self.extra: list[str] = []
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
        arguments += self.extra
        return [str(argument) for argument in arguments]

    def make(self) -> str:
        report.main(self.arguments())
        return self.read("index.html")

    def read(self, name: str) -> str:
        return (self.out / name).read_text(encoding="utf-8")

    def summary(self) -> dict[tuple[int, str, str], dict[str, Any]]:
        scores = outcomes.read_scores([run / "scores.csv" for run in self.runs], ["real", "tf"])
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


NONE = ["-"] * 5
EXPECTED = {
    # real A1 0.3, B2 0; tf A1 0.6, B2 0.2; differences 0.3 and 0.2, mean / sd 3.54. Of two values
    # the bootstrap mean is the lower, the middle or the upper (1/4, 1/2, 1/4); the signed ranks of
    # two positive differences are one of four patterns. Seeds: real 0.1 and 0.2, sd 0.071.
    ("WT", "real"): ["-", "0.150 [0.000, 0.300]", "1 of 2", "± 0.071", *NONE],
    ("WT", "tf"): ["3", "0.400 [0.200, 0.600]", "0 of 2", "± 0.071", "+0.250 [+0.200, +0.300]",
                   "0.500", "0.500", "+3.54", "101"],
    ("TC", "real"): ["-", "0.075 [0.000, 0.150]", "1 of 2", "± 0.035", *NONE],
    ("TC", "tf"): ["3", "0.200 [0.100, 0.300]", "0 of 2", "± 0.035", "+0.125 [+0.100, +0.150]",
                   "0.500", "0.500", "+3.54", "27"],
    ("ET", "real"): ["-", "1.000 [1.000, 1.000]", "0 of 2", "± 0.000", *NONE],
    ("ET", "tf"): ["3", "1.000 [1.000, 1.000]", "0 of 2", "± 0.000", "+0.000 [+0.000, +0.000]",
                   "1.000", "1.000", "-", "-"],
    # real (0.3 + 0.15 + 1) / 3 and 1 / 3; tf (0.6 + 0.3 + 1) / 3 and (0.2 + 0.1 + 1) / 3
    ("mean", "real"): ["-", "0.408 [0.333, 0.483]", "0 of 2", "± 0.035", *NONE],
    ("mean", "tf"): ["3", "0.533 [0.433, 0.633]", "0 of 2", "± 0.035", "+0.125 [+0.100, +0.150]",
                     "0.500", "0.500", "+3.54", "27"],
}  # fmt: skip


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
    assert table.columns.tolist() == score.COLUMNS
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
    scores = outcomes.read_scores(paths, arms)
    pd.testing.assert_frame_equal(outcomes.read_scores(paths[::-1], arms), scores)
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
    alone = "0.500 (one case: no interval)"
    assert rows[0] == ["WT", "tf", "3", alone, "0 of 1", *[MINUS] * 6]
    study.add_run("real", 2, 0, 0, {"A1": 0.25})
    cells = tables.cells(study.summary()[2, "WT", "tf"])
    assert cells[4:] == ["+0.250 (one case: no interval)", "-", "-", "-", "-"]


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
    found = tables.exposures(made.config)
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
    # differences, paired Dice; best and worst case; samples; learning curves; refiner
    assert pictures(html) == ["svg", "svg", *["png"] * (2 + report.MOST_SAMPLES), "svg", "svg"]
    numbers = re.findall(r"<figcaption>Host H1, sample (\d+): a tumour from T1", html)
    assert (numbers[0], numbers[-1], len(set(numbers))) == ("0", "9", report.MOST_SAMPLES)


def test_samples_refiners_and_validation_may_be_absent(study: Study) -> None:
    for run in study.runs:
        stage.write_text(run / "training.csv", "step,loss,validation_dice\n0,1.5,\n1,1.2,\n")
    html = study.make()
    assert "Synthetic samples" not in html
    assert pictures(html) == ["svg", "svg", "png", "png", "svg"]


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
    names = ("dice.csv", "summary.csv", "table.txt", "index.html")
    before = [made.read(name) for name in names]
    made.make()
    assert [made.read(name) for name in names] == before


def test_best_median_and_worst_case() -> None:
    def chosen(**dice: float) -> list[tuple[str, str]]:
        rows = [{"region": "WT", "case": case, "value": value} for case, value in dice.items()]
        rows += [{"region": "mean", "case": case, "value": 1 - v} for case, v in dice.items()]
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
        (other_cases, r"scores: tf 2 3 0 0 was scored on other cases"),
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


def test_no_mean_is_printed_without_its_interval(made: Study) -> None:
    """Every number of the tables' columns of means is followed by its ends."""
    mean = re.compile(r"[+\N{MINUS SIGN}]?\d+\.\d+ \[[^\]]+, [^\]]+\]")
    for row in table_rows(made.read("index.html")):
        assert mean.fullmatch(row[3])
        assert row[6] == MINUS or mean.fullmatch(row[6])
    others = made.read("index.html").split('<table class="dice others')[1].split("</table>")[0]
    cells = re.findall(r"<td>(\S.*?)</td>", others)
    values = [part for cell in cells for part in re.sub("<.*?>", "|", cell).split("|") if part]
    numbers = [value for value in values if "." in value]
    assert len(numbers) == 4 * (3 + 6)  # regions, three means of real and three pairs of tf
    assert all(mean.fullmatch(value) for value in numbers)


def test_summary_csv_holds_every_metric(made: Study) -> None:
    table = pd.read_csv(made.out / "summary.csv", keep_default_na=False, na_values=[""])
    assert set(table["metric"]) == {"dice", *tables.OTHERS}
    row = table[(table["metric"] == "hd95_mm") & (table["arm"] == "tf") & (table["region"] == "WT")]
    assert row["difference"].tolist() == pytest.approx([-10.0])  # 40 times that of Dice
    assert row[["difference_low", "difference_high"]].to_numpy().ravel() == pytest.approx([-12, -8])
    assert row["mean_low"].tolist() == pytest.approx([16.0])


def test_sensitivity_by_volume_groups_the_cases_and_leaves_empty_regions_out() -> None:
    table = pd.concat(
        score_rows(arm, 2, n, 0, dict(zip("ABCDEFG", np.linspace(0.1, 0.7, 7), strict=True)))
        for arm, n in (("real", 0), ("tf", 3))
    )
    sizes = dict(zip("ABCDEFG", (5, 4, 3, 2, 1, 0, 6), strict=True))
    table["volume_ml"] = table["case"].map(sizes).astype(float)  # F has none
    rows = tables.by_volume(table, 1)
    assert [(row["low"], row["high"], row["cases"]) for row in rows] == [
        (1, 2, 2), (3, 4, 2), (5, 6, 2),
    ]  # fmt: skip
    assert rows[0]["arms"]["tf"].startswith("0.45 [")  # E 0.5, D 0.4


def test_verdicts_sort_the_arms_by_where_their_interval_lies() -> None:
    base = {"region": "mean", "k": 2, "n": 3}
    rows = [
        {**base, "arm": arm, "interval": interval}
        for arm, interval in (("a", (0.1, 0.2)), ("b", (-0.2, -0.1)), ("c", (-0.1, 0.1)))
    ]
    above, below, holds = tables.verdicts(rows)
    assert "lies above 0" in above
    assert "a (K = 2, N = 3)" in above
    assert "harm" in below
    assert "b (K" in below
    assert "holds 0" in holds
    assert "c (K" in holds


def test_rejected_draws_are_counted_up_to_the_number_of_draws(study: Study) -> None:
    study.add_samples(3, refined=False)
    for number, path in enumerate(study.samples):
        record = stage.read_json(path)
        record |= {"rejected_draws": {"outside <the> brain": number + 1, "in a ventricle": 1}}
        stage.write_json(path, record | {"refused": ["no room"] if number == 1 else []})
    study.extra = ["--sets", str(study.results / "fold-0_k-2"), "--draws", "2"]
    text = Page(study.make()).text
    assert "2 coarse samples were made; 5 draws were thrown away" in text
    assert "outside <the> brain 3 another draw" in text
    assert "no room 1 given up" in text


def test_time_is_summed_by_rule_and_gpu_hours_need_a_leased_card(tmp_path: Path) -> None:
    head = "s\th:m:s\tmax_rss\tcpu_time\n"
    files = {
        "segment/a": "7200\t2:00:00\t2048\t3600\n", "segment/b": "3600\t1:00:00\t1024\tNA\n",
        "qc": "36\t0:00:36\t100\t36\n", "report": "99\t0:01:39\t9999\t99\n",
    }  # fmt: skip
    for name, row in files.items():
        stage.write_text(tmp_path / "benchmarks" / f"{name}.tsv", head + row)
    stage.write_text(tmp_path / "logs/segment/a.log", "leased GPU 1\n")
    stage.write_text(tmp_path / "logs/segment/b.log", "no GPU visible: running on 2 CPU threads\n")
    segment, qc, total = usage.used(tmp_path)
    assert segment == {
        "rule": "segment", "jobs": 2, "hours": 3.0, "cpu_hours": 1.0, "gpu_hours": 2.0,
        "peak_gb": 2.0,
    }  # fmt: skip
    assert (qc["rule"], qc["hours"]) == ("qc", 0.01)
    assert (total["rule"], total["jobs"], total["peak_gb"]) == ("all", 3, 2.0)
    assert usage.used(tmp_path / "nothing") == []


def test_what_the_gate_rejected_is_counted_over_sets(study: Study) -> None:
    assert "Quality gate" not in study.make()
    scores = "agreement\trealism\tnearest\tdice\tcorrelation"
    empty = "\t" * 5
    tables = {
        "one": [("a", "accept", ""), ("b", "reject", "T1w ED too bright: 9 spreads; unreal: x")],
        "two": [("c", "reject", "T1w ED too bright: 7 spreads")],
    }
    for name, rows in tables.items():
        lines = ["sample\tverdict\treasons\t" + scores]
        lines += ["\t".join(row) + empty for row in rows]
        stage.write_text(study.results / f"{name}.tsv", "\n".join(lines) + "\n")
    study.extra = ["--gates", *(str(study.results / f"{name}.tsv") for name in tables)]
    text = Page(study.make()).text
    assert "1 of 3 refined samples accepted" in text
    assert "T1w ED too bright 2 unreal 1" in text


def test_realism_is_shown_where_its_file_is(study: Study) -> None:
    assert "Realism" not in study.make()
    distances = {"AUC": {"real": 0.5, "coarse": 0.78, "refined": 0.7, "no content": 0.9}}
    values = {"distances": distances, "command": "x", "n": {"real": "8"}}
    stage.write_json(study.results / "realism.json", values)
    study.extra = ["--realism", str(study.results / "realism.json")]
    text = Page(study.make()).text
    assert "AUC 0.5 0.78 0.7" in text


def test_dice_against_k_and_n_is_drawn_only_for_several(study: Study) -> None:
    summary = list(study.summary().values())
    assert charts.sweeps(summary, "mean") == ""
    for seed in (0, 1):
        study.add_run("real", 4, 0, seed, {"A1": 0.9, "B2": 0.8})
        study.add_run("tf", 4, 3, seed, {"A1": 0.8, "B2": 0.6})
    assert charts.sweeps(list(study.summary().values()), "mean").startswith("data:image/svg")


def test_folds_are_counted_and_their_cases_are_not_mixed(study: Study) -> None:
    rows = [["H1", "healthy", "host", "h", "CC0", "x", ""]]
    rows += [[case, "annotated", role, case, "CC0", "x", "y"] for case, role in
             (("A1", "test/train"), ("B2", "train/test"), ("T1", "unused/train"))]  # fmt: skip
    study.table(
        "subjects", ["subject", "cohort", "role", "source_id", "licence", "T1w", "seg"], rows
    )
    for run in [*study.runs]:
        table = pd.read_csv(run / "scores.csv")
        other = run.with_name(run.name.replace("fold-0", "fold-1"))
        other.mkdir()
        for name in [p.name for p in run.iterdir()]:
            (other / name).write_bytes((run / name).read_bytes())
        table[table["case"] == "B2"].assign(fold=1).to_csv(other / "scores.csv", index=False)
        table[table["case"] == "A1"].to_csv(run / "scores.csv", index=False)
        study.runs.append(other)
    text = Page(study.make()).text
    assert "fold 0: 1 training, 0 validation, 1 test, 1 unused" in text
    assert "fold 1: 2 training, 0 validation, 1 test" in text
    shown = {(row[0], row[1]): row[2:] for row in table_rows(study.read("index.html"))}
    for key, cells in EXPECTED.items():  # as in one fold: the same cases, each scored once
        same = [c.replace("-", MINUS) for c in cells]
        assert shown[key][:2] + shown[key][4:] == same[:2] + same[4:]
