"""What the doctor asks of servers: that they are of our versions, and that no slot is held by a run that is gone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from uuid import UUID

from tasks.complaints import Complaint

if TYPE_CHECKING:
    import httpx
    from prefect.client.schemas.objects import FlowRun

    from tasks.settings import Settings

SECONDS = 10.0
DEPLOYMENT = "deployment:"  # how Prefect names the limit of a deployment, before its id


def ask_services(
    chosen: Settings, repair: bool = False, transport: httpx.BaseTransport | None = None
) -> list[Complaint]:
    """Complaints about the configured servers; none is configured by default.

    Args:
        chosen: their addresses and credentials.
        repair: free slots that no running flow holds.
        transport: stands in for the network in tests.
    """
    import httpx

    found: list[Complaint] = []
    if chosen.mlflow_tracking_uri and chosen.mlflow_tracking_uri.startswith("http"):
        auth = _pair(chosen.mlflow_tracking_username, chosen.mlflow_tracking_password)
        with httpx.Client(
            base_url=chosen.mlflow_tracking_uri, auth=auth, timeout=SECONDS, transport=transport
        ) as client:
            found += _guarded("MLflow", lambda: _versions("MLflow", "mlflow", client.get("/version").text))
    if chosen.prefect_api_url:
        with prefect_api(chosen, chosen.prefect_api_url, transport) as client:
            found += _guarded("Prefect", lambda: _versions("Prefect", "prefect", client.get("/admin/version").json()))
            found += _guarded("Prefect", lambda: _slots(client, repair))
    return found


def prefect_api(chosen: Settings, url: str, transport: httpx.BaseTransport | None = None) -> httpx.Client:
    """A client of a Prefect server, with the credentials of the settings."""
    import httpx

    secret = chosen.prefect_api_auth_string
    user, _, password = (secret.get_secret_value() if secret else "").partition(":")
    auth = (user, password) if user else None
    return httpx.Client(base_url=url, auth=auth, timeout=SECONDS, transport=transport)


def _pair(user: str | None, password: Any) -> tuple[str, str] | None:
    return (user, password.get_secret_value()) if user and password else None


def _guarded(name: str, check: Any) -> list[Complaint]:
    """The complaints of a check; a server that gives no sensible answer is one itself."""
    import httpx

    try:
        return list(check())
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        problem = f"it gives no sensible answer ({type(error).__name__})"
        return [Complaint("service", name, problem, "Look at its log, and at the address in the settings")]


def _versions(name: str, package: str, theirs: str) -> Iterator[Complaint]:
    """Client and server must agree in their first two numbers."""
    ours = version(package)
    if theirs.strip().split(".")[:2] != ours.split(".")[:2]:
        problem = f"the server is {theirs.strip()[:20]}, the client {ours}"
        yield Complaint("service", name, problem, "Install the same version on both sides")


def _slots(client: httpx.Client, repair: bool) -> Iterator[Complaint]:
    """Concurrency slots that are taken while nobody runs who could hold them: their run died without giving them back.

    A deployment's slots belong to its own runs; any other slot may belong to any run.
    """
    own_run, own_deployment = _visitor()
    for limit in client.post("/v2/concurrency_limits/filter", json={}).raise_for_status().json():
        deployment = limit["name"].removeprefix(DEPLOYMENT) if limit["name"].startswith(DEPLOYMENT) else None
        if limit["active_slots"] <= 0 or (deployment is not None and deployment == own_deployment):
            continue
        if _running(client, deployment, own_run) > 0:
            continue
        if repair:
            client.patch(f"/v2/concurrency_limits/{limit['id']}", json={"active_slots": 0}).raise_for_status()
        problem = f"{limit['active_slots']} slots of {limit['name']} are held, and nothing runs that could hold them"
        yield Complaint("service", "Prefect", problem, "Run `edit-r2 doctor --repair`", repair)


def _running(client: httpx.Client, deployment: str | None, without: str | None) -> int:
    """Number of live flow runs, of one deployment or of all."""
    wanted: dict[str, Any] = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
    if deployment is not None:
        wanted["deployment_id"] = {"any_": [deployment]}
    if without is not None:
        wanted["id"] = {"not_any_": [without]}
    return int(client.post("/flow_runs/count", json={"flow_runs": wanted}).raise_for_status().json())


def _visitor() -> tuple[str | None, str | None]:
    """Ids of the flow run that this visit is part of, and of its deployment: it holds slots itself."""
    if "prefect" not in sys.modules:
        return None, None
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    run = context.flow_run if context else None
    return (str(run.id), str(run.deployment_id)) if run else (None, None)


def close_flow_run(flow_run: str | None) -> None:
    """Prefect, too, learns that a process died; where its server no longer knows the run there is nothing to close."""
    if flow_run is None:
        return
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    with suppress(ObjectNotFound), get_client(sync_client=True) as client:
        found = client.read_flow_run(UUID(flow_run))
        if found.state is not None and not found.state.is_final():
            client.set_flow_run_state(found.id, Crashed(message="Its process died"), force=True)


def close_dead_flow_runs(worker: str) -> None:
    """Close the flow runs that a worker of this machine started and whose processes are gone.

    A power cut leaves them RUNNING for ever, and whoever finds one by its key would wait with it. Prefect cannot tell
    from afar: that a worker is silent says nothing about the processes that it started.

    Args:
        worker: its name, with which Prefect labels what it starts.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType

    running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=FlowRunFilter(state=running))
    for run in found:
        if run.labels.get("prefect.worker.name") == worker and run.infrastructure_pid and not _alive(run):
            close_flow_run(str(run.id))


def _alive(run: FlowRun) -> bool:
    """Whether the process of a running flow run still is; one that began after the run did has only its number."""
    import psutil

    try:
        created = psutil.Process(int(str(run.infrastructure_pid))).create_time()
    except psutil.NoSuchProcess:
        return False
    return run.state is None or created <= run.state.timestamp.timestamp()
