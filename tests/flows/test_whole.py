"""The whole pipeline for real, in a clone of its own: profile smoke, on folders and on an S3 store."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.tasks.buckets import in_a_bucket
from tests.tasks.seaweed import KEY, SECRET, seaweed, weed

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
OTHERS = ("EDIT_R2_", "MLFLOW_", "PREFECT_", "AWS_")  # of the tests around, or of the developer's shell


@pytest.fixture
def clone(tmp_path):
    """The tracked files as they stand, without history or state."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    made = tmp_path / "clone"
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).exists():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, made / name)
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=made, check=True)
    return made


def command(clone: Path, *words: str, **variables: str) -> dict:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OTHERS)} | variables
    line = [sys.executable, "-m", "flows.cli", *words, "--json"]
    done = subprocess.run(line, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_a_second_run_builds_and_trains_nothing(clone):
    first = command(clone, "run", "--profile", "smoke")
    assert set(first["models"]) == {"base", "sft", "rl"} and first["promotion"]["verdict"] == "promoted"
    started = time.monotonic()
    second = command(clone, "run", "--profile", "smoke")
    assert time.monotonic() - started < 30
    assert second["models"] == first["models"] and second["run_id"] == first["run_id"]
    assert second["promotion"]["verdict"] == "unchanged"
    audited = command(clone, "audit", "run", f"edit-r2@{first['promotion']['alias']}")
    assert audited


def test_a_table_made_side_by_side_is_reused_by_itself_and_by_a_retraining(clone):
    words = ("experiment", "table", "--profile", "smoke", "--seeds", "0,1", "--variants", "sft,edit-r2", "--jobs", "2")
    first = command(clone, *words, "--write", "docs")
    assert json.loads((clone / "docs" / "results.json").read_text()) == first
    assert set(first["variants"]) == {"sft", "edit-r2"} and set(first["paired"]) == {"edit-r2 - sft"}
    assert first["variants"]["edit-r2"]["session_success"]["n"] == 24, "12 sessions, 2 seeds"
    page = (clone / "docs" / "results.md").read_text()
    assert (clone / "docs" / "results" / "learning-curves.png").exists() and "learning-curves.png" in page
    assert command(clone, *words) == first
    made = command(clone, "experiment", "run", "edit-r2", "--profile", "smoke")
    assert command(clone, "run", "--profile", "smoke")["models"]["rl"] == made["model"]


@pytest.mark.services
@pytest.mark.skipif(weed() is None, reason="needs the SeaweedFS binary")
def test_data_and_artifacts_on_s3(clone, tmp_path):
    from tasks.storage import Storage

    with seaweed(tmp_path / "weed") as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        in_a_bucket(Storage.at("s3://lab", endpoint=address))
        variables = {
            "EDIT_R2_S3_ENDPOINT": address,
            "EDIT_R2_S3_BUCKET": "lab",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }
        made = command(clone, "run", "--profile", "smoke", **variables)
        assert made["promotion"]["verdict"] == "promoted"
        again = command(clone, "run", "--profile", "smoke", **variables)
        assert again["models"] == made["models"]
        stored = set(Storage.at("s3://lab/edit-r2", endpoint=address).list())
        kinds = {key.split("/")[0] for key in stored}
        assert {"dvc", "mlflow", "ledger"} <= kinds
        assert any(key.endswith("model.safetensors") for key in stored)


def runs_of(clone: Path) -> dict[str, list[tuple[str, str]]]:
    """Stage -> fingerprint and status of every run in MLflow; read past MLflow, which would set the database up."""
    query = """select stage.value, print.value, runs.status from runs
        join tags stage on stage.run_uuid = runs.run_uuid and stage.key = 'edit_r2.stage'
        join tags print on print.run_uuid = runs.run_uuid and print.key = 'edit_r2.fingerprint'"""
    found: dict[str, list[tuple[str, str]]] = {}
    path = clone / ".edit-r2" / "mlflow.db"
    # Not there yet, or being set up, is no error here.
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        for stage, fingerprint, status in database.execute(query):
            found.setdefault(stage, []).append((fingerprint, status))
    return found


def test_killed_stages_leave_no_run_open_and_none_twice(clone):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OTHERS)}
    line = [sys.executable, "-m", "flows.cli", "run", "--profile", "smoke", "--json"]
    for stage in ("pretrain_base", "train_sft", "train_rl", "evaluate"):
        process = subprocess.Popen(line, cwd=clone, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
        until = time.monotonic() + 600
        while process.poll() is None and "RUNNING" not in dict(runs_of(clone).get(stage, ())).values():
            assert time.monotonic() < until
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, f"it should have been killed in {stage}"
    made = command(clone, "run", "--profile", "smoke")
    assert set(made["models"]) == {"base", "sft", "rl"}
    for stage, runs in runs_of(clone).items():
        assert {status for _, status in runs} == {"FINISHED"}, stage
        assert len({fingerprint for fingerprint, _ in runs}) == len(runs), f"{stage} is there twice"
