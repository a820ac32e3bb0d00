"""dvc.yaml as committed: it depends on exactly what its stages read."""

import ast
from pathlib import Path

import pytest
import yaml

from data.parameters import read_profile

ROOT = Path(__file__).parents[2]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PROFILES = yaml.safe_load((ROOT / "params.yaml").read_text())["profiles"]


def import_closure(start: Path) -> set[str]:
    """Files of the project that a module imports, directly or not, itself included."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        name = path.relative_to(ROOT).as_posix()
        if name in found or not path.is_file():
            continue
        found.add(name)
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            waiting += [ROOT / f"{module.replace('.', '/')}.py" for module in modules]
    return found


@pytest.mark.parametrize("stage", ["sessions", "benchmark"])
def test_a_stage_depends_on_all_the_code_that_it_runs_and_on_no_other(stage):
    assert set(PIPELINE[stage]["deps"]) == import_closure(ROOT / "data" / "build.py")


@pytest.mark.parametrize("stage", ["sessions", "benchmark"])
def test_every_value_of_a_section_is_a_parameter_of_its_stage(stage):
    for profile in PIPELINE[stage]["matrix"]["profile"]:
        watched = [name.replace("${item.profile}", profile) for name in PIPELINE[stage]["params"]]
        literal: dict = {}
        for name in watched:
            _, owner, section = name.split(".")
            literal |= PROFILES[owner].get(section, {})
        assert literal == read_profile(profile, ROOT / "params.yaml")[stage]
        assert f"profiles.{profile}.{stage}" in watched


def test_the_committed_remote_is_a_folder_and_holds_no_secret():
    text = (ROOT / ".dvc" / "config").read_text()
    assert "analytics = false" in text and "url = ../.edit-r2/dvc-remote" in text
    assert not any(word in text for word in ("key", "secret", "password", "endpointurl"))
