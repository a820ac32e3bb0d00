"""Where a stage runs: in this process, or on a worker of a pool.

Both ways give the same answer, because a stage is identified by its fingerprint: after a worker has finished, calling
the stage here finds its run and reuses it. A worker is asked under an idempotency key made of everything that decides
the outcome, so a retried retraining attaches to the run that is already under way instead of training twice.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any, cast

from prefect import Flow
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import run_deployment
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from data.errors import UserError
from mlflow_config.settings import Stage
from tasks import identity, parameters, tracking
from tasks.failures import ServiceError
from tasks.redaction import without_login
from tasks.settings import Dispatch, settings

POLL_SECONDS = 2.0


def stage(flow: Flow[..., Any], name: Stage | str, **arguments: Any) -> Any:
    """Run the flow of a stage and return its result.

    Args:
        flow: a flow of this package; its deployment bears its name.
        name: the stage, whose code and parameters make the idempotency key; or the key, for a flow of several stages.
        arguments: the flow's arguments; `profile` is one of them, and all are text.

    Raises:
        UserError: what the stage raised, or that a dispatched run did not complete.
    """
    if settings().dispatch is Dispatch.WORK_POOLS:
        return _on_a_worker(flow, name, arguments)
    # A flow run's heartbeat covers its subflows here; each own one would cost a second to end.
    with temporary_settings(updates={PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        return flow(**arguments)


def elsewhere(flow: Flow[..., Any], key: str, **arguments: Any) -> None:
    """Where stages run on pools, start the deployment of a flow, unless a run of this key is under way; do not wait.

    It is no subflow: those are never suspended, and this one may have to wait for a person.
    """
    if settings().dispatch is Dispatch.WORK_POOLS:
        newest = _newest(flow, key)
        if newest is None or not _under_way(newest):
            _ask(flow, key, newest, arguments, as_subflow=False)


def idempotency_key(name: Stage, arguments: dict[str, Any]) -> str:
    """Same code, parameters and inputs, same key; the parent run is no input."""
    inputs = {key: value for key, value in arguments.items() if key != "parent_run"}
    return identity.fingerprint(name, [parameters.load(arguments["profile"]), inputs])


def _on_a_worker(flow: Flow[..., Any], name: Stage | str, arguments: dict[str, Any]) -> Any:
    key = idempotency_key(name, arguments) if isinstance(name, Stage) else name
    newest = _newest(flow, key)
    if newest is not None and newest.state is not None and newest.state.is_completed():
        with suppress(tracking.NotFinished), tracking.only_reuse():
            return flow.fn(**arguments)
    run = newest if newest is not None and _under_way(newest) else _ask(flow, key, newest, arguments)
    state = _wait(run)
    if state.is_completed():
        with suppress(tracking.NotFinished), tracking.only_reuse(whoever_made_it=True):
            return flow.fn(**arguments)
        where = without_login(settings().tracking_uri)
        problem = f"{flow.name} completed on a worker, but its result is not in MLflow at {where}"
    else:
        problem = f"{flow.name} ended as {state.name} on a worker: {' '.join((state.message or 'no message').split())}"
    raise UserError(problem, f"See flow run {run.name} ({run.id}) in Prefect and run again")


def _newest(flow: Flow[..., Any], key: str) -> FlowRun | None:
    """The newest deployed run of a key: only that one counts, so that no number of failures ends a key."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[_tag(flow, key)])),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=1,
        )
    return found[0] if found else None


def _tag(flow: Flow[..., Any], key: str) -> str:
    return f"{flow.name}:{key}"


def _under_way(run: FlowRun) -> bool:
    return run.state is None or not run.state.is_final()


def _ask(
    flow: Flow[..., Any], key: str, newest: FlowRun | None, arguments: dict[str, Any], as_subflow: bool = True
) -> FlowRun:
    """Create the next run of a key; who asks for the same one at the same time gets the same run."""
    from prefect.exceptions import ObjectNotFound

    attempt = int(str(newest.idempotency_key).rpartition("-")[2]) + 1 if newest else 0
    name = f"{flow.name}/{flow.name}"
    try:
        made = run_deployment(
            name,
            parameters=arguments,
            timeout=0,
            idempotency_key=f"{_tag(flow, key)}-{attempt}",
            tags=[_tag(flow, key)],
            as_subflow=as_subflow,
        )
    except ObjectNotFound as error:
        raise UserError(f"Prefect knows no deployment {name}", "Run `edit-r2 deploy`") from error
    return cast(FlowRun, made)


def _wait(run: FlowRun) -> State[Any]:
    """Poll until the run has ended; its state says how."""
    from prefect.client.orchestration import get_client

    until = time.monotonic() + settings().stage_timeout
    with get_client(sync_client=True) as client:
        while time.monotonic() < until:
            state = client.read_flow_run(run.id).state
            if state is not None and state.is_final():
                return state
            time.sleep(POLL_SECONDS)
    remedy = "Start a worker for its pool (`edit-r2 worker gpu`), or raise EDIT_R2_STAGE_TIMEOUT"
    raise ServiceError(f"flow run {run.name} did not end within {settings().stage_timeout:g} s", remedy)
