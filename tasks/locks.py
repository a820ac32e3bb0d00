"""Locks between the processes of one machine: held for as long as the block, given up by the system when a holder dies.

Nobody waits without end: a process that is stopped, or hangs on a store, would stop all others with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
