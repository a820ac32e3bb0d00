"""Commands about servers and state: up, down, deploy, worker, status."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer

from flows.options import Debug, Json
from flows.session import answer, hush
from tasks.redaction import without_login
from tasks.settings import prepare, settings


def up(as_json: Json = False, debug: Debug = False) -> None:
    """Start a Prefect server, an MLflow server and a worker per pool on this machine.

    Waits until all answer, prints their addresses, and registers the deployments of prefect.yaml. Later commands use
    these servers by themselves, until `edit-r2 down`. Logs are kept in .edit-r2/logs.
    """
    from tasks import services

    found = services.up()
    if as_json:
        answer({"services": [asdict(service) for service in found]})
        return
    for service in found:
        typer.echo(f"{service.name}: {(service.url or 'running').removesuffix('/api')} (log {service.log})")


def down(as_json: Json = False, debug: Debug = False) -> None:
    """Stop what `edit-r2 up` started. Data, runs and logs stay."""
    from tasks import services

    found = services.down()
    if as_json:
        answer({"stopped": [service.name for service in found]})
    else:
        typer.echo(f"stopped: {', '.join(service.name for service in found) or 'nothing was running'}")


def deploy(as_json: Json = False, debug: Debug = False) -> None:
    """Make the work pools and register the deployments of prefect.yaml on the configured Prefect server.

    Run it once for a server, and again after a change of prefect.yaml or of the settings that it names. A pool that is
    there already stays as it is.
    """
    from tasks import deploying

    found = deploying.deploy(prepare(debug))
    if as_json:
        answer(asdict(found))
    else:
        typer.echo(f"server: {found.server}")
        typer.echo(f"new work pools: {', '.join(found.pools) or 'none'}")
        typer.echo(f"deployments: {', '.join(found.deployments)}")


class Pool(StrEnum):
    """What a stage needs; settings name the pools."""

    CPU = "cpu"
    GPU = "gpu"


def worker(
    pool: Annotated[Pool, typer.Argument(help="Which of the two: EDIT_R2_CPU_POOL or EDIT_R2_GPU_POOL.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Flow runs at a time; default: any number.")] = None,
) -> None:
    """Serve a work pool of the Prefect server from this machine, until it is stopped.

    Its flow runs get the settings of this machine (.env.example): telemetry, storage, threads.
    """
    from tasks.worker import become_worker

    become_worker(pool is Pool.GPU, limit)


def status(as_json: Json = False, debug: Debug = False) -> None:
    """Show where state lies, which servers run, and the latest retraining of every profile."""
    prepare(debug)
    hush()
    from tasks import services

    chosen = settings()
    services.require_reachable(chosen)
    found: dict[str, Any] = {
        "home": str(chosen.state),
        "mlflow": without_login(chosen.tracking_uri),
        "prefect": without_login(chosen.prefect_api_url or "in-process"),
        "dvc_remote": without_login(chosen.dvc_remote_url),
        "services": [service.name for service in services.running()],
        "retrainings": _retrainings(),
    }
    if as_json:
        answer(found)
        return
    for name, value in found.items():
        if name == "retrainings":
            for run in value:
                typer.echo(f"{run['profile']}: {run['status'].lower()}, run {run['run_id']}")
                for model, model_id in run["models"].items():
                    typer.echo(f"  {model}: {model_id}")
        else:
            typer.echo(f"{name}: {', '.join(value) or 'none' if isinstance(value, list) else value}")


def _retrainings() -> list[dict[str, Any]]:
    """The newest retraining of every profile that has one."""
    from mlflow_config.settings import RETRAIN
    from tasks import tracking

    found = []
    for profile in tracking.begun_profiles():
        runs = tracking.find(profile, RETRAIN)
        for run in sorted(runs, key=lambda run: -run.info.start_time)[:1]:
            models = tracking.result(run).get("models", {})
            found.append({"profile": profile, "run_id": run.info.run_id, "status": run.info.status, "models": models})
    return found
