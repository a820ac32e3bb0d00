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
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from data.errors import UserError
from mlflow_config.settings import Stage
from tasks import identity, parameters, tracking
from tasks.failures import ServiceError
from tasks.settings import Dispatch, settings

ATTEMPTS = 20  # runs of one key that may have failed before
POLL_SECONDS = 2.0


def stage(flow: Flow[..., Any], name: Stage, **arguments: Any) -> Any:
    """Run the flow of a stage and return its result.

    Args:
        flow: a flow of this package; its deployment bears its name.
        name: the stage, whose code and parameters make the idempotency key.
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
    """Where stages run on pools, start the deployment of a flow once per key and do not wait for it."""
    if settings().dispatch is Dispatch.WORK_POOLS:
        _ask(flow, key, arguments)


def idempotency_key(name: Stage, arguments: dict[str, Any]) -> str:
    """Same code, parameters and inputs, same key; the parent run is no input."""
    inputs = {key: value for key, value in arguments.items() if key != "parent_run"}
    return identity.fingerprint(name, [parameters.load(arguments["profile"]), inputs])


def _on_a_worker(flow: Flow[..., Any], name: Stage, arguments: dict[str, Any]) -> Any:
    key = idempotency_key(name, arguments)
    for attempt in range(ATTEMPTS):
        run = _ask(flow, f"{key}-{attempt}", arguments)
        earlier = run.state is not None and run.state.is_final()
        state = run.state if earlier else _wait(run)
        if state is not None and state.is_completed():
            with suppress(tracking.NotFinished), tracking.only_reuse():
                return flow.fn(**arguments)
            problem = f"{flow.name} completed on a worker, but its result is not in MLflow at {settings().tracking_uri}"
        else:
            said = state.message if state is not None and state.message else "no message"
            problem = f"{flow.name} ended as {state.name if state else 'unknown'} on a worker: {' '.join(said.split())}"
        if not earlier:
            raise UserError(problem, f"See flow run {run.name} ({run.id}) in Prefect and run again")
    raise UserError(f"{flow.name} failed {ATTEMPTS} times with the same inputs", "Look at its runs in Prefect")


def _ask(flow: Flow[..., Any], key: str, arguments: dict[str, Any]) -> FlowRun:
    """Create the run, or find the one that bears the key already."""
    from prefect.exceptions import ObjectNotFound

    try:
        name = f"{flow.name}/{flow.name}"
        return cast(FlowRun, run_deployment(name, parameters=arguments, timeout=0, idempotency_key=key))
    except ObjectNotFound as error:
        raise UserError(
            f"Prefect knows no deployment {flow.name}/{flow.name}", "Run `prefect deploy --all` (or `edit-r2 up`)"
        ) from error


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
