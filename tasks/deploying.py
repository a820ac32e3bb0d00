"""Registering of the flows on a Prefect server: the two work pools, where they are missing, and every deployment.

prefect.yaml names pools and schedules by variables. They are set here to what the settings say: a `prefect deploy`
that is called by hand would leave them as they are written, and ask questions.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

import yaml

from data.errors import UserError
from tasks.doctor_services import prefect_api
from tasks.failures import ServiceError
from tasks.redaction import without_login
from tasks.settings import Settings


@dataclass(frozen=True)
class Deployed:
    """What a Prefect server has been told."""

    server: str
    pools: tuple[str, ...]
    """Those that were missing, and were made."""
    deployments: tuple[str, ...]


def deploy(chosen: Settings) -> Deployed:
    """Make the work pools that are missing and register every deployment of prefect.yaml; a pool that is there stays.

    Raises:
        UserError: no Prefect server is configured.
        ServiceError: it does not answer, or refuses; the log is named.
    """
    if chosen.prefect_api_url is None:
        raise UserError("no Prefect server is configured to deploy to", "Set PREFECT_API_URL, or run `edit-r2 up`")
    missing = _missing(chosen, chosen.prefect_api_url)
    for pool in missing:
        _prefect(chosen, "work-pool", "create", pool, "--type", "process")
    _prefect(chosen, "deploy", "--all")
    found = yaml.safe_load((chosen.root / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    names = tuple(str(entry["name"]) for entry in found)
    return Deployed(without_login(chosen.prefect_api_url), missing, names)


def _missing(chosen: Settings, url: str) -> tuple[str, ...]:
    import httpx

    missing = []
    try:
        with prefect_api(chosen, url) as client:
            for pool in sorted({chosen.cpu_pool, chosen.gpu_pool}):
                answer = client.get(f"/work_pools/{pool}")
                if answer.status_code == httpx.codes.NOT_FOUND:
                    missing.append(pool)
                else:
                    answer.raise_for_status()
    except httpx.HTTPError as error:
        remedy = "Start it, or correct PREFECT_API_URL and PREFECT_API_AUTH_STRING"
        problem = f"Prefect at {without_login(url)} gives no sensible answer ({type(error).__name__})"
        raise ServiceError(problem, remedy) from error
    return tuple(missing)


def _prefect(chosen: Settings, *words: str) -> None:
    log = chosen.folder("logs") / "deploy.log"
    line = [sys.executable, "-m", "prefect", "--no-prompt", *words]
    named = {  # by prefect.yaml, and the server
        "EDIT_R2_CPU_POOL": chosen.cpu_pool,
        "EDIT_R2_GPU_POOL": chosen.gpu_pool,
        "EDIT_R2_DOCTOR_CRON": chosen.doctor_cron,
        "PREFECT_API_URL": str(chosen.prefect_api_url),
    }
    with log.open("ab") as file:
        done = subprocess.run(line, cwd=chosen.root, env={**os.environ, **named}, stdout=file, stderr=file, check=False)
    if done.returncode:
        raise ServiceError(f"`prefect {' '.join(words[:2])}` failed", f"See {log}")
