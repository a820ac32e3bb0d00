"""Flow: may this model become champion?"""

from __future__ import annotations

from prefect import flow

from flows.approving import ask
from tasks import building, evaluation, models, parameters, promoting
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
    candidate = models.record(model)
    scores = evaluation.evaluate(chosen, benchmark, candidate, parent_run)
    before = models.record(candidate.parent) if candidate.parent else None
    parent = evaluation.evaluate(chosen, benchmark, before, parent_run) if before else None
    case = promoting.decide(chosen, benchmark, scores, parent, parent_run)
    word = approval or override or ask(case)
    return promoting.promote(case, parent_run, reason, word)
