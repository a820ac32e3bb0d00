from __future__ import annotations

import shutil

import pytest

from tasks import models, tracking
from tasks.settings import settings
from tests.tasks.buckets import in_a_bucket
from tests.tasks.seaweed import KEY, SECRET, seaweed, weed

pytestmark = [pytest.mark.services, pytest.mark.skipif(weed() is None, reason="needs the SeaweedFS binary")]


@pytest.fixture
def bucket(home, tmp_path, monkeypatch):
    from tasks.storage import Storage

    with seaweed(tmp_path / "weed") as address:
        for name, value in (
            ("AWS_ACCESS_KEY_ID", KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("EDIT_R2_S3_BUCKET", "lab"),
            ("EDIT_R2_S3_ENDPOINT", address),
            ("MLFLOW_S3_ENDPOINT_URL", address),
        ):
            monkeypatch.setenv(name, value)
        settings.cache_clear()
        yield in_a_bucket(Storage.at("s3://lab", endpoint=address))


def test_a_model_on_s3_comes_back_and_a_lost_file_is_noticed(bucket, home, tmp_path):
    folder = tmp_path / "model"
    (folder / "vae").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "vae" / "weights").write_bytes(b"\x00" * 1000)
    with tracking.stage(tracking.Spec("train_sft", "smoke", "f" * 64)) as run:
        made = models.log(run, folder, "sft", None, {})
        run.finish({"model_id": made.model_id})
    assert models.manifest(models.fetch(made.model_id)) == models.manifest(folder)
    assert models.verify(made.model_id)
    (lost,) = [key for key in bucket.list("edit-r2/mlflow/") if key.endswith("vae/weights")]
    bucket.delete(lost)
    assert not models.verify(made.model_id)
    shutil.rmtree(home / "models")
    assert not models.verify(made.model_id)
