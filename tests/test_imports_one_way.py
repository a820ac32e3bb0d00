"""Imports run one way: flows → tasks → model, data, mlflow_config; model → data. Nothing points back."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"flows", "tasks", "model", "data", "mlflow_config"}
ALLOWED = {
    "flows": {"tasks", "model", "data", "mlflow_config"},
    "tasks": {"model", "data", "mlflow_config"},
    "model": {"data"},
    "data": set(),
    "mlflow_config": set(),
}
ORCHESTRATION = {"prefect", "mlflow", "dvc", "great_expectations", "boto3", "botocore"}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top names of everything a file imports, at the top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    assert imported(path) & PACKAGES <= ALLOWED[package] | {package}


@pytest.mark.parametrize("package", ["model", "data", "mlflow_config"])
def test_learning_and_data_run_without_the_orchestration(package):
    users = {path.name: imported(path) & ORCHESTRATION for path in (ROOT / package).rglob("*.py")}
    assert {name: found for name, found in users.items() if found} == {}


def test_the_environment_is_read_in_one_place():
    """Settings reads variables; others only hand an environment on to a process, or look for secrets to hide."""
    hands_on = {"settings.py", "services.py", "prefect_server.py", "datasets.py", "redaction.py", "experiment_jobs.py"}
    hands_on |= {"worker.py", "deploying.py"}
    readers = [path for path in FILES if "os.environ" in path.read_text() or "getenv(" in path.read_text()]
    assert {path.name for path in readers} <= hands_on
