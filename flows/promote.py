"""Flow: may this model become champion?"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from prefect import flow

from flows.approving import ask
from flows.dispatch import stage
from flows.evaluate import evaluate
from mlflow_config.settings import Stage
from tasks import building, models, parameters, promoting, tracking
from tasks.evaluation import Evaluation
from tasks.promoting import Promotion


@flow(name="promote", flow_run_name="promote-{model}")
def promote(
    profile: str,
    model: str,
    parent_run: str | None = None,
    reason: str = "retrained",
    override: str | None = None,
    approval: str | None = None,
) -> Promotion:
    """Compare a model with the champion, decide by the policy, and promote it or say why not.

    Where the policy asks for a person's approval and none was given, the run waits for one: as a deployment it is
    suspended and its worker is free, else it is paused. Whoever resumes it passes on a signed answer, and only the
    signature counts. A run that nobody else could resume, and one within a retraining, ends and says how to go on.

    Args:
        profile: whose policy, benchmark and sampling to use.
        model: model id of the candidate.
        parent_run: MLflow run of the retraining that this belongs to.
        reason: why now, in a sentence; the ledger keeps it.
        override: a signed approval of a promotion that the gates refuse.
        approval: a signed approval of a promotion that the gates allow.
    """
    chosen = parameters.load(profile)
    promoting.policy_of(profile)  # a mistake there shows before any work, not after it
    benchmark = building.current(chosen, "benchmark")
    common = {"profile": profile, "parent_run": parent_run}
    candidate = models.record(model)
    scores = _judged(model=model, **common)
    parent = _judged(model=candidate.parent, **common) if candidate.parent else None
    champion = promoting.reigning(profile)
    if champion is not None and champion.digest != candidate.digest:
        _judged(model=champion.model_id, label="champion", **common)
    case = promoting.decide(chosen, benchmark, scores, parent, parent_run)
    word = approval or override or ask(case)
    return promoting.promote(case, parent_run, reason, word)


def _judged(**arguments: Any) -> Evaluation:
    """Scores that exist are looked up, since a run that was suspended cannot ask a subflow twice; others are made where
    evaluations run, which is not where a promotion does."""
    with suppress(tracking.NotFinished), tracking.only_reuse():
        return evaluate.fn(**arguments)
    made: Evaluation = stage(evaluate, Stage.EVALUATE, **arguments)
    return made
