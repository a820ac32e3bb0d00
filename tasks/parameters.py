"""The whole of one profile, typed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.parameters import read_profile, section
from model.config import EvaluationConfig, ModelConfig, RlConfig, SupervisedConfig, VaeConfig
from tasks.settings import settings


@dataclass(frozen=True)
class Parameters:
    """Every section of a profile. `sessions` and `benchmark` are as written: the data build itself types them."""

    profile: str
    sessions: dict[str, Any]
    benchmark: dict[str, Any]
    vae: VaeConfig
    model: ModelConfig
    base: SupervisedConfig
    sft: SupervisedConfig
    rl: RlConfig
    evaluation: EvaluationConfig


def load(profile: str, path: Path | None = None) -> Parameters:
    """Read and check a profile of params.yaml.

    Raises:
        UserError: unknown profile, unknown key, or a value of the wrong type; names the file and the key.
    """
    return typed(profile, read_profile(profile, path or settings().root / "params.yaml"))


def typed(profile: str, found: dict[str, Any], source: str = "params.yaml") -> Parameters:
    """The sections of a profile, checked; `source` names in errors where they were written.

    Raises:
        UserError: as `load`.
    """
    return Parameters(
        profile=profile,
        sessions=dict(found.get("sessions") or {}),
        benchmark=dict(found.get("benchmark") or {}),
        vae=section(found, "vae", VaeConfig, source),
        model=section(found, "model", ModelConfig, source),
        base=section(found, "base", SupervisedConfig, source),
        sft=section(found, "sft", SupervisedConfig, source),
        rl=section(found, "rl", RlConfig, source),
        evaluation=section(found, "evaluation", EvaluationConfig, source),
    )


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted names to values of a config or a mapping, as MLflow's table of parameters wants them."""
    items = config if isinstance(config, dict) else asdict(config)
    result: dict[str, Any] = {}
    for name, value in items.items():
        if isinstance(value, dict):
            result |= flat(value, f"{prefix}{name}.")
        else:
            result[f"{prefix}{name}"] = value
    return result
