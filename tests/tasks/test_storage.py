"""The S3 store, against moto in this process."""

from collections.abc import Iterator

import pytest
from moto import mock_aws

from data.errors import UserError
from tasks.storage import Storage
from tasks.storage_errors import NotStored
from tests.tasks.buckets import in_a_bucket, put_folder


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with mock_aws():
        yield in_a_bucket(Storage.at("s3://bucket/deep/prefix"))


def test_bytes_come_back(store):
    store.put("a/b.bin", b"\x00\x01")
    assert store.get("a/b.bin") == b"\x00\x01"
    assert store.exists("a/b.bin") and not store.exists("a")
    assert list(store.list()) == ["a/b.bin"]


def test_put_new_never_overwrites(store):
    assert store.put_new("ledger/1", b"first")
    assert not store.put_new("ledger/1", b"second")
    assert store.get("ledger/1") == b"first"
    assert store.refuses_overwrites()
    assert list(store.list()) == ["ledger/1"]


def test_a_folder_comes_back_whole(store, tmp_path):
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "a.txt").write_bytes(b"a")
    (source / "deep" / "b.txt").write_bytes(b"bb")
    put_folder(store, source, "model/1")
    store.put("model/10", b"a neighbour whose name begins alike")
    assert store.get_folder("model/1", tmp_path / "copy") == 2
    assert (tmp_path / "copy" / "deep" / "b.txt").read_bytes() == b"bb"
    with pytest.raises(UserError, match="exists already"):
        store.get_folder("model/1", tmp_path / "copy")


def test_a_broken_download_leaves_nothing(store, tmp_path, monkeypatch):
    store.put("model/a", b"a")
    store.put("model/b", b"b")
    whole = Storage.get_file

    def breaks(self, key, path):
        if key.endswith("b"):
            raise UserError("the line broke", "Try again")
        whole(self, key, path)

    monkeypatch.setattr(Storage, "get_file", breaks)
    with pytest.raises(UserError, match="the line broke"):
        store.get_folder("model", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_nothing_stored_is_said_in_one_line(store, tmp_path):
    for call in (lambda: store.get("none"), lambda: store.get_folder("none", tmp_path / "x")):
        with pytest.raises(NotStored) as caught:
            call()
        assert "\n" not in str(caught.value) and "none" in str(caught.value)
    with pytest.raises(NotStored):
        store.get_file("none", tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["../x", "/x", "a/../../x", "", "a\\b", "a\x00b"])
def test_a_key_may_not_leave_its_folder(store, key):
    with pytest.raises(UserError, match="leaves the folder"):
        store.put(key, b"")


def test_a_hostile_key_in_the_bucket_is_not_written(store, tmp_path):
    store.client.put_object(Bucket="bucket", Key="deep/prefix/model/../../../escape", Body=b"x")
    with pytest.raises(UserError, match="leaves the folder"):
        store.get_folder("model", tmp_path / "a" / "b")
    assert not (tmp_path / "escape").exists() and not (tmp_path / "a" / "b").exists()


def test_a_missing_bucket_is_named(store):
    other = Storage.at("s3://elsewhere")
    with pytest.raises(UserError, match="cannot write s3://elsewhere/a: there is no such bucket"):
        other.put("a", b"")


def test_a_store_that_does_not_answer(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    # Port 9 (discard) is closed on any machine that a test runs on.
    store = Storage.at("s3://bucket", endpoint="http://127.0.0.1:9", attempts=1, connect_timeout=0.5)
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9 does not answer") as caught:
        store.get("a")
    assert "\n" not in str(caught.value) and caught.value.remedy


def test_no_credentials(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UserError, match="AWS_ACCESS_KEY_ID"):
        Storage.at("s3://bucket", endpoint="http://127.0.0.1:9").get("a")


@pytest.mark.parametrize(("url", "endpoint"), [("http://x/y", None), ("bucket", None), ("s3://b", "127.0.0.1:8333")])
def test_addresses_are_checked(url, endpoint):
    with pytest.raises(UserError):
        Storage.at(url, endpoint)
