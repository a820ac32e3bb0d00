"""`edit-r2 up` and `down`: a Prefect server, an MLflow server and a worker per pool, on loopback.

They serve the same databases as the embedded default, so what was run before is there. What was started is written to
`home`/services.json at once; settings finds the addresses there as soon as they answer.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from data.errors import UserError
from model.atomic import write_atomically
from tasks.deploying import deploy
from tasks.failures import ServiceError
from tasks.locks import file_lock
from tasks.prefect_server import answers
from tasks.redaction import without_login
from tasks.settings import SERVICES, Dispatch, Settings, prepare, settings

START_SECONDS = 180.0
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Service:
    """A process that `up` started. `created` tells it from a later process with the same number."""

    name: str
    pid: int
    created: float
    log: str
    url: str | None = None

    @property
    def alive(self) -> bool:
        """Whether that very process still runs."""
        import psutil

        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.created) < 2 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def require_reachable(chosen: Settings) -> None:
    """Fail at once, not after minutes of retries, when a configured server does not answer.

    Raises:
        ServiceError: it names the address and the remedy.
        UserError: stages are to run on work pools, and no Prefect server outlives the command.
    """
    if chosen.dispatch is Dispatch.WORK_POOLS and chosen.prefect_api_url is None:
        problem = "EDIT_R2_DISPATCH=work-pools needs a Prefect server that outlives the command"
        raise UserError(problem, "Start one with `edit-r2 up`, or set PREFECT_API_URL")
    for name, variable, url in (
        ("MLflow", "MLFLOW_TRACKING_URI", chosen.mlflow_tracking_uri),
        ("Prefect", "PREFECT_API_URL", chosen.prefect_api_url),
    ):
        if url and url.startswith("http") and not _listens(url):
            started = (chosen.state / SERVICES).exists()
            remedy = "Run `edit-r2 down` and `edit-r2 up`" if started else f"Start it, or unset {variable}"
            raise ServiceError(f"{name} does not answer at {without_login(url)}", remedy)


def running() -> list[Service]:
    """What `up` started and still runs."""
    return [service for service in (Service(**entry) for entry in _record("processes", [])) if service.alive]


def up() -> list[Service]:
    """Start everything that is not running yet, wait until it answers, and register the deployments.

    Raises:
        UserError: a port is taken, or servers elsewhere are configured.
        ServiceError: a server does not come up; its log is named. What ran before goes on.
        Busy: another `up` or `down` is at it.
    """
    with _alone():
        before = {service.name: service for service in running()}
        pools = _pools(settings())
        if before.keys() >= {"prefect", "mlflow", *(f"worker-{pool}" for pool in pools)} and _record("settings", {}):
            return list(before.values())
        started: dict[str, Service] = {}
        try:
            _start_missing(before, started)
        except BaseException:
            _stop(list(started.values()))
            _write(before)
            raise
        return [*before.values(), *started.values()]


def _start_missing(before: Mapping[str, Service], started: dict[str, Service]) -> None:
    """Start what is not among `before`. Each one is written down at once, so that `down` finds it whatever comes."""
    _write(before, answering=False)  # addresses of servers that died must not pass for configured ones
    settings.cache_clear()
    _refuse_foreign(settings())
    chosen = prepare()
    urls = {
        "prefect": f"http://127.0.0.1:{chosen.prefect_port}/api",
        "mlflow": f"http://127.0.0.1:{chosen.mlflow_port}",
    }
    urls |= {name: before[name].url or url for name, url in urls.items() if name in before}

    def start(name: str, command: Sequence[str], reach: dict[str, str] | None = None) -> None:
        started[name] = _start(name, command, chosen, reach, urls.get(name))
        _write({**before, **started}, answering=False)

    for name, command in _servers(chosen).items():
        if name not in before:
            _free(getattr(chosen, f"{name}_port"), name)
            start(name, command)
    present = {**before, **started}
    for name, url in urls.items():
        _await(present[name], f"{url}/health")
    deploy(chosen.model_copy(update={"prefect_api_url": urls["prefect"]}))
    for pool, kind in _pools(chosen).items():
        if f"worker-{pool}" not in before:
            start(f"worker-{pool}", ["flows.cli", "worker", kind], urls)
    _write({**before, **started})


def down() -> list[Service]:
    """Stop what `up` started, workers first. Databases and logs stay. Raises Busy while an `up` is at it."""
    with _alone():
        found = running()
        _stop(found)
        (settings().state / SERVICES).unlink(missing_ok=True)
        return found


def _alone() -> AbstractContextManager[None]:
    return file_lock(settings().folder("locks") / "services.lock", wait=START_SECONDS)


def _servers(chosen: Settings) -> dict[str, list[str]]:
    artifacts = chosen.artifacts or str(chosen.folder("artifacts"))
    store = f"sqlite:///{chosen.state / 'mlflow.db'}"
    mlflow = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(chosen.mlflow_port), "--workers", "1"]
    # Clients reach the artifacts themselves, as they do without a server: the same paths stay valid after `down`.
    mlflow += ["--backend-store-uri", store, "--default-artifact-root", artifacts, "--no-serve-artifacts"]
    return {
        "prefect": ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(chosen.prefect_port)],
        "mlflow": mlflow,
    }


def _environment(urls: dict[str, str] | None) -> dict[str, str]:
    names = {"PREFECT_API_URL": "prefect", "MLFLOW_TRACKING_URI": "mlflow", "MLFLOW_REGISTRY_URI": "mlflow"}
    clean = {key: value for key, value in os.environ.items() if key not in names}
    return clean | {name: urls[of] for name, of in names.items()} if urls else clean


def _start(
    name: str, command: Sequence[str], chosen: Settings, urls: dict[str, str] | None = None, url: str | None = None
) -> Service:
    import psutil

    log = chosen.folder("logs") / f"{name}.log"
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=chosen.root,
            env=_environment(urls),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    return Service(name, process.pid, psutil.Process(process.pid).create_time(), str(log), url)


def _await(service: Service, health: str) -> None:
    until = time.monotonic() + START_SECONDS
    while not answers(health):
        if not service.alive or time.monotonic() > until:
            raise ServiceError(f"{service.name} did not come up at {health}", f"See {service.log}")
        time.sleep(0.25)


def _stop(services: Sequence[Service]) -> None:
    """End the processes and what they started, politely first."""
    import psutil

    family: list[Any] = []
    for service in sorted(services, key=lambda found: not found.name.startswith("worker")):
        if service.alive:
            with suppress(psutil.Error):
                process = psutil.Process(service.pid)
                family += [process, *process.children(recursive=True)]
                process.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs(family, timeout=STOP_SECONDS)
    for process in left:
        with suppress(psutil.Error):
            process.kill()


def _pools(chosen: Settings) -> dict[str, str]:
    """Name of each work pool to the kind of worker that serves it."""
    return dict(sorted({chosen.gpu_pool: "gpu", chosen.cpu_pool: "cpu"}.items()))


def _record(part: str, default: Any) -> Any:
    """A part of what an `up` has written down."""
    try:
        return json.loads((settings().state / SERVICES).read_text())[part]
    except (OSError, ValueError, KeyError):
        return default


def _write(services: Mapping[str, Service], answering: bool = True) -> None:
    """Write down what runs, and where commands reach it once both servers answer."""
    path, addresses = settings().state / SERVICES, {}
    if not services:
        path.unlink(missing_ok=True)
        return
    if answering and services.keys() >= {"prefect", "mlflow"}:
        addresses = {"prefect_api_url": services["prefect"].url, "mlflow_tracking_uri": services["mlflow"].url}
    content = {"settings": addresses, "processes": [asdict(service) for service in services.values()]}
    write_atomically(path, json.dumps(content, indent=1).encode())


def _refuse_foreign(chosen: Settings) -> None:
    foreign = {"PREFECT_API_URL": chosen.prefect_api_url, "MLFLOW_TRACKING_URI": chosen.mlflow_tracking_uri}
    for name, url in foreign.items():
        if url and not url.startswith("sqlite"):
            problem = f"{name} names {without_login(url)}, so there is nothing to start here"
            raise UserError(problem, f"Unset {name} for local servers")


def _free(port: int, name: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            remedy = f"Stop what listens there, or set EDIT_R2_{name.upper()}_PORT"
            raise UserError(f"port {port} for {name} is taken", remedy) from error


def _listens(url: str) -> bool:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=3):
            return True
    except OSError:
        return False
