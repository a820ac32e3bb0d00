"""`edit-r2 up` and `down`: a Prefect server, an MLflow server and a worker per pool, on loopback.

They serve the same databases as the embedded default, so what was run before is there. What was started is written to
`home`/services.json; settings finds the addresses there.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from data.errors import UserError
from model.atomic import write_atomically
from tasks.failures import ServiceError
from tasks.locks import place
from tasks.prefect_server import answers
from tasks.settings import CONSOLE_LEVEL, SERVICES, Dispatch, Settings, prepare, settings

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
            raise ServiceError(f"{name} does not answer at {url}", remedy)


def running() -> list[Service]:
    """What `up` started and still runs."""
    try:
        listed = json.loads((settings().state / SERVICES).read_text())["processes"]
    except (OSError, ValueError, KeyError):
        return []
    return [service for service in (Service(**entry) for entry in listed) if service.alive]


def up() -> list[Service]:
    """Start everything that is not running yet, wait until it answers, and register the deployments.

    Raises:
        UserError: a port is taken, or servers elsewhere are configured.
        ServiceError: a server does not come up; its log is named.
    """
    present = {service.name: service for service in running()}
    if not present:  # addresses of servers that died must not pass for configured ones
        (settings().state / SERVICES).unlink(missing_ok=True)
        settings.cache_clear()
        _refuse_foreign(settings())
    chosen = prepare()
    pools = sorted({chosen.cpu_pool, chosen.gpu_pool})
    if present.keys() >= {"prefect", "mlflow", *(f"worker-{pool}" for pool in pools)}:
        return list(present.values())
    urls = {
        "prefect": f"http://127.0.0.1:{chosen.prefect_port}/api",
        "mlflow": f"http://127.0.0.1:{chosen.mlflow_port}",
    }
    try:
        for name, command in _servers(chosen).items():
            if name not in present:
                _free(getattr(chosen, f"{name}_port"), name)
                present[name] = _start(name, command, chosen, url=urls[name])
        for name, url in urls.items():
            _await(present[name], f"{url}/health")
        _deploy(chosen, urls)
        for pool in pools:
            if f"worker-{pool}" not in present:
                command = ["flows.cli", "worker", "gpu" if pool == chosen.gpu_pool else "cpu"]
                present[f"worker-{pool}"] = _start(f"worker-{pool}", command, chosen, urls)
    except BaseException:
        _stop(list(present.values()))
        raise
    _write(chosen, list(present.values()), urls)
    return list(present.values())


def down() -> list[Service]:
    """Stop what `up` started, workers first. Databases and logs stay."""
    found = running()
    _stop(found)
    (settings().state / SERVICES).unlink(missing_ok=True)
    return found


def become_worker(gpu: bool, limit: int | None) -> NoReturn:
    """Turn this process into a worker of the configured Prefect server: what it runs inherits the settings.

    Args:
        gpu: serve the pool for trainings and evaluations; else that for everything else.
        limit: flow runs at a time; None: any number.

    Raises:
        ServiceError: a configured server does not answer.
        UserError: no Prefect server is configured.
    """
    # Commands keep Prefect's logs from their terminal; a worker says no more.
    os.environ.setdefault(CONSOLE_LEVEL, "INFO")
    chosen = prepare()
    if chosen.prefect_api_url is None:
        raise UserError(
            "A worker needs a Prefect server", "Set PREFECT_API_URL, or run `edit-r2 up`, which starts both"
        )
    require_reachable(chosen)
    pool = chosen.gpu_pool if gpu else chosen.cpu_pool
    name = f"{place(chosen.state).replace('/', '-')}-{pool}"  # tells this machine's flow runs from those of others
    _close_what_died(name)
    command = ["prefect", "worker", "start", "--pool", pool, "--type", "process", "--name", name]
    command += [] if limit is None else ["--limit", str(limit)]
    os.chdir(chosen.root)
    os.execv(sys.executable, [sys.executable, "-m", *command])


def _close_what_died(worker: str) -> None:
    """Close what a power cut or `kill -9` left open here, before anybody waits for it: no other machine can tell."""
    from tasks import retraining, tracking
    from tasks.doctor_services import close_dead_flow_runs

    for profile in tracking.begun_profiles():
        retraining.close_dead(profile)
    close_dead_flow_runs(worker)


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


def _deploy(chosen: Settings, urls: dict[str, str]) -> None:
    """Create the pools and register every deployment of prefect.yaml."""
    pools = sorted({chosen.cpu_pool, chosen.gpu_pool})
    commands = [["work-pool", "create", pool, "--type", "process", "--overwrite"] for pool in pools]
    log = chosen.folder("logs") / "deploy.log"
    for command in [*commands, ["--no-prompt", "deploy", "--all"]]:
        line = [sys.executable, "-m", "prefect", *command]
        with log.open("ab") as file:
            done = subprocess.run(line, cwd=chosen.root, env=_environment(urls), stdout=file, stderr=file, check=False)
        if done.returncode:
            raise ServiceError(f"`prefect {' '.join(command[:2])}` failed", f"See {log}")


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


def _write(chosen: Settings, services: Sequence[Service], urls: dict[str, str]) -> None:
    addresses = {"prefect_api_url": urls["prefect"], "mlflow_tracking_uri": urls["mlflow"]}
    content = {"settings": addresses, "processes": [asdict(service) for service in services]}
    write_atomically(chosen.state / SERVICES, json.dumps(content, indent=1).encode())


def _refuse_foreign(chosen: Settings) -> None:
    foreign = {"PREFECT_API_URL": chosen.prefect_api_url, "MLFLOW_TRACKING_URI": chosen.mlflow_tracking_uri}
    for name, url in foreign.items():
        if url and not url.startswith("sqlite"):
            raise UserError(f"{name} names {url}, so there is nothing to start here", f"Unset {name} for local servers")


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
