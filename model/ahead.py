"""Steps prepared ahead: worker processes lay out what a GPU would otherwise wait for."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")
QUEUED = 4  # steps that a worker may be ahead
PR_SET_PDEATHSIG = 1  # prctl(2): the signal that a process gets when its parent dies


class _Steps(Dataset[Any]):
    def __init__(self, prepare: Callable[[int], Any]) -> None:
        self.prepare = prepare

    def __getitem__(self, step: int) -> Any:
        return self.prepare(step)


def workers(device: str) -> int:
    """As many as leave a core for the process that feeds a GPU; none where the training itself needs the cores."""
    return 0 if device == "cpu" else max(0, len(os.sched_getaffinity(0)) - 1)


def ahead(prepare: Callable[[int], T], first: int, steps: int, count: int) -> Iterator[T]:
    """`prepare(step)` for the steps from `first` to `steps` - 1, in order, worked on by `count` processes (0: by this
    one, when asked)."""
    options: dict[str, Any] = {"sampler": range(first, steps), "num_workers": count, "collate_fn": _as_it_is}
    if count:
        # New processes, not forked ones: a copy of a process with threads may inherit a lock that nobody will release.
        options |= {"prefetch_factor": QUEUED, "multiprocessing_context": "spawn", "worker_init_fn": _apart}
        # The thread that pins memory also receives what the processes send, beside the training.
        options["pin_memory"] = torch.cuda.is_available()
    return iter(DataLoader(_Steps(prepare), None, **options))


def _apart(_worker: int) -> None:
    """Leave the process group: a signal to all of it (`timeout`, Ctrl-C) would end a worker before the training, which
    needs it for one more step, has saved. Deaf workers would not end when the training itself asks them to. And end
    with the training however it ends: a worker that waits for room in its pipe would wait for ever."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _as_it_is(value: T) -> T:
    return value
