"""Runs in MLflow: found by fingerprint or created, reused, resumed, and always closed with the truth.

A stage is run inside `stage(spec)`. A FINISHED run with the same fingerprint whose results still verify is reused,
unless uncommitted code made it and this checkout is clean; a run that failed, was killed or died is opened again under
its old id, so that a retry leaves no second run behind.
Errors close a run as FAILED, interrupts as KILLED. A lock per fingerprint keeps two processes of one machine from doing
the same work: the second waits and then reuses. A run that another machine has under way is never taken from it.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from contextvars import ContextVar
from enum import Enum, auto
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from data.parameters import profile_names
from mlflow_config.settings import EXPERIMENT, RETRAIN, Stage, Tag, experiment, stage_tag
from tasks import identity
from tasks.canonical import is_digest
from tasks.locks import Busy, file_lock, place, same_place
from tasks.recording import ActiveRun, Spec, client, result
from tasks.redaction import redact
from tasks.settings import settings

if TYPE_CHECKING:
    from pathlib import Path

    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = [
    "ActiveRun",
    "NotFinished",
    "Spec",
    "begun_profiles",
    "client",
    "experiment_id",
    "find",
    "found_dead",
    "lock_of",
    "made_here",
    "only_reuse",
    "result",
    "stage",
    "sweep",
]


STAGES = (*Stage, RETRAIN, EXPERIMENT)  # whose runs are made here


@lru_cache
def experiment_id(profile: str) -> str:
    """The experiment of a profile, created at first use."""
    from mlflow.exceptions import MlflowException

    name = experiment(profile)
    found = client().get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    root = settings().artifacts
    try:
        return str(client().create_experiment(name, artifact_location=f"{root}/{profile}" if root else None))
    except MlflowException:
        found = client().get_experiment_by_name(name)  # another process was quicker
        if found is None:
            raise
        return str(found.experiment_id)


def begun_profiles() -> list[str]:
    """The profiles of params.yaml that MLflow holds runs of."""
    named = profile_names(settings().root / "params.yaml")
    return [name for name in named if client().get_experiment_by_name(experiment(name)) is not None]


def find(profile: str, stage_name: str, fingerprint: str | None = None) -> list[Run]:
    """Runs of a stage: the finished ones first, then the newest."""
    wanted = [f"tags.`{Tag.STAGE}` = '{stage_name}'"]
    if fingerprint:
        wanted.append(f"tags.`{Tag.FINGERPRINT}` = '{fingerprint}'")
    runs = client().search_runs(
        [experiment_id(profile)], " and ".join(wanted), order_by=["attributes.start_time DESC"], max_results=100
    )
    return sorted(runs, key=lambda run: run.info.status != "FINISHED")


class NotFinished(UserError):
    """A stage was to be reused only, and there is no finished run of it."""


class Reuse(Enum):
    """What a stage may do where a finished run of it is wanted."""

    OR_MAKE = auto()
    ONLY = auto()
    ONLY_WHOEVER_MADE_IT = auto()  # with uncommitted code, too, as on a worker whose checkout is not clean


_reuse: ContextVar[Reuse] = ContextVar("reuse", default=Reuse.OR_MAKE)


@contextmanager
def only_reuse(whoever_made_it: bool = False) -> Iterator[None]:
    """Within this block a stage is reused or raises `NotFinished`; nothing is built or trained.

    Args:
        whoever_made_it: also what uncommitted code made. To make it once more would come to the same, and the gates
            say what is wrong with it.
    """
    token = _reuse.set(Reuse.ONLY_WHOEVER_MADE_IT if whoever_made_it else Reuse.ONLY)
    try:
        yield
    finally:
        _reuse.reset(token)


@contextmanager
def stage(spec: Spec, verify: Callable[[dict[str, Any]], bool] = bool) -> Iterator[ActiveRun]:
    """Run a stage, or reuse what it did.

    Args:
        spec: identity of the run.
        verify: whether the result of a finished run still holds; where it does not, the stage runs again, in a run of
            its own: statements are signed about what the finished one says. It raises where it cannot tell.

    Yields:
        The run. When `reused` is true the caller has nothing left to do.
    """
    with _lock(spec, settings().folder("runs"), settings().stage_timeout):
        runs = find(spec.profile, spec.stage, spec.fingerprint)
        finished = next((run for run in runs if _vouched(run) and result(run) and verify(result(run))), None)
        if finished is None and _reuse.get() is not Reuse.OR_MAKE:
            raise NotFinished(f"{spec.name} has no finished run {spec.fingerprint[:12]}", "Run the stage")
        broken_off = [run for run in runs if run.info.status != "FINISHED" and not _under_way_elsewhere(run)]
        found = finished or _open(spec, broken_off)
        run = ActiveRun(spec, found, reused=finished is not None, reopened=bool(broken_off))
        if spec.parent_run:
            client().set_tag(spec.parent_run, stage_tag(spec.name.replace(" ", ".")), run.run_id)
        with _closing(run):
            yield run


def _vouched(run: Run) -> bool:
    """Whether a run may be reused here: what uncommitted code made is signed as such for good, and the gates refuse it,
    so a checkout that is clean makes it again."""
    anyones = _reuse.get() is Reuse.ONLY_WHOEVER_MADE_IT
    return anyones or run.data.tags.get(Tag.DIRTY) != "true" or identity.git().dirty


def _under_way_elsewhere(run: Run) -> bool:
    """Whether a run is RUNNING where this lock says nothing about it: another machine may be at it."""
    return run.info.status == "RUNNING" and not same_place(run.data.tags.get(Tag.HOST, ""), settings().state)


def _lock(spec: Spec, runs: Path, wait: float) -> AbstractContextManager[None]:
    return file_lock(runs / f"{spec.key}.lock", wait)


def _open(spec: Spec, earlier: Sequence[Run]) -> Run:
    """Reopen the newest of the runs that never finished, or create one."""
    tags = {str(key): value for key, value in _tags(spec).items()}
    if earlier:
        from mlflow.entities import RunTag

        run_id = earlier[0].info.run_id
        client().update_run(run_id, status="RUNNING")
        client().log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        for stale in (Tag.FAILURE, Tag.RESULT):
            with suppress(Exception):
                client().delete_tag(run_id, stale)
        return client().get_run(run_id)
    return client().create_run(experiment_id(spec.profile), tags=tags, run_name=spec.name)


def _tags(spec: Spec) -> dict[str, str]:
    git = identity.git()
    tags: dict[str, str | None] = {
        Tag.STAGE: spec.stage,
        Tag.FINGERPRINT: spec.fingerprint,
        Tag.PROFILE: spec.profile,
        Tag.COMMIT: git.commit,
        Tag.DIRTY: str(git.dirty).lower(),
        Tag.HOST: place(settings().state),
        Tag.BEGUN: str(int(time.time())),
        Tag.PARENT_RUN: spec.parent_run,
        "mlflow.source.git.commit": git.commit,
        "mlflow.source.name": "edit-r2",
        **_flow_run(),
        **spec.tags,
    }
    return {key: value for key, value in tags.items() if value is not None}


def _flow_run() -> dict[str, str | None]:
    from prefect.runtime import flow_run

    lasting = flow_run.id and settings().prefect_api_url  # the embedded server is gone with the command
    return {Tag.FLOW_RUN: flow_run.id, Tag.FLOW_URL: flow_run.ui_url if lasting else None}


@contextmanager
def _closing(run: ActiveRun) -> Iterator[None]:
    """Close the run with what happened; the error goes on its way. A reused run is touched by an error only."""
    started = time.monotonic()
    try:
        yield
        if not run.reused:
            _finish(run, time.monotonic() - started)
    except BaseException as error:
        interrupted = not isinstance(error, Exception) or getattr(error, "exit_code", 0) >= 128
        with suppress(Exception):  # the store itself may be what failed; the first error is the one to show
            run.flush()
            run.tag({Tag.FAILURE: redact(" ".join(f"{type(error).__name__}: {error}".split()))})
        with suppress(Exception):
            client().set_terminated(run.run_id, "KILLED" if interrupted else "FAILED")
        raise


def _finish(run: ActiveRun, seconds: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB
    run.report(0, {"system/seconds": seconds, "system/peak_memory_mib": peak})
    run.flush()
    if not run.result:
        raise RuntimeError(f"{run.spec.name} ended without a result")
    client().set_terminated(run.run_id, "FINISHED")


def made_here(run: Run) -> bool:
    """Whether a run is one of this project's, by its tags: those of a foreign run would name the file of a lock."""
    tags = run.data.tags
    return tags.get(Tag.STAGE) in STAGES and is_digest(tags.get(Tag.FINGERPRINT, ""))


def lock_of(run: Run, runs: Path) -> AbstractContextManager[None]:
    """The lock that a process of this machine holds while it is at one of this project's runs; Busy where one does."""
    tags = run.data.tags
    return _lock(Spec(tags[Tag.STAGE], tags.get(Tag.PROFILE, ""), tags[Tag.FINGERPRINT]), runs, wait=0)


@contextmanager
def found_dead(run: Run, store: MlflowClient, runs: Path) -> Iterator[bool]:
    """Whether a run that was listed as running died here: nobody holds its lock, which this block does, and it has not
    ended since."""
    with ExitStack() as held:
        try:
            held.enter_context(lock_of(run, runs))
        except Busy:
            yield False
            return
        yield store.get_run(run.info.run_id).info.status == "RUNNING"


def sweep(profile: str) -> list[Run]:
    """Close runs that died here without a word (kill -9, power): no process holds their lock any more."""
    closed = []
    for run in client().search_runs([experiment_id(profile)], "attributes.status = 'RUNNING'"):
        if _under_way_elsewhere(run) or not made_here(run):
            continue
        with found_dead(run, client(), settings().folder("runs")) as dead:
            if dead:
                client().set_terminated(run.info.run_id, "KILLED")
                closed.append(run)
    return closed
