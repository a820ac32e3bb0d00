"""The step of a flow that waits for a person: the run sleeps until somebody resumes it with a signed answer.

Prefect cannot know who resumes a run, so the answer is a document that `edit-r2 approve` signed with a person's own
key, and `tasks.approval` checks it as if it had come by mail.
"""

from __future__ import annotations

from uuid import UUID

from prefect.context import FlowRunContext
from prefect.exceptions import FlowPauseTimeout, NotPausedError, ObjectNotFound
from prefect.flow_runs import pause_flow_run, resume_flow_run, suspend_flow_run
from prefect.input import RunInput

from data.errors import UserError
from tasks import progress
from tasks.decision import Decision
from tasks.promoting import Case
from tasks.settings import settings

POLL_SECONDS = 10


class SignedAnswer(RunInput):
    """What resumes a run: the text of the file that `edit-r2 approve` wrote."""

    approval: str


def ask(case: Case) -> str | None:
    """Wait for a person's signed answer where one is needed; None when there is nothing to ask, or nobody to ask.

    In a deployed run this raises Prefect's `Pause`: the process ends, and on resumption the flow starts again, finds
    everything done up to here, and gets the answer.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if not case.waits or case.decision is None or run is None or run.parent_task_run_id is not None:
        return None
    if run.deployment_id is None and not settings().prefect_api_url:
        return None  # the server ends with the command
    _tell(case, case.decision, str(run.id))
    wait = suspend_flow_run if run.deployment_id else _pause
    # A changed champion makes another decision, which another key asks about.
    seconds = int(settings().approval_timeout)
    try:
        return str(wait(SignedAnswer, timeout=seconds, key=case.decision.digest[:16]).approval)
    except FlowPauseTimeout as error:
        raise UserError(f"nobody answered within {seconds} s", "Run `edit-r2 promote` again") from error


def _pause(answer: type[SignedAnswer], timeout: int, key: str) -> SignedAnswer:
    return pause_flow_run(answer, timeout=timeout, key=key, poll_interval=POLL_SECONDS)


def _tell(case: Case, decision: Decision, run_id: str) -> None:
    """The page in Prefect that shows what is to be signed."""
    sign = f"edit-r2 approve {decision.digest} --name NAME --reason WHY --out FILE --resume {run_id}"
    progress.say(f"waits for a person: {sign}")
    text = f"Model `{case.model.model_id}` passed the gates. To let it become {case.alias}:\n\n`{sign}`\n\n"
    progress.page(f"approval-{decision.digest[:12]}", text + decision.markdown(), "Waits for a person")


def resume(run_id: str, envelope: bytes) -> None:
    """Pass a signed answer to the run that waits for it.

    Raises:
        UserError: there is no lasting server, no such run, or it does not wait (any more).
    """
    if not settings().prefect_api_url:
        raise UserError("no Prefect server is configured that a run could wait on", "Set PREFECT_API_URL")
    try:
        resume_flow_run(UUID(run_id), run_input={"approval": envelope.decode()})
    except (ValueError, ObjectNotFound) as error:
        raise UserError(f"Prefect knows no flow run {run_id}", "Copy its id from Prefect's page") from error
    except NotPausedError as error:
        raise UserError(f"flow run {run_id} does not wait for an answer", "See its state in Prefect") from error
    except FlowPauseTimeout as error:
        raise UserError(f"flow run {run_id} has waited too long and ended", "Run `edit-r2 promote` again") from error
