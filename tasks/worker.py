"""`edit-r2 worker`: this machine serves a work pool of the configured Prefect server."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from data.errors import UserError
from tasks.locks import place
from tasks.services import require_reachable
from tasks.settings import CONSOLE_LEVEL, prepare


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
