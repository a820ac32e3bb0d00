"""A Prefect server that lives as long as the command that needs it: the embedded default.

Prefect's own temporary server starts when the first flow runs, and its client loads the whole server package to do so.
This one starts before anything heavy is imported, so that both load at once, and it ends with its parent even when that
is killed. Its database is the one that `edit-r2 up` serves, so no history is lost.

Run as `python -m tasks.prefect_server PORT PARENT_PID`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tasks.failures import ServiceError
from tasks.settings import EMBEDDED, settings

START_SECONDS = 120.0
STOP_SECONDS = 3.0
DRAIN_SECONDS = 3.0


@contextmanager
def prefect_session() -> Iterator[Callable[[], None]]:
    """Offer Prefect's API for the length of a command.

    Yields:
        A function that returns once the API answers; call it after the heavy imports. With PREFECT_API_URL set no
        server is started.
    """
    if os.environ.get("PREFECT_API_URL"):
        yield lambda: None
        return
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    log = settings().folder("logs") / "prefect-embedded.log"
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks.prefect_server", str(port), str(os.getpid())],
            cwd=settings().root,
            env={**os.environ, "PREFECT_UI_ENABLED": "false"},
            stdout=file,
            stderr=file,
            start_new_session=True,  # an interrupt of the command must not take the server first
        )
    os.environ["PREFECT_API_URL"] = os.environ[EMBEDDED] = url
    try:
        yield lambda: _wait(url, process, str(log))
    finally:
        _drain()
        for name in ("PREFECT_API_URL", EMBEDDED):
            os.environ.pop(name, None)
        _stop(process)


def answers(url: str, timeout: float = 3.0) -> bool:
    """Whether a GET of the URL succeeds."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:  # loopback, or an address of the settings
            return 200 <= answer.status < 400
    except (OSError, ValueError):
        return False


def _drain() -> None:
    """Let Prefect's background workers deliver their logs and events while the server still listens."""
    if "prefect" not in sys.modules:
        return
    from prefect._internal.concurrency.services import QueueService
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    workers: tuple[type[QueueService[Any]], ...] = (APILogWorker, EventsWorker)
    for worker in workers:
        with suppress(Exception):
            worker.drain_all(timeout=DRAIN_SECONDS, at_exit=True)


def _wait(url: str, process: subprocess.Popen[bytes], log: str) -> None:
    until = time.monotonic() + START_SECONDS
    while not answers(f"{url}/health"):
        if process.poll() is not None or time.monotonic() > until:
            raise ServiceError("the embedded Prefect server did not start", f"See {log}")
        time.sleep(0.1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(0)


def main(port: int, parent: int) -> None:
    """Serve until told to stop, or until the parent is gone."""
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    import uvicorn

    uvicorn.run("prefect.server.api.server:create_app", factory=True, host="127.0.0.1", port=port, log_level="error")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
