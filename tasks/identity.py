"""Who a stage is: a fingerprint of its code, parameters, data and parent model.

Two runs with the same fingerprint would make the same thing, so the second one is not made. Code counts as the import
closure of the stage's entry modules: editing the RL objective does not retrain the base model.
"""

from __future__ import annotations

import ast
import dataclasses
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mlflow_config.settings import Stage
from tasks.canonical import canonical, plain, sha256

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("data", "model", "tasks", "mlflow_config")
LIBRARIES = ("torch", "diffusers", "transformers", "peft", "numpy", "pillow")  # a change of these may change a result
# What git must vouch for. Not dvc.lock: the data stages write it, and every statement keeps it.
SOURCES = (*PACKAGES, "flows", "params.yaml", "dvc.yaml", "pyproject.toml", "requirements.lock")
ENTRIES: Mapping[str, tuple[str, ...]] = {
    Stage.BUILD_DATASET: ("data.build", "tasks.expectations"),
    Stage.BUILD_BENCHMARK: ("data.build", "tasks.expectations"),
    Stage.PRETRAIN_BASE: ("model.pretrain", "model.pretrain_vae"),
    Stage.TRAIN_SFT: ("model.sft",),
    Stage.TRAIN_RL: ("model.rl",),
    Stage.EVALUATE: ("model.evaluation",),
}


@dataclasses.dataclass(frozen=True)
class Git:
    """Where the code stands: the commit (None outside a repository) and what differs from it, new files too."""

    commit: str | None
    changed: tuple[str, ...] = ()

    @property
    def dirty(self) -> bool:
        """Whether the commit does not say what runs; outside a repository nothing does."""
        return self.commit is None or bool(self.changed)


def digest(value: Any) -> str:
    """SHA-256 over the canonical JSON of a value, which may hold dataclasses and paths."""
    return sha256(canonical(value, plain))


def _file(module: str, root: Path) -> Path | None:
    base = root.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _imports(path: Path) -> Iterator[str]:
    """Every module a file may import, lazily or not; `from a import b` counts as both `a` and `a.b`."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def closure(entries: Iterable[str], root: Path = ROOT) -> dict[str, Path]:
    """Modules of this project reachable by imports from `entries`, with their files."""
    found: dict[str, Path] = {}
    waiting = list(entries)
    while waiting:
        module = waiting.pop()
        path = _file(module, root)
        if module in found or module.split(".")[0] not in PACKAGES or path is None:
            continue
        found[module] = path
        waiting.extend(_imports(path))
    return found


@lru_cache
def code_digest(stage: str, root: Path = ROOT) -> str:
    """SHA-256 over the code of a stage and the versions of the libraries that decide its numbers."""
    files = closure(ENTRIES[stage], root)
    code = {module: sha256(path.read_bytes()) for module, path in files.items()}
    return digest({"code": code, "libraries": {name: _version(name) for name in LIBRARIES}})


def whole_code() -> str:
    """SHA-256 over the code of every stage: that of a run that spans all of them."""
    return digest({stage: code_digest(stage) for stage in ENTRIES})


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def fingerprint(
    stage: str,
    parameters: Any,
    *,
    datasets: Mapping[str, str] | None = None,
    parent: str | None = None,
    code: str | None = None,
) -> str:
    """Identity of one run of a stage (64 hexadecimal digits).

    Args:
        stage: one of `Stage`.
        parameters: the typed sections that the stage reads; seeds are among them.
        datasets: name to DVC hash of every dataset read.
        parent: digest of the model that the stage starts from or judges.
        code: digest of the code; by default that of the stage's entry modules.
    """
    return digest(
        {
            "stage": str(stage),
            "code": code or code_digest(stage),
            "parameters": parameters,
            "datasets": dict(datasets or {}),
            "parent": parent,
        }
    )


@lru_cache
def git(root: Path = ROOT) -> Git:
    """Commit of the checkout, and what of its code and parameters is not as committed.

    A change of a page or a test is none: it decides nothing about a model.
    """

    def ask(*words: str) -> str | None:
        try:
            answer = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return answer.stdout

    commit = ask("rev-parse", "HEAD")
    changes = ask("status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", *SOURCES)
    if commit is None or changes is None:
        return Git(None)
    return Git(commit.strip(), tuple(line[3:] for line in changes.split("\0") if line))
