"""One S3-compatible store: bytes in, files and folders out, and a put that never overwrites.

Works with any store that speaks S3 (SeaweedFS, Ceph, Garage, AWS): path-style addresses, standard retries and checksums
only where the store requires them, because several stores refuse the SDK's default CRC headers. Credentials come from
the SDK's usual places (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, a profile); none is read or kept here.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from data.errors import UserError
from model.atomic import replacing
from tasks.storage_errors import CONFLICT, NotStored, code_of, told


@dataclass(frozen=True)
class Storage:
    """A bucket and a prefix in it, e.g. `Storage.at("s3://edit-r2/runs", endpoint="http://127.0.0.1:8333")`."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str = "us-east-1"
    connect_timeout: float = 5.0
    """Seconds."""
    attempts: int = 4
    """Per request, the first one included; a store that does not answer is given up after about eight seconds."""

    @classmethod
    def at(cls, url: str, endpoint: str | None = None, **options: Any) -> "Storage":
        """Read an `s3://bucket/prefix` address.

        Raises:
            UserError: it is another kind of address, or the endpoint is no http(s) address.
        """
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc:
            raise UserError(f"{url!r} is no S3 address", "Write it as s3://bucket/prefix")
        if endpoint is not None and urlsplit(endpoint).scheme not in ("http", "https"):
            raise UserError(f"{endpoint!r} is no address of a store", "Write it as http://host:port or https://host")
        return cls(parts.netloc, parts.path.strip("/"), endpoint, **options)

    @cached_property
    def client(self) -> Any:
        """The boto3 client, made on first use (its import is slow)."""
        import boto3
        from botocore.config import Config

        config = Config(
            s3={"addressing_style": "path"},
            signature_version="s3v4",
            retries={"mode": "standard", "max_attempts": self.attempts},
            connect_timeout=self.connect_timeout,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        # A session of its own: the module's default one would keep the credentials of an earlier store.
        session = boto3.session.Session()
        return session.client("s3", endpoint_url=self.endpoint, region_name=self.region, config=config)

    def refuses_overwrites(self) -> bool:
        """Try whether the store honours conditional puts; some accept and ignore them."""
        probe = f".probe-{uuid4().hex}"
        try:
            return self.put_new(probe, b"1") and not self.put_new(probe, b"2")
        finally:
            self.delete(probe)

    def put(self, key: str, content: bytes) -> None:
        """Store bytes, replacing what was there."""
        with self._errors("write", key):
            self.client.put_object(Bucket=self.bucket, Key=self._key(key), Body=content)

    def put_new(self, key: str, content: bytes) -> bool:
        """Store bytes only where nothing lies yet (`If-None-Match: *`); False means that the key was taken."""
        from botocore.exceptions import ClientError

        with self._errors("write", key):
            try:
                self.client.put_object(Bucket=self.bucket, Key=self._key(key), Body=content, IfNoneMatch="*")
            except ClientError as error:
                if code_of(error) not in CONFLICT:
                    raise
                return False
            return True

    def get(self, key: str) -> bytes:
        """Read bytes; NotStored where there are none."""
        with self._errors("read", key):
            body: bytes = self.client.get_object(Bucket=self.bucket, Key=self._key(key))["Body"].read()
            return body

    def chunks(self, key: str, size: int) -> Iterator[bytes]:
        """Read bytes piece by piece; NotStored where there are none."""
        with self._errors("read", key):
            yield from self.client.get_object(Bucket=self.bucket, Key=self._key(key))["Body"].iter_chunks(size)

    def exists(self, key: str) -> bool:
        """Whether an object lies under exactly this key."""
        try:
            with self._errors("read", key):
                self.client.head_object(Bucket=self.bucket, Key=self._key(key))
        except NotStored:
            return False
        return True

    def delete(self, key: str) -> None:
        """Remove one object; nothing happens where there is none."""
        with self._errors("delete", key):
            self.client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys below a prefix, relative to the storage's own, in the store's order."""
        base = f"{self.prefix}/" if self.prefix else ""
        with self._errors("list", prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=base + prefix)
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield entry["Key"].removeprefix(base)

    def get_file(self, key: str, path: Path) -> None:
        """Download to `path` through a temporary file beside it: a broken transfer leaves nothing."""
        with replacing(path) as temporary, self._errors("read", key):
            self.client.download_file(self.bucket, self._key(key), str(temporary))

    def get_folder(self, prefix: str, folder: Path) -> int:
        """Download everything below `prefix/` ("" = all) into a new folder, which appears whole or not at all.

        Raises:
            UserError: the folder exists, or a key would leave it.
            NotStored: nothing lies below the prefix.
        """
        if folder.exists():
            raise UserError(f"{folder} exists already", "Name a folder that does not")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            below = f"{prefix}/" if prefix else ""
            keys = [*self.list(below)]
            for key in keys:
                self.get_file(key, temporary / _inside(key.removeprefix(below)))
            if not keys:
                raise NotStored(f"nothing is stored below {self._name(prefix)}", "Check the name, or store it first")
            os.rename(temporary, folder)  # noqa: PTH104 - fails on a folder made meanwhile, as it should
            return len(keys)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _key(self, key: str) -> str:
        name = str(_inside(key))
        return f"{self.prefix}/{name}" if self.prefix else name

    def _name(self, key: str = "") -> str:
        where = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        return f"{where}/{key}".rstrip("/")

    def _errors(self, action: str, key: str = "") -> AbstractContextManager[None]:
        return told(f"cannot {action} {self._name(key)}", self.endpoint or "the S3 service")


def _inside(key: str) -> PurePosixPath:
    """A key as a path that stays inside its folder."""
    path = PurePosixPath(key)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in key or "\x00" in key:
        raise UserError(f"{key!r} leaves the folder it belongs to", "Use a relative key without '..'")
    return path
