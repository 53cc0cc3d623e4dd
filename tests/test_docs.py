"""The documentation: links resolve, examples are valid, the configuration page is the schema's."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tumorfab.cli import STAGES
from tumorfab.config import SCHEMA, validated

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
STUDIES = [ROOT / "config.yaml", *sorted((ROOT / "config").glob("*.yaml"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
# `name/...` in backticks whose first part is a folder of code or configuration
REPO_PATH = re.compile(r"`((?:config|docs|envs|profiles|tests|tumorfab|workflow)/[\w./-]*)`")
MACHINE_PATH = re.compile(r"(?<![\w.~/-])/(?:work|root|home|tmp|mnt|media|srv|Users)/?\b")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def leaves(node: dict[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    """The keys of the schema that hold a value, dotted, with their subschemas."""
    found: dict[str, dict[str, Any]] = {}
    for key, sub in node["properties"].items():
        if sub.get("type") == "object":
            found |= leaves(sub, f"{prefix}{key}.")
        else:
            found[prefix + key] = sub
    return found


def rows(page: Path) -> dict[str, list[str]]:
    """Cells (allowed, default, meaning) of the page's tables by key."""
    found: dict[str, list[str]] = {}
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            key, *cells = (cell.strip() for cell in line.strip("|").split(" | "))
            assert key not in found, f"{key} is listed twice"
            found[key.strip("`")] = cells
    return found


KEYS = leaves(yaml.safe_load(SCHEMA.read_text(encoding="utf-8")))
ROWS = rows(ROOT / "docs" / "configuration.md")


def test_the_configuration_page_lists_the_keys_of_the_schema_in_its_order() -> None:
    assert list(ROWS) == list(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_the_configuration_page_states_default_meaning_and_bounds(key: str) -> None:
    node = KEYS[key]
    allowed, default, meaning = ROWS[key]
    value = node["default"]
    shown = (value or '""') if isinstance(value, str) else json.dumps(value)
    assert default == f"`{shown}`"
    assert meaning.startswith(node["description"].rstrip("."))
    for part in (node, node.get("items", {})):
        for choice in part.get("enum", []):
            assert f"`{choice}`" in allowed
        for bound in ("minimum", "exclusiveMinimum", "maximum", "multipleOf"):
            if bound in part:
                assert re.search(rf"(?<![\d.]){re.escape(str(part[bound]))}(?![\d.])", allowed)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link for link in LINK.findall(text) if not re.match(r"https?://|mailto:", link)]
    targets = [page.parent / link.partition("#")[0] for link in links]
    targets += [ROOT / path for path in REPO_PATH.findall(text)]
    assert targets, "no link was found: has the pattern gone stale?"
    assert [str(target) for target in targets if not target.exists()] == []


@pytest.mark.parametrize("page", [*PAGES, *STUDIES], ids=name)
def test_no_path_of_a_machine(page: Path) -> None:
    assert MACHINE_PATH.findall(page.read_text(encoding="utf-8")) == []


def test_a_path_of_a_machine_would_be_found() -> None:
    for planted in ("see /home/me/scans", "path: /work", "(/root/x)", "`/tmp/a`"):
        assert MACHINE_PATH.search(planted), planted
    for harmless in ("../work/scans", "docs/home/page", "https://a.org/home/x", "and/or/work"):
        assert not MACHINE_PATH.search(harmless), harmless


@pytest.mark.parametrize("study", STUDIES, ids=name)
def test_shipped_studies_are_valid(study: Path) -> None:
    validated(yaml.safe_load(study.read_text(encoding="utf-8")))


def test_the_readme_example_is_valid_over_the_demo_and_alone() -> None:
    """Snakemake merges it into config.yaml, or takes it alone with --replace-workflow-config."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", readme, re.S))
    demo = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    for key, value in example.items():
        demo[key] = {**demo.get(key, {}), **value} if isinstance(value, dict) else value
    assert validated(demo)["healthy"]["source"] == "bids"
    assert validated(example)["study"]["k"] == [5, 10]


def test_the_real_study_states_its_two_paths_first() -> None:
    study = yaml.safe_load((ROOT / "config" / "ixi_brats_t1_2mm.yaml").read_text(encoding="utf-8"))
    assert list(study)[:2] == ["healthy", "annotated"]
    assert all(not Path(study[cohort]["path"]).is_absolute() for cohort in ("healthy", "annotated"))


def test_every_stage_is_described() -> None:
    method = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    layout = (ROOT / "docs" / "layout.md").read_text(encoding="utf-8")
    for stage in STAGES:
        assert f"`{stage}`" in method, f"docs/method.md does not describe {stage}"
        assert f"`{stage}`" in layout, f"docs/layout.md does not name {stage}"
