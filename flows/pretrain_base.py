"""Flow: the base model."""

from __future__ import annotations

from prefect import flow

from tasks import parameters, training
from tasks.models import ModelRecord


@flow(name="pretrain-base", flow_run_name="pretrain-base-{profile}")
def pretrain_base(profile: str, parent_run: str | None = None) -> ModelRecord:
    """Train the latent space and then the base model."""
    return training.pretrain_base(parameters.load(profile), parent_run)
