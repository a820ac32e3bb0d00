"""Jobs of a table side by side: each in a process of its own, with its share of the threads.

On few cores two trainings of one thread each do more than one after the other with two threads.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data.errors import UserError
from tasks import progress
from tasks.experiment_runs import Job
from tasks.settings import settings

POLL_SECONDS = 0.5


def side_by_side(planned: Sequence[Job], profile: str, parent_run: str, width: int) -> Iterator[Job]:
    """Make jobs, `width` at a time; a job waits for the one that makes its parent, one that fails stops no other.

    Yields:
        Every job that is done.

    Raises:
        UserError: at the end, when jobs failed; with the last words of the first.
    """
    waiting, failed = list(planned), list[Job]()
    running: dict[Job, subprocess.Popen[bytes]] = {}
    try:
        while waiting or running:
            for job in [job for job, process in running.items() if process.poll() is not None]:
                if running.pop(job).returncode == 0:
                    yield job
                    continue
                progress.say(f"[red]failed[/red] {job.label}, see {_log(job)}")
                failed.append(job)
            for job in [job for job in waiting if depends(job, failed)]:
                waiting.remove(job)
                failed.append(job)
            ready = [job for job in waiting if not depends(job, [*waiting, *running])]
            for job in ready[: width - len(running)]:
                waiting.remove(job)
                running[job] = _start(job, profile, parent_run, width)
                progress.say(f"[dim]started[/dim] {job.label}")
            time.sleep(POLL_SECONDS)
    finally:
        _stop(running.values())
    if failed:
        names = ", ".join(job.label for job in failed)
        problem = f"not made: {names}; {failed[0].label} said: {_last_words(_log(failed[0]))}"
        raise UserError(problem, "Mend it and run the same command again: what is done is kept")


def depends(job: Job, others: Sequence[Job]) -> bool:
    """Whether one of `others` makes the model that a job starts from."""
    parents = [other for other in others if other.variant.name == job.variant.parent]
    return any(other.seed == job.seed or not other.variant.seeded for other in parents)


def _start(job: Job, profile: str, parent_run: str, width: int) -> subprocess.Popen[bytes]:
    words = ["experiment", "run", job.variant.name, "--seed", str(job.seed), "--profile", profile]
    threads = str(max(1, (settings().threads or os.cpu_count() or 1) // width))
    with _log(job).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *words, "--parent-run", parent_run],
            cwd=settings().root,
            env={**os.environ, "EDIT_R2_THREADS": threads, "OMP_NUM_THREADS": threads},
            stdout=log,
            stderr=log,
            start_new_session=True,  # an interrupt comes from here, once, so that it can close its runs
        )


def _stop(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    listed = list(processes)
    for process in listed:
        process.terminate()
    for process in listed:
        process.wait()


def _log(job: Job) -> Path:
    return settings().folder("logs") / f"experiment-{job.label.replace(' ', '-')}.log"


def _last_words(log: Path) -> str:
    said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return said[-1].removeprefix("error: ") if said else "nothing"
