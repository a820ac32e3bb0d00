"""Flow: multi-turn reinforcement learning."""

from __future__ import annotations

from prefect import flow

from tasks import building, models, parameters, training
from tasks.models import ModelRecord


@flow(name="train-rl", flow_run_name="train-rl-{profile}")
def train_rl(profile: str, sft: str | None = None, parent_run: str | None = None) -> ModelRecord:
    """Improve traces and pictures together by rewards over whole sessions.

    Args:
        profile: name in params.yaml.
        sft: model id to start from; by default the profile's own SFT model.
        parent_run: MLflow run of the retraining that this belongs to.
    """
    chosen = parameters.load(profile)
    sessions = building.current(chosen, "sessions")
    start = models.record(sft) if sft else training.finished_sft(chosen, sessions)
    return training.train_rl(chosen, sessions, start, parent_run)
