"""Flow: the scores of one model."""

from __future__ import annotations

from prefect import flow

from tasks import building, evaluation, models, parameters
from tasks.evaluation import Evaluation


@flow(name="evaluate", flow_run_name="evaluate-{model}")
def evaluate(profile: str, model: str, parent_run: str | None = None, label: str | None = None) -> Evaluation:
    """Let a model edit every session of the benchmark and judge every turn.

    Args:
        profile: whose benchmark and sampling to use.
        model: model id.
        parent_run: MLflow run of the retraining that this belongs to.
        label: tells evaluations apart where they are shown; by default the model's name.
    """
    chosen = parameters.load(profile)
    benchmark = building.current(chosen, "benchmark")
    return evaluation.evaluate(chosen, benchmark, models.record(model), parent_run, label)
