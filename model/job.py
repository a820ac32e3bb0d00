"""One training by the processes of `torchrun`: `torchrun --nproc-per-node 8 -m model.job job.json`.

job.json: `{"stage": "sft" or "rl", "config": {...}, "parent": folder, "sessions": folder, "folder": folder}`, the
arguments of `train_sft` and `train_rl`. The first rank prints every report as a line of JSON. A `UserError` is left in
`<job>.error`, also as JSON, for whoever started the job.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from data.errors import UserError
from data.parameters import section
from model import distributed, runtime
from model.atomic import write_atomically
from model.config import RlConfig, SupervisedConfig
from model.rl import train_rl
from model.sft import train_sft
from model.trainer import Report

STAGES: dict[str, tuple[type, Callable[..., Path]]] = {
    "sft": (SupervisedConfig, train_sft),
    "rl": (RlConfig, train_rl),
}
PATIENCE = 60.0  # seconds for which an earlier job on the same folder may take to end


def run(path: Path) -> None:
    """Take part in the job of a file.

    Raises:
        UserError: what the training raised, or that another job works on the same folder.
    """
    job = json.loads(path.read_text())
    config, train = STAGES[job["stage"]]
    runtime.prepare()
    torch.set_num_threads(max(1, torch.get_num_threads() // distributed.world()))
    with _claimed(Path(job["folder"])) as folder:
        train(section(job, "config", config, str(path)), Path(job["parent"]), Path(job["sessions"]), folder, _report())


@contextmanager
def _claimed(folder: Path) -> Iterator[Path]:
    """The folder, while no other job works on it."""
    lock = FileLock(f"{folder}.lock")
    if distributed.rank() == 0:
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout as error:
            raise UserError(f"Another job works on {folder}", "Wait for it, or end its processes") from error
    distributed.barrier("the start")
    try:
        yield folder
    finally:
        lock.release()


def _report() -> Report:
    def tell(step: int, metrics: dict[str, float]) -> None:
        sys.stdout.write(json.dumps({"step": step, "metrics": metrics}) + "\n")
        sys.stdout.flush()  # raises when nobody listens any more: an orphan ends

    def stay_silent(_step: int, _metrics: dict[str, float]) -> None:
        pass

    return tell if distributed.rank() == 0 else stay_silent


def main(arguments: list[str]) -> int:
    """Command line. Exit codes: those of `UserError`."""
    path = Path(arguments[0])
    with distributed.processes():
        try:
            run(path)
        except UserError as error:
            _leave(error, path)
            return error.exit_code
    return 0


def _leave(error: UserError, path: Path) -> None:
    told: dict[str, Any] = {"problem": error.problem, "remedy": error.remedy, "exit_code": error.exit_code}
    write_atomically(path.with_suffix(".error"), json.dumps(told).encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
