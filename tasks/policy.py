"""The gate policy: `mlflow_config/gates.yaml`, read per profile and validated."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import mlflow_config
from data.errors import UserError
from data.parameters import merge
from model.atomic import write_atomically
from tasks.canonical import canonical, sha256
from tasks.comparison import Axis

PROFILE_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
POLICY_FILE = Path(mlflow_config.__file__).with_name("gates.yaml")
Metric = Literal["IF", "CC", "GA", "GA_cumulative", "success", "session_success"]
Level = Literal["refuse", "warn", "off"]
Share = Field(ge=0.0, le=1.0)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Denominators(_Section):
    """Smallest numbers of sessions and valid turns that can carry a decision."""

    sessions: int = Field(ge=1)
    sessions_per_track: int = Field(ge=0)
    turns: dict[Metric, int]
    slice_sessions: int = Field(ge=2)


class Comparison(_Section):
    """One paired test of several metrics, on the parts of the benchmark that `by` names."""

    rule: Literal["non_inferiority", "superiority", "no_regression"]
    metrics: tuple[Metric, ...] = Field(min_length=1)
    by: tuple[Axis, ...] = Field(min_length=1)
    margin: float = Field(ge=0.0)


class RewardHacking(_Section):
    """Training reward certainly up by `rise`, held-out gain over the parent certainly below `share` of it."""

    level: Level
    metric: Metric
    rise: float = Field(gt=0.0)
    share: float = Share


class Lineage(_Section):
    """What must be known and true of a model's origin; how much a breach weighs."""

    scores_of_this_model: Level
    commit_known: Level
    clean_tree: Level
    lock_known: Level
    datasets_known: Level
    datasets_valid: Level
    datasets_match_lock: Level
    datasets_pushed: Level
    benchmark_of_this_run: Level
    parent_signed: Level


class Policy(_Section):
    """All rules for one profile."""

    profile: str
    alias: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    approval: Literal["required", "none"] = "none"
    alpha: float = Field(gt=0.0, lt=0.5)
    resamples: int = Field(ge=200)
    seed: int
    denominators: Denominators
    floors: dict[Metric, float]
    judge_errors: float = Share
    against_champion: tuple[Comparison, ...]
    against_parent: tuple[Comparison, ...]
    reward_hacking: RewardHacking
    lineage: Lineage

    def document(self) -> bytes:
        """Canonical JSON: the form that decisions refer to."""
        # Left out where it says nothing: policies that were kept before there was such a rule keep their digest.
        unsaid = {"approval"} if self.approval == "none" else None
        return canonical(self.model_dump(mode="json", exclude=unsaid))

    @property
    def digest(self) -> str:
        """SHA-256 of `document()`."""
        return sha256(self.document())


def load_policy(profile: str, path: Path = POLICY_FILE) -> Policy:
    """The rules for a profile; one that the file does not name gets the defaults and a champion of its own.

    Raises:
        UserError: missing file, text that is no YAML mapping, an unknown or invalid key, which it names, or a profile
            whose name cannot be part of an alias or of the key of a page in Prefect.
    """
    if not PROFILE_NAME.fullmatch(profile):
        problem = f"profile {profile!r} cannot have a champion: its name is part of an alias and of the keys of pages"
        raise UserError(problem, "Rename it in params.yaml: lower-case letters, digits and dashes")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        changes = raw["profiles"].get(profile, {"alias": f"champion-{profile}"}) or {}
        return Policy.model_validate(merge(raw["defaults"], changes) | {"profile": profile})
    except FileNotFoundError as error:
        raise UserError(f"The gate policy {path.name} is missing", "Restore it from the repository") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path.name}: {where} for profile {profile}: {first['msg']}", "Correct the policy") from error
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path.name} is not a gate policy ({error})", "It needs `defaults` and `profiles`") from error


def policy_schema() -> dict[str, Any]:
    """JSON schema of `gates.yaml`: complete defaults, and partial overrides per profile."""
    schema = Policy.model_json_schema()
    definitions = schema.pop("$defs")
    del schema["properties"]["profile"]
    schema["required"].remove("profile")
    partial = {key: value for key, value in schema.items() if key != "required"}
    loose = {name: {k: v for k, v in body.items() if k != "required"} for name, body in definitions.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Promotion gates",
        "type": "object",
        "additionalProperties": False,
        "required": ["format", "defaults", "profiles"],
        "properties": {
            "format": {"const": 1},
            "defaults": schema,
            "profiles": {"type": "object", "additionalProperties": partial},
        },
        "$defs": loose | {"Comparison": definitions["Comparison"]},
    }


def main() -> None:
    """Write the schema beside the policy."""
    text = json.dumps(policy_schema(), indent=2) + "\n"
    write_atomically(POLICY_FILE.with_name("gates.schema.json"), text.encode())


if __name__ == "__main__":
    main()
