"""Flow: may this model become champion?"""

from __future__ import annotations

from prefect import flow

from tasks import building, evaluation, models, parameters, promoting
from tasks.promoting import Promotion


@flow(name="promote", flow_run_name="promote-{model}")
def promote(
    profile: str, model: str, parent_run: str | None = None, reason: str = "retrained", override: str | None = None
) -> Promotion:
    """Compare a model with the champion, decide by the policy, and promote it or say why not.

    Args:
        profile: whose policy, benchmark and sampling to use.
        model: model id of the candidate.
        parent_run: MLflow run of the retraining that this belongs to.
        reason: why now, in a sentence; the ledger keeps it.
        override: a signed approval of a promotion that the gates refuse.
    """
    chosen = parameters.load(profile)
    benchmark = building.current(chosen, "benchmark")
    candidate = models.record(model)
    scores = evaluation.evaluate(chosen, benchmark, candidate, parent_run)
    before = models.record(candidate.parent) if candidate.parent else None
    parent = evaluation.evaluate(chosen, benchmark, before, parent_run) if before else None
    return promoting.promote(chosen, benchmark, scores, parent, parent_run, reason, override)
