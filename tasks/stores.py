"""Datasets as they lie in the checkout, in DVC's cache and in its remote, each recomputed from its bytes.

DVC names a file by its md5 and a folder by the md5 of a listing of its files, with `.dir` appended; both lie under
`files/md5/<first two>/<rest>`. Sums are computed here, because DVC's state database would answer from memory. A remote
on S3 is read when this machine holds no copy; its bytes pass through and are not kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import yaml

from data.errors import UserError
from tasks.canonical import sha256
from tasks.storage import Storage
from tasks.storage_errors import NotStored

Remote = Path | Storage | None  # DVC's remote: a folder, an S3 prefix, or one that cannot be read from here
CHUNK = 2**20  # bytes


@dataclass(frozen=True)
class Finding:
    """One place where a dataset should lie: whether its bytes have their digest, and if not, what differs."""

    place: str
    holds: bool
    detail: str


def md5(path: Path) -> str:
    """MD5 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def listing(folder: Path) -> bytes:
    """DVC's listing of a folder: JSON of md5 and relative path of every file, sorted by path."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return json.dumps([{"md5": md5(folder / name), "relpath": name} for name in names], sort_keys=True).encode()


def folder_digest(folder: Path) -> str:
    """DVC's hash of a folder."""
    return hashlib.md5(listing(folder), usedforsecurity=False).hexdigest() + ".dir"


def locked_paths(dvc_lock: bytes) -> dict[str, str]:
    """Path to DVC hash of every output that a dvc.lock names. Raises UserError where it is none, as amid a merge."""
    try:
        stages = (yaml.safe_load(dvc_lock) or {}).get("stages", {})
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        remedy = "Finish the merge, or restore it: git checkout -- dvc.lock"
        raise UserError("dvc.lock is not as DVC writes it", remedy) from error


class Store(Protocol):
    """DVC's objects in one place."""

    @property
    def name(self) -> str:
        """What the place is called in a finding."""

    def chunks(self, digest: str) -> Iterator[bytes]:
        """The bytes of an object. Raises LookupError when there is none."""


def _key(digest: str) -> str:
    return f"files/md5/{digest[:2]}/{digest[2:]}"


@dataclass(frozen=True)
class FolderStore:
    """Objects in a folder: DVC's cache, or a remote on this disk."""

    folder: Path

    @property
    def name(self) -> str:
        """See `Store`."""
        return self.folder.name

    def chunks(self, digest: str) -> Iterator[bytes]:
        """See `Store`."""
        try:
            with (self.folder / _key(digest)).open("rb") as file:
                while part := file.read(CHUNK):
                    yield part
        except FileNotFoundError as error:
            raise LookupError(digest) from error


@dataclass(frozen=True)
class BucketStore:
    """Objects in an S3-compatible remote."""

    storage: Storage

    @property
    def name(self) -> str:
        """See `Store`."""
        return "the S3 remote"

    def chunks(self, digest: str) -> Iterator[bytes]:
        """See `Store`. Raises UserError when the store does not answer."""
        try:
            yield from self.storage.chunks(_key(digest), CHUNK)
        except NotStored as error:
            raise LookupError(digest) from error


def _listing_in(store: Store, digest: str) -> bytes | None:
    """The listing of a folder, or the bytes of a single file; None where the store has none."""
    try:
        return b"".join(store.chunks(digest))
    except LookupError:
        return None


def _sums(parts: Iterable[bytes]) -> tuple[str, str]:
    """MD5 and SHA-256 of a stream."""
    fast, sure = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    for part in parts:
        fast.update(part)
        sure.update(part)
    return fast.hexdigest(), sure.hexdigest()


def _holding(digest: str, root: Path, remote: Remote) -> list[tuple[Store, bytes]]:
    """Stores on this disk that have a dataset, with its listing; else the S3 remote, where that has it."""
    near: list[Store] = [FolderStore(root / ".dvc" / "cache")]
    near += [FolderStore(remote)] if isinstance(remote, Path) else []
    found = [(store, data) for store in near if (data := _listing_in(store, digest)) is not None]
    if not found and isinstance(remote, Storage):
        far = BucketStore(remote)
        data = _listing_in(far, digest)
        found = [(far, data)] if data is not None else []
    return found


def mentions(digest: str, word: str, root: Path, remote: Remote) -> bool:
    """Whether a dataset, in whatever store holds it, names a session or a picture in its JSON lines."""
    held = _holding(digest, root, remote) if digest.endswith(".dir") else []
    for store, data in held[:1]:
        names = [item["md5"] for item in json.loads(data) if item["relpath"].endswith(".jsonl")]
        texts = (_listing_in(store, name) or b"" for name in names)
        return any(json.dumps(word).encode() in text for text in texts)
    return False


def _check_store(store: Store, data: bytes, digest: str, manifest: str | None) -> Finding:
    """Recompute a dataset in DVC's object layout; md5 is no proof against intent, so its SHA-256 manifest too."""
    place = store.name
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != digest.removesuffix(".dir"):
        return Finding(place, False, f"the listing {digest[:12]} in {place} is altered")
    lines = []
    for item in json.loads(data) if digest.endswith(".dir") else []:
        try:
            found, sure = _sums(store.chunks(item["md5"]))
        except LookupError:
            return Finding(place, False, f"{item['relpath']} is missing in {place}")
        if found != item["md5"]:
            return Finding(place, False, f"{item['relpath']} is altered in {place}")
        lines.append(f"{sure}  {item['relpath']}")
    if manifest and sha256("\n".join(sorted(lines)).encode()) != manifest:
        return Finding(place, False, f"a file in {place} has the right md5 and another SHA-256")
    return Finding(place, True, place)


def _check_folder(folder: Path, digest: str, reference: bytes | None) -> Finding:
    """Recompute a dataset in the checkout; `reference` is its true listing, to name the file that differs."""
    if folder_digest(folder) == digest:
        return Finding("checkout", True, "checkout")
    now = {item["relpath"]: item["md5"] for item in json.loads(listing(folder))}
    true = {item["relpath"]: item["md5"] for item in json.loads(reference)} if reference else {}
    changed = sorted(name for name in now.keys() | true.keys() if now.get(name) != true.get(name))
    return Finding("checkout", False, f"{changed[0] if true else 'a file'} differs in the checkout")


def check_dataset(name: str, digest: str, root: Path, remote: Remote, manifest: str | None = None) -> Iterator[Finding]:
    """Every place on this disk that holds this state of a dataset, checked; the S3 remote where none does.

    Args:
        name: such as `sessions/tiny`; the checkout has it under `data/`.
        digest: DVC's hash.
        root: the checkout.
        remote: DVC's remote.
        manifest: SHA-256 over the sorted lines `<sha256>  <path>`, where it is known.

    Raises:
        UserError: the S3 remote is needed and does not answer, or dvc.lock cannot be read.
    """
    lock, folder = root / "dvc.lock", root / "data" / name
    checked_out = lock.is_file() and folder.is_dir() and locked_paths(lock.read_bytes()).get(f"data/{name}") == digest
    held = _holding(digest, root, None if checked_out and isinstance(remote, Storage) else remote)
    yield from (_check_store(store, data, digest, manifest) for store, data in held)
    if checked_out:
        yield _check_folder(folder, digest, held[0][1] if held else None)
