"""What tests need of an S3 store and the product does not: buckets, and whole folders put into them."""

from __future__ import annotations

from pathlib import Path

from tasks.storage import Storage


def in_a_bucket(storage: Storage) -> Storage:
    """The same store, its bucket made at need."""
    if storage.bucket not in [found["Name"] for found in storage.client.list_buckets()["Buckets"]]:
        storage.client.create_bucket(Bucket=storage.bucket)
    return storage


def put_folder(storage: Storage, folder: Path, prefix: str = "") -> None:
    """Every file of a folder, under its relative path."""
    for path in folder.rglob("*"):
        if path.is_file():
            storage.put(f"{prefix}/{path.relative_to(folder).as_posix()}".lstrip("/"), path.read_bytes())
