"""Imports end in a folder that the loader reads, whole or not at all."""

import json
from pathlib import Path

import numpy as np
import pytest
from moto import mock_aws
from PIL import Image

from data.errors import UserError
from data.loader import SessionFolder
from data.mice import read_mice
from data.quarantine import read_quarantine
from tasks import imports
from tasks.storage import Storage
from tests.tasks.buckets import in_a_bucket, put_folder

FIXTURE = Path(__file__).parents[1] / "data" / "published.jsonl"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "photos").mkdir(parents=True)
    for name, colour in (("garden", "green"), ("harbour", "blue"), ("kitchen", "white")):
        Image.new("RGB", (20, 10), colour).save(folder / "photos" / f"{name}.jpg")
    return folder


def test_sessions_pictures_and_quarantine(tmp_path, images):
    out = tmp_path / "out"
    result = imports.run("mice", FIXTURE, out, str(images), fit=lambda width, height: (width * 2, height * 2))
    assert [session.id for session in result.sessions] == ["garden", "harbour", "kitchen"]
    assert "missing_image" in result.counts.by_reason
    assert sorted(path.name for path in out.iterdir()) == [
        "counts.json",
        "images-test-00000.parquet",
        "quarantine.jsonl",
        "test.jsonl",
    ]
    assert tuple(read_quarantine(out / "quarantine.jsonl")) == result.quarantine
    assert json.loads((out / "counts.json").read_text()) == result.as_json()
    example = SessionFolder(out, "test", targets=False)[1]
    assert example.session.id == "harbour" and example.session.turns == result.sessions[1].turns
    assert example.images.shape == (1, 20, 40, 3)
    assert np.abs(example.images[0, 0, 0].astype(int) - [0, 0, 255]).max() < 8


def test_without_images_only_the_sessions(tmp_path):
    result = imports.run("mice", FIXTURE, tmp_path / "out", split="train")
    assert read_mice(tmp_path / "out" / "train.jsonl").sessions == result.sessions
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_photographs_become_a_benchmark(tmp_path, images):
    rows = [{"image": f"photos/{name}.jpg", "objects": ["red cup", "tree"]} for name in ("garden", "harbour")]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="need their images"):
        imports.run("photographs", tmp_path / "list.jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    result = imports.run("photographs", tmp_path / "list.jsonl", tmp_path / "out", str(images))
    folder = SessionFolder(tmp_path / "out", "test", targets=False)
    assert len(folder) == len(result.sessions) == 4
    assert all(example.images.shape == (1, 10, 20, 3) for example in folder)


def test_images_from_a_store(tmp_path, images, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with mock_aws():
        put_folder(in_a_bucket(Storage.at("s3://pictures/source")), images, "mice")
        result = imports.run("mice", FIXTURE, tmp_path / "out", "s3://pictures/source/mice")
    assert len(result.sessions) == 3


def test_a_failure_leaves_nothing_and_a_full_folder_is_not_touched(tmp_path, images):
    (images / "photos" / "garden.jpg").write_bytes(b"x")
    (tmp_path / "list.csv").write_text("a,b\n")
    with pytest.raises(UserError):
        imports.run("edival", tmp_path / "list.csv", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "list.csv"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        imports.run("mice", FIXTURE, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
