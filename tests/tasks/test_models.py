from __future__ import annotations

import hashlib
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from data.errors import UserError
from tasks import models, tracking
from tasks.locks import Busy, file_lock
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
    from mlflow.exceptions import MlflowException

    def down(_self, _model_id):
        raise MlflowException("503 Service Unavailable")

    monkeypatch.setattr(type(tracking.client()), "get_logged_model", down)
    for ask in (models.verify, models.record):
        with pytest.raises(MlflowException, match="503"):
            ask(logged.model_id)


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
