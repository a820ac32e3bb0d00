"""The table of a folder that `python -m model.bare` filled, on a machine without MLflow: nothing of it is tracked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.parameters import read_profile
from tasks import experiment
from tasks.experiment_measured import Measured, Training, compute
from tasks.scores import parse_scores
from tasks.settings import settings

STAGES, METRICS = "stages.json", "metrics.jsonl"


def measured(folder: Path) -> Measured:
    """What base, SFT and RL of the folder came to.

    Raises:
        UserError: a file is missing or cannot be read, or the folder was filled with other parameters than those of
            params.yaml.
    """
    told = _json(folder / STAGES)
    try:
        profile, device, seconds = str(told["profile"]), str(told["device"]), dict(told["seconds"])
        parameters = told["parameters"]
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(folder / STAGES) from error
    if parameters != json.loads(json.dumps(read_profile(profile, settings().root / "params.yaml"))):
        problem = f"{folder} was filled with other parameters of {profile} than those of params.yaml"
        raise UserError(problem, "Check out the commit that it was made from, or set its parameters")
    plan = experiment.load(profile)
    variants = {"base": "base", "sft": "sft", "rl": plan.headline}
    metrics = _metrics(folder / METRICS)
    trainings = {name: [_training(folder, profile, stage, seconds, metrics)] for stage, name in variants.items()}
    source = f"a folder of `python -m model.bare {profile}` on {device}, nothing of which is tracked or signed"
    return compute(plan, trainings, source, "edit-r2 experiment bare FOLDER")


def _training(
    folder: Path, profile: str, stage: str, seconds: dict[str, Any], metrics: list[dict[str, Any]]
) -> Training:
    sheet = folder / f"evaluate-{stage}" / "scores.json"
    unknown = {"profile": profile, "model_digest": "untracked"}
    benchmark = {"name": f"benchmark/{profile}", "digest": "untracked"}
    scores = parse_scores(json.dumps(_json(sheet) | unknown | {"benchmark": benchmark}), str(sheet))
    own = [row for row in metrics if row.get("stage") == stage]
    looks = [(row["step"], row["sft/validation_score"]) for row in own if "sft/validation_score" in row]
    return Training(
        seed=0,
        run_id=None,
        evaluation_run=None,
        commit=None,
        seconds=seconds.get(stage),
        rewards=tuple(row["rl/reward"] for row in own if "rl/reward" in row),
        best=max(looks, key=lambda look: look[1])[0] + 1 if looks else None,
        scores=scores,
        strips=sheet.parent / "strips",
    )


def _metrics(path: Path) -> list[dict[str, Any]]:
    """The last row of every step of a stage: what came after the last checkpoint of a training that was cut off is
    done, and told, once more."""
    try:
        rows = [dict(json.loads(line)) for line in path.read_text().splitlines()]
        return list({(row["stage"], row["step"]): row for row in rows}.values())
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise _unreadable(path) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(path) from error


def _unreadable(path: Path) -> UserError:
    return UserError(f"{path} is missing or cannot be read", "Name a folder whose last stage `model.bare` has finished")
