"""One lock: what make, conda and the containers install is what requirements.lock lists."""

import re
import shlex
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
RECIPES = ("Makefile", "envs/Dockerfile", "envs/apptainer.def")
BUILDS = ("envs/Dockerfile", "envs/apptainer.def")
QUIET = {"--quiet", "--disable-pip-version-check", "--no-cache-dir"}
FROM_LOCK = ["--requirement", "requirements.lock"]
PROGRAM = ["--no-deps", "--editable", "."]


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def recipe(name: str) -> str:
    """A recipe's text with its continued lines joined and comments left out; of the Makefile what
    `make` does to get ready, not how the lock is written."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    if name == "Makefile":
        text = text.split("\n$(READY):")[1].split("\nlock:")[0]
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def installed_by(name: str) -> list[list[str]]:
    """The arguments of every `pip install` of a recipe, without how much it says."""
    calls = re.findall(r"pip install ([^&\n]*)", recipe(name))
    return [[part for part in shlex.split(call) if part not in QUIET] for call in calls]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_installs_the_lock_then_the_program_and_nothing_else(name: str) -> None:
    assert installed_by(name) == [FROM_LOCK, PROGRAM]


def test_another_package_in_a_recipe_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = recipe("envs/Dockerfile") + "\nRUN pip install numpy\n"
    monkeypatch.setattr(sys.modules[__name__], "recipe", lambda name: planted)
    assert installed_by("envs/Dockerfile") == [FROM_LOCK, PROGRAM, ["numpy"]]


def test_the_conda_environment_is_the_lock() -> None:
    about = yaml.safe_load((ROOT / "envs" / "tumorfab.yaml").read_text(encoding="utf-8"))
    *conda, last = about["dependencies"]
    assert about["channels"] == ["conda-forge"]
    assert [part.partition("=")[0] for part in conda] == ["python", "pip"]
    pins = [line.split("==") for line in last["pip"]]
    assert {canonicalize_name(name): version for name, version in pins} == locked()


def test_every_environment_has_the_same_python() -> None:
    about = yaml.safe_load((ROOT / "envs" / "tumorfab.yaml").read_text(encoding="utf-8"))
    (conda,) = [d for d in about["dependencies"] if str(d).startswith("python=")]
    version = conda.partition("=")[2]
    for name in BUILDS:
        assert re.findall(r"python:([\d.]+)-slim", recipe(name)) == [version]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert Requirement(f"python{project['requires-python']}").specifier.contains(version)


def test_the_lock_holds_what_the_program_needs_in_versions_that_it_allows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    wanted = [Requirement(text) for text in asked if not text.startswith("tumorfab")]
    assert len(wanted) > 20
    pins = locked()
    unmet = [str(r) for r in wanted if not r.specifier.contains(pins[canonicalize_name(r.name)])]
    assert unmet == []


def test_the_lock_is_complete_and_agrees_with_itself() -> None:
    """Whatever a locked package needs is locked as well, in a version that it accepts."""
    pins = locked()
    unmet = []
    for name in pins:
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another platform
        for need in map(Requirement, needs):
            if need.marker and not need.marker.evaluate({"extra": ""}):
                continue
            other = canonicalize_name(need.name)
            # pip lists neither itself nor argparse, which is in the standard library. The builds
            # of torch bring their own CUDA packages, which differ between machines.
            if other in ("setuptools", "pip", "argparse") or other.startswith(
                ("nvidia-", "cuda-", "triton")
            ):
                continue
            if other not in pins or not need.specifier.contains(pins[other], prereleases=True):
                unmet.append(f"{name} needs {need}, locked {pins.get(other)}")
    assert unmet == []
