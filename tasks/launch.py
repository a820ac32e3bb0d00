"""Training by several processes: `torchrun` in a process of its own, its reports and its errors brought home."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from data.errors import UserError

Report = Callable[[int, dict[str, float]], None]
GRACE = 300  # seconds that the processes have to save their state when they are asked to stop


def train(
    stage: Literal["sft", "rl"],
    config: Any,
    parent: Path,
    sessions: Path,
    folder: Path,
    report: Report,
    processes: int,
) -> Path:
    """Do what `model.sft.train_sft` or `model.rl.train_rl` does, on so many processes of this machine.

    Args:
        config: the stage's parameters; the other arguments are those of the trainer.

    Raises:
        UserError: what a process raised, or that one of them died.
    """
    if folder.exists():
        return folder
    job = folder.with_name(f"{folder.name}.job.json")
    job.parent.mkdir(parents=True, exist_ok=True)
    job.with_suffix(".error").unlink(missing_ok=True)
    places = {"parent": parent, "sessions": sessions, "folder": folder}
    job.write_text(json.dumps({"stage": stage, "config": asdict(config), **{k: str(v) for k, v in places.items()}}))
    log = job.with_suffix(".log")
    if code := _run(_command(job, processes), log, report):
        raise _error(job, log, code)
    return folder


def _command(job: Path, processes: int) -> list[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*torchrun, f"--shutdown-timeout={GRACE}", "-m", "model.job", str(job)]


def _run(command: list[str], log: Path, report: Report) -> int:
    """Run to the end and pass the reports on; the exit code."""
    with (
        log.open("wb") as told,
        # A session of its own: Ctrl-C reaches the processes as the request to stop that `_ended` makes.
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told, text=True, start_new_session=True) as running,
        _ended(running),
    ):
        assert running.stdout is not None
        for line in running.stdout:
            if found := _reported(line):
                report(found["step"], found["metrics"])
    return running.returncode


@contextmanager
def _ended(running: subprocess.Popen[str]) -> Iterator[None]:
    """Hand a SIGTERM on, and leave no process behind."""

    def stop(*_: object) -> None:
        running.terminate()

    main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, stop) if main else None
    try:
        yield
    except BaseException:
        running.terminate()
        raise
    finally:
        running.wait()
        if main:
            signal.signal(signal.SIGTERM, previous)


def _reported(line: str) -> Mapping[str, Any] | None:
    """A report, or None for a line that a library has printed."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.keys() == {"step", "metrics"} else None


def _error(job: Path, log: Path, code: int) -> UserError:
    """What a process has left, or which of them died."""
    left = job.with_suffix(".error")
    if left.exists():
        told = json.loads(left.read_text())
        error = UserError(told["problem"], told["remedy"])
        error.exit_code = told["exit_code"]
        return error
    found = _died(log.read_text(errors="replace"))
    died = f"process {found[0]} of the training died (exit code {found[1]})" if found else f"torchrun ended with {code}"
    return UserError(f"{died}, so the others were stopped", f"See {log}; run again to go on from the last checkpoint")


def _died(log: str) -> tuple[int, int] | None:
    """Rank and exit code of the process that ended the job.

    torchrun's root cause is the first by whole seconds, and a process that has lost another one fails within the same:
    so one that was killed, by anybody but torchrun itself, comes before it.
    """
    told = re.findall(r"\brank\s*: (\d+) .*?exitcode\s*: (-?\d+)", log, re.DOTALL)
    found = [(int(rank), int(code)) for rank, code in reversed(told)]  # the root cause is told last
    killed = [one for one in found if one[1] < 0 and one[1] != -signal.SIGTERM]
    return next(iter(killed or found), None)
