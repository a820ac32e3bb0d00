from __future__ import annotations

import hashlib
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from data.errors import UserError
from tasks import models, tracking
from tasks.failures import transient
from tasks.locks import Busy, file_lock
from tasks.registry import Registry
from tasks.settings import settings

SPEC = tracking.Spec("train_sft", "smoke", "f" * 64)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "model"
    (made / "vae").mkdir(parents=True)
    (made / "config.json").write_text("{}")
    (made / "vae" / "weights").write_bytes(b"\x00\x01")
    return made


@pytest.fixture
def logged(home, folder):
    with tracking.stage(SPEC) as run:
        made = models.log(run, folder, "sft", "m-parent", {"steps": 3})
        run.finish({"model_id": made.model_id})
    return made


def test_the_digest_is_that_of_sha256sum(folder):
    printed = subprocess.run(["sha256sum", "config.json", "vae/weights"], cwd=folder, capture_output=True, check=True)
    assert models.digest(folder) == hashlib.sha256(printed.stdout).hexdigest()


def test_a_link_is_refused(folder):
    (folder / "link").symlink_to("/etc/hostname")
    with pytest.raises(UserError, match="symbolic link"):
        models.digest(folder)


def test_an_empty_folder_is_no_model(tmp_path):
    with pytest.raises(UserError, match="no model"):
        models.digest(tmp_path)


def test_a_logged_model_comes_back_byte_for_byte(logged, folder):
    fetched = models.fetch(logged.model_id)
    assert models.manifest(fetched) == models.manifest(folder)
    assert models.record(logged.model_id) == logged
    found = tracking.client().get_logged_model(logged.model_id)
    assert (found.name, str(found.status), found.params["steps"]) == ("sft", "READY", "3")
    assert tracking.client().get_run(logged.run_id).outputs.model_outputs[0].model_id == logged.model_id


def stored(model_id):
    import pathlib

    return pathlib.Path(tracking.client().get_logged_model(model_id).artifact_location)


def test_a_changed_byte_in_the_store_is_noticed(logged, home):
    assert models.verify(logged.model_id)
    (stored(logged.model_id) / "vae" / "weights").write_bytes(b"\x00\x02")
    assert not models.verify(logged.model_id)
    with pytest.raises(UserError, match="differ from their digest"):
        models.fetch(logged.model_id)
    assert not list((home / "models").iterdir())


def test_a_damaged_cache_is_fetched_again(logged):
    (models.fetch(logged.model_id) / "config.json").write_text("broken")
    assert (models.fetch(logged.model_id) / "config.json").read_text() == "{}"


def test_two_that_need_a_model_at_once_bring_it_once(logged, monkeypatch):
    brought, bring = [], models._download

    def slow(model_id, target):
        brought.append(model_id)
        time.sleep(0.3)
        bring(model_id, target)

    monkeypatch.setattr(models, "_download", slow)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(models.fetch, [logged.model_id] * 2)
    assert first == second and brought == [logged.model_id]
    assert models.manifest(first)


def test_a_copy_is_brought_and_adopted_under_the_lock_of_retention(logged, home, folder, monkeypatch):
    monkeypatch.setenv("EDIT_R2_STAGE_TIMEOUT", "0.1")
    settings.cache_clear()
    with file_lock(home / "locks" / f"{logged.digest[:12]}.lock"):
        with pytest.raises(Busy):
            models.fetch(logged.model_id)
        with pytest.raises(Busy):
            models.adopt(folder, logged.digest)
    models.adopt(folder, logged.digest)
    assert models.fetch(logged.model_id).is_dir() and not folder.exists()


def test_an_unknown_model_is_a_user_error(home):
    with pytest.raises(UserError, match="no model m-nope"):
        models.record("m-nope")


def test_a_store_that_does_not_answer_says_nothing_about_the_files(logged, monkeypatch):
    def down(_self, _model_id):
        raise MlflowException("503 Service Unavailable")

    monkeypatch.setattr(type(tracking.client()), "get_logged_model", down)
    for ask in (models.verify, models.record):
        with pytest.raises(MlflowException, match="503"):
            ask(logged.model_id)


class Down:
    """A client of an MLflow that answers nothing."""

    tracking_uri = "http://127.0.0.1:1"

    def __init__(self, problem):
        self.problem = problem

    def __getattr__(self, _name):
        def ask(*_args, **_more):
            raise self.problem

        return ask


def asked_of(registry):
    def files():
        with registry.model_folder("m-1"):
            raise AssertionError("there are none")

    return [lambda: registry.version(1), lambda: registry.model_tags("m-1"), lambda: registry.run("r"), files]


def test_only_what_mlflow_does_not_hold_is_told_as_lost():
    lost = MlflowException("no such thing", RESOURCE_DOES_NOT_EXIST)
    for ask in asked_of(Registry(Down(lost), "edit-r2")):
        with pytest.raises(UserError):
            ask()
    down = MlflowException("API request failed: Max retries exceeded with url: /api")
    for ask in asked_of(Registry(Down(down), "edit-r2")):
        with pytest.raises(MlflowException, match="Max retries") as told:
            ask()
        assert transient(told.value)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("##### File weights #####\nCould not connect to the endpoint URL: http://store", MlflowException),
        ("##### File weights #####\nNo such artifact: weights", UserError),
    ],
)
def test_a_download_that_broke_off_is_tried_again_and_files_that_are_gone_are_told(logged, monkeypatch, said, error):
    monkeypatch.setattr("mlflow.artifacts.download_artifacts", Down(MlflowException(said)).ask)
    monkeypatch.setattr(Registry, "_logged", lambda *_: SimpleNamespace(tags={}, artifact_location="s3://lab/m"))
    for ask in (lambda: models.fetch(logged.model_id), asked_of(Registry(tracking.client(), "edit-r2"))[-1]):
        with pytest.raises(error) as told:
            ask()
        assert transient(told.value) is (error is MlflowException)


def test_a_remote_store_is_asked_for_names_and_sizes(logged, monkeypatch):
    found = tracking.client().get_logged_model(logged.model_id)
    there = found.artifact_location
    monkeypatch.setattr(type(found), "artifact_location", property(lambda _: "s3://lab/models"))
    stored_files = {"config.json": 2, "vae/weights": 2}
    monkeypatch.setattr(models, "stored", lambda _client, _model_id: stored_files)
    monkeypatch.setattr(models, "_download", lambda _model_id, target: shutil.copytree(there, target))
    assert models.verify(logged.model_id)
    stored_files["vae/weights"] = 1
    assert not models.verify(logged.model_id)
    stored_files.clear()
    assert not models.verify(logged.model_id)
