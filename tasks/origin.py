"""What a lineage statement tells of one model, before it is put into the words of in-toto and SLSA."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

LIBRARIES = ("torch", "diffusers", "transformers", "safetensors", "numpy", "mlflow", "prefect", "dvc", "pydantic")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DatasetOrigin(_Record):
    """A dataset that was used: its DVC digest, the SHA-256 of its manifest, and what its expectations found."""

    name: str
    digest: str
    sha256: str | None = None
    valid: bool | None = None
    validation: str | None = None  # SHA-256 of the validation report, kept as a document


class ParentOrigin(_Record):
    """The model that training started from, by name and by digest; `statement` is its signed statement."""

    name: str
    model_id: str
    digest: str
    statement: str | None


class Origin(_Record):
    """All that a statement tells of one model. `files` maps paths in the model folder to SHA-256."""

    name: Literal["base", "sft", "rl"]
    profile: str
    stage: str
    fingerprint: str
    model_id: str
    model_digest: str
    files: dict[str, str]
    parameters: dict[str, Any]
    seeds: dict[str, int]
    commit: str | None
    dirty: bool
    lock_digest: str | None
    dvc_lock_digest: str | None
    datasets: tuple[DatasetOrigin, ...]
    parent: ParentOrigin | None = None
    reward: dict[str, Any] | None = None  # reward parameters and judge, of a model trained on one
    run_id: str
    parent_run_id: str | None = None
    run_record: str | None = None  # see tasks.registry.record_digest
    flow_run_id: str | None = None
    deployment: str | None = None
    hardware: dict[str, Any]
    libraries: dict[str, str]
    started: str | None = None
    finished: str | None = None


def hardware() -> dict[str, Any]:
    """Processor, cores, system and accelerators, without the host's name."""
    found: dict[str, Any] = {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count()}
    torch = sys.modules.get("torch")  # a process that trained has imported it; for others it costs seconds
    if torch is not None and torch.cuda.is_available():
        found["accelerators"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return found


def libraries() -> dict[str, str]:
    """Versions of Python and of the libraries that decide a result."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
