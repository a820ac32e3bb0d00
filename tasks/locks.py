"""Locks between the processes of one machine: held for as long as the block, given up by the system when a holder dies.

Nobody waits without end: a process that is stopped, or hangs on a store, would stop all others with it.
"""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tasks.failures import ServiceError

LONGEST = 120.0  # seconds; what is done under these locks takes well under one


class Busy(ServiceError):
    """Another process holds a lock. Trying again later may help."""


@contextmanager
def file_lock(path: Path, wait: float = LONGEST) -> Iterator[None]:
    """Hold the lock on a file, which is created at need.

    Raises:
        Busy: another process has held it for all of `wait` seconds.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=wait)
    except Timeout as error:
        raise Busy(f"another process holds {path.name}", "Let it finish, or stop it, and run again") from error
    try:
        yield
    finally:
        lock.release()


def place(state: Path) -> str:
    """Where a run's locks lie: the machine, for people, and `/` with the id of the state folder, which is what counts.

    Two checkouts on one machine have locks of their own, and a folder that containers share outlives their host names.
    """
    kept = state / "id"
    if not kept.exists():
        state.mkdir(parents=True, exist_ok=True)
        draft = state / f".id-{uuid.uuid4().hex}"
        draft.write_text(uuid.uuid4().hex)
        with suppress(FileExistsError):  # another process was quicker
            os.link(draft, kept)
        draft.unlink()
    return f"{platform.node()}/{kept.read_text().strip()}"


def same_place(told: str, state: Path) -> bool:
    """Whether a run that told this place has its locks in this state folder."""
    return told.rpartition("/")[2] == place(state).rpartition("/")[2]
