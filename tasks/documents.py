"""Where the ledger's lines and the documents they refer to are kept: a folder, or an S3-compatible bucket.

Both keep lines that are only ever appended, one winner per position, and documents that are named by their SHA-256.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from data.errors import UserError
from model.atomic import write_atomically
from tasks.canonical import is_digest, sha256
from tasks.locks import file_lock

if TYPE_CHECKING:
    from tasks.storage import Storage


class Shelf(Protocol):
    """What the ledger needs of a store."""

    def lines(self) -> list[bytes]:
        """Every line that was written whole, in order, without line ends."""

    def append(self, index: int, line: bytes) -> bool:
        """Write line number `index` durably; False when that position is taken."""

    def put(self, document: bytes) -> str:
        """Keep a document; its SHA-256."""

    def get(self, digest: str) -> bytes:
        """The bytes kept under a digest, unchecked. Raises Missing when there are none, as under what is no digest."""

    def digests(self) -> list[str]:
        """Names of every document, sorted."""


class Missing(UserError):
    """No document is kept under that digest."""


def _missing(digest: str) -> Missing:
    return Missing(f"document {digest[:12]} is not kept here", "Restore it from a backup or from an exported folder")


@dataclass(frozen=True)
class FolderShelf:
    """`ledger.jsonl` under a lock, and `documents/`. Appends reach the disk before they are acknowledged."""

    folder: Path

    @property
    def file(self) -> Path:
        """The ledger, one line per entry."""
        return self.folder / "ledger.jsonl"

    def lines(self) -> list[bytes]:
        """See `Shelf`. A torn last line, left by a crash, was never acknowledged and does not count."""
        content = self.file.read_bytes() if self.file.exists() else b""
        return content[: whole(content)].splitlines()

    def append(self, index: int, line: bytes) -> bool:
        """See `Shelf`. A torn last line is set aside first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self.folder / "ledger.lock"):
            content = self.file.read_bytes() if self.file.exists() else b""
            end = whole(content)
            if content[:end].count(b"\n") + (end > 0 and content[end - 1 : end] != b"\n") != index:
                return False
            self._mend(content, end)
            # A disk that fills up in the middle raises, and leaves a torn line that the next append sets aside.
            with self.file.open("ab") as file:
                file.write(line + b"\n")
                file.flush()
                os.fsync(file.fileno())
            return True

    def _mend(self, content: bytes, end: int) -> None:
        """Make the file end with a whole line: complete one that lacks only its end, move torn bytes to a file."""
        if content[end:]:
            write_atomically(self.folder / f"torn-{time.time_ns()}", content[end:])
        if content[end:] or (content and content[-1:] != b"\n"):
            write_atomically(self.file, content[:end].removesuffix(b"\n") + b"\n" if end else b"")

    def recover(self) -> bool:
        """Mend a torn last line now; whether there was one."""
        if not self.file.exists():
            return False
        with file_lock(self.folder / "ledger.lock"):
            content = self.file.read_bytes()
            self._mend(content, whole(content))
        return bool(content) and content[-1:] != b"\n"

    def _path(self, digest: str) -> Path:
        return self.folder / "documents" / digest[:2] / digest

    def put(self, document: bytes) -> str:
        """See `Shelf`."""
        digest = sha256(document)
        if not self._path(digest).exists():
            write_atomically(self._path(digest), document)
        return digest

    def get(self, digest: str) -> bytes:
        """See `Shelf`."""
        if not is_digest(digest):
            raise _missing(str(digest))
        try:
            return self._path(digest).read_bytes()
        except FileNotFoundError as error:
            raise _missing(digest) from error

    def digests(self) -> list[str]:
        """See `Shelf`."""
        return sorted(path.name for path in self.folder.glob("documents/??/*") if len(path.name) == 64)


def copy(source: Shelf, target: Shelf) -> tuple[int, int]:
    """Bring a shelf's documents and then its lines to another one, which may hold the first of them already.

    Returns:
        How many lines and documents the other one has to show for it.

    Raises:
        UserError: there is nothing to bring, the other one holds other lines, or a document here is damaged.
    """
    lines, there = source.lines(), target.lines()
    if not lines:
        raise UserError("there is no ledger here to copy", "Set EDIT_R2_HOME to the folder that holds it")
    if there[: len(lines)] != lines[: len(there)]:  # the other one may have grown since it was copied
        raise UserError("there is another ledger already", "Choose a place that is free: EDIT_R2_S3_PREFIX")
    digests = source.digests()
    for digest in digests:
        if target.put(source.get(digest)) != digest:
            raise UserError(f"document {digest[:12]} is damaged", "Restore the ledger's folder from a backup")
    for index, line in enumerate(lines[len(there) :], start=len(there)):
        if not target.append(index, line):
            raise UserError(f"line {index} came from somebody else", "Stop what writes to the bucket, then start over")
    return len(lines), len(digests)


def whole(content: bytes) -> int:
    """Length of the part of a ledger file that holds whole lines; a last line counts once its JSON is complete."""
    end = content.rfind(b"\n") + 1
    try:
        json.loads(content[end:])
    except ValueError:
        return end
    return len(content)


@dataclass(frozen=True)
class BucketShelf:
    """One object per entry and per document. Appends are conditional puts, so a position has one winner."""

    storage: Storage

    def lines(self) -> list[bytes]:
        """See `Shelf`."""
        return [self.storage.get(key) for key in sorted(self.storage.list("entries/"))]

    def append(self, index: int, line: bytes) -> bool:
        """See `Shelf`. Raises UserError at the first entry when the store ignores conditions."""
        if index == 0 and not self.storage.refuses_overwrites():
            problem = "the S3 store overwrites objects that it was told not to overwrite"
            raise UserError(problem, "Keep the ledger in a folder, or use a store with conditional writes")
        if index > 0 and not self.storage.exists(_entry_key(index - 1)):
            return False
        return self.storage.put_new(_entry_key(index), line)

    def put(self, document: bytes) -> str:
        """See `Shelf`."""
        digest = sha256(document)
        self.storage.put_new(f"documents/{digest}", document)
        return digest

    def get(self, digest: str) -> bytes:
        """See `Shelf`."""
        from tasks.storage_errors import NotStored

        if not is_digest(digest):
            raise _missing(str(digest))
        try:
            return self.storage.get(f"documents/{digest}")
        except NotStored as error:
            raise _missing(digest) from error

    def digests(self) -> list[str]:
        """See `Shelf`."""
        return sorted(key.removeprefix("documents/") for key in self.storage.list("documents/"))


def _entry_key(index: int) -> str:
    return f"entries/{index:012d}.json"
