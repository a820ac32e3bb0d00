"""Files and folders that appear whole or not at all: a reader, or a crash at any moment, sees all of one or nothing.

What is written gets a temporary name, is flushed to the disk, and only then gets its own name.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file; it is on the disk when this returns."""
    with replacing(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` for somebody else to write a file to; at the end it takes the place of `path`.

    The folder is made at need. After an error nothing is left of what was written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def replace_folder(temporary: Path, final: Path) -> None:
    """Give a finished folder its name; whatever bore the name before goes away only afterwards.

    No file system renames both at once: after a kill in between, `standing` finds the older folder.
    """
    for path in [*temporary.rglob("*"), temporary]:
        _flush(path)
    old = _aside(final)
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    temporary.rename(final)
    _flush(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def standing(final: Path) -> Path | None:
    """A folder that `replace_folder` writes, or the older one where a kill has left only that; None without either."""
    return next((path for path in (final, _aside(final)) if path.exists()), None)


def _aside(final: Path) -> Path:
    return final.with_name(f"{final.name}.old")


def _flush(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
