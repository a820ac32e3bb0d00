"""Flow: supervised fine-tuning."""

from __future__ import annotations

from prefect import flow

from tasks import building, models, parameters, training
from tasks.models import ModelRecord


@flow(name="train-sft", flow_run_name="train-sft-{profile}")
def train_sft(profile: str, base: str | None = None, parent_run: str | None = None) -> ModelRecord:
    """Fine-tune a base model on whole sessions.

    Args:
        profile: name in params.yaml.
        base: model id to start from; by default the profile's own base model.
        parent_run: MLflow run of the retraining that this belongs to.
    """
    chosen = parameters.load(profile)
    start = models.record(base) if base else training.finished(training.base_plan(chosen), profile)
    return training.train_sft(chosen, building.current(chosen, "sessions"), start, parent_run)
