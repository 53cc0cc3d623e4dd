"""The `tumorfab` command: the stages by name."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tumorfab
from tumorfab import cli, plan

ROOT = Path(__file__).parent.parent
LIGHT = [
    "fetch", "demo", "ingest", "preprocess", "template", "standardise", "mosaic", "qc", "view",
    "resample", "bank", "place", "gate", "score", "report", "baselines.copypaste",
    "baselines.carvemix", "release", "verify", "reproduce",
]  # fmt: skip


def stages_of_rules() -> set[str]:
    rules = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    return set(re.findall(r"python -m tumorfab\.(?:batch )?([\w.]+)", rules))


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["tumorfab", *arguments])
    cli.main()


def test_every_stage_of_the_workflow_has_its_command() -> None:
    # fetch also runs while the workflow is planned
    by_hand = {"fetch", "resample", "reproduce", "verify", "view"}
    assert set(cli.STAGES) == stages_of_rules() | by_hand
    for stage in cli.STAGES:
        assert (plan.PACKAGE / f"{stage.replace('.', '/')}.py").exists()


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_lists_the_stages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    called(monkeypatch, *arguments)
    listed = re.findall(r"^  ([\w.]+) +\S", capsys.readouterr().out, re.MULTILINE)
    assert listed == list(cli.STAGES)


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    called(monkeypatch, "--version")
    assert capsys.readouterr().out.strip() == tumorfab.__version__


def test_an_unknown_stage_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as caught:
        called(monkeypatch, "placee")
    message = str(caught.value.code)
    assert message.startswith("error: no stage 'placee'; the stages are demo, ")
    assert "\n" not in message


def test_bad_input_is_one_line_and_names_may_have_dashes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = ["--cohort", "healthy", "--subject", "X", "--seed", "1", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as caught:
        called(monkeypatch, "demo", *arguments)
    assert str(caught.value.code).startswith("error: --subject: 'X'")
    with pytest.raises(SystemExit) as caught:
        called(monkeypatch, "train-refiner", "--help")
    assert caught.value.code == 0


@pytest.mark.parametrize("stage", LIGHT)
def test_help_of_a_stage_without_networks_loads_no_torch(stage: str) -> None:
    """torch and monai take seconds and most of a gigabyte to import."""
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"tumorfab.{stage}", "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0
    assert told.stdout.startswith("usage: ")
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in told.stderr.splitlines()}
    assert "numpy" in loaded
    assert not loaded & {"torch", "monai"}
