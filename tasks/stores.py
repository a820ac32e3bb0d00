"""Datasets as they lie in the checkout, in DVC's cache and in a folder remote, each recomputed from its bytes.

DVC names a file by its md5 and a folder by the md5 of a listing of its files, with `.dir` appended; both lie under
`files/md5/<first two>/<rest>`. Sums are computed here, because DVC's state database would answer from memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from tasks.signing import sha256


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
    """Path to DVC hash of every output that a dvc.lock names."""
    stages = (yaml.safe_load(dvc_lock) or {}).get("stages", {})
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


def _object(store: Path, digest: str) -> Path:
    return store / "files" / "md5" / digest[:2] / digest[2:]


def mentions(digest: str, word: str, root: Path, remote: Path | None) -> bool:
    """Whether a dataset, in whatever store holds it, names a session or a picture in its JSON lines."""
    stores = [root / ".dvc" / "cache", *([remote] if remote else [])]
    store = next((found for found in stores if _object(found, digest).is_file()), None)
    if store is None or not digest.endswith(".dir"):
        return False
    items = json.loads(_object(store, digest).read_bytes())
    lines = [_object(store, item["md5"]) for item in items if item["relpath"].endswith(".jsonl")]
    return any(json.dumps(word).encode() in path.read_bytes() for path in lines if path.is_file())


def _check_store(store: Path, digest: str, manifest: str | None) -> Finding:
    """Recompute a dataset in DVC's object layout; md5 is no proof against intent, so its SHA-256 manifest too."""
    place, head = store.name, _object(store, digest)
    data = head.read_bytes()
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != digest.removesuffix(".dir"):
        return Finding(place, False, f"the listing {digest[:12]} in {place} is altered")
    lines = []
    for item in json.loads(data) if digest.endswith(".dir") else []:
        path = _object(store, item["md5"])
        if not path.is_file():
            return Finding(place, False, f"{item['relpath']} is missing in {place}")
        if md5(path) != item["md5"]:
            return Finding(place, False, f"{item['relpath']} is altered in {place}")
        lines.append(f"{sha256(path.read_bytes())}  {item['relpath']}")
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


def check_dataset(
    name: str, digest: str, root: Path, remote: Path | None, manifest: str | None = None
) -> Iterator[Finding]:
    """Every place that holds this state of a dataset, checked.

    Args:
        name: such as `sessions/tiny`; the checkout has it under `data/`.
        digest: DVC's hash.
        root: the checkout.
        remote: the folder remote, None when DVC pushes elsewhere.
        manifest: SHA-256 over the sorted lines `<sha256>  <path>`, where it is known.
    """
    stores = [root / ".dvc" / "cache", *([remote] if remote else [])]
    holding = [store for store in stores if _object(store, digest).is_file()]
    yield from (_check_store(store, digest, manifest) for store in holding)
    lock, folder = root / "dvc.lock", root / "data" / name
    if lock.is_file() and folder.is_dir() and locked_paths(lock.read_bytes()).get(f"data/{name}") == digest:
        reference = _object(holding[0], digest).read_bytes() if holding else None
        yield _check_folder(folder, digest, reference)
