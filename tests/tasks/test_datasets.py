"""Data sets as DVC stages, on a checkout of two files whose stage takes milliseconds."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from data.errors import UserError
from tasks import building, datasets
from tasks.settings import Settings

ROOT = Path(__file__).parents[2]
STAGE = """
import pathlib, sys, yaml
section = yaml.safe_load(open("params.yaml"))["profiles"][sys.argv[1]]["sessions"]
if section.get("fails"):
    sys.exit("params.yaml: sessions.fails is set. Unset it")
folder = pathlib.Path("data/sessions") / sys.argv[1]
folder.mkdir(parents=True)
(folder / "train.jsonl").write_text("{}\\n" * section["train"])
(folder / "test.jsonl").write_text("{}\\n" * 2)
with open("runs", "a") as file:
    file.write("x")
"""
PIPELINE = {
    "stages": {
        "sessions": {
            "matrix": {"profile": ["tiny", "small"]},
            "cmd": "python stage.py ${item.profile}",
            "deps": ["stage.py"],
            "params": ["profiles.${item.profile}.sessions"],
            "outs": ["data/sessions/${item.profile}"],
        }
    }
}


def write_params(root: Path, **changes):
    profiles = {
        "tiny": {"sessions": {"train": 3}},
        "small": {"extends": "tiny", "sessions": {"train": 4}},
        "large": {"extends": "small"},
    }
    profiles["tiny"]["sessions"].update(changes)
    (root / "params.yaml").write_text(yaml.safe_dump({"profiles": profiles}))


@pytest.fixture
def checkout(tmp_path: Path) -> Settings:
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    (root / "stage.py").write_text(STAGE)
    (root / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    write_params(root)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    return Settings(EDIT_R2_ROOT=root).model_copy(
        update={"home": Path(".edit-r2"), "dvc_remote": None, "s3_bucket": None}
    )


def test_a_build_is_identified_pushed_and_not_repeated(checkout):
    dataset = datasets.build("tiny", "sessions", chosen=checkout)
    assert dataset.title == "sessions/tiny"
    assert dataset.digest.endswith(".dir") and len(dataset.digest) == 36
    assert (dataset.rows, dataset.splits) == (5, {"train": 3, "test": 2})
    assert datasets.is_pushed("tiny", "sessions", checkout)
    lock = (checkout.root / "dvc.lock").read_bytes()
    assert datasets.build("tiny", "sessions", chosen=checkout) == dataset
    assert (checkout.root / "dvc.lock").read_bytes() == lock
    assert (checkout.root / "runs").read_text() == "x"
    assert not (checkout.root / ".dvc" / "config.local").exists()


def test_a_change_makes_another_build_that_is_not_in_the_remote_until_it_is_pushed(checkout):
    first = datasets.build("tiny", "sessions", chosen=checkout)
    write_params(checkout.root, train=7)
    second = datasets.build("tiny", "sessions", push=False, chosen=checkout)
    assert second.digest != first.digest and not datasets.is_pushed("tiny", "sessions", checkout)
    datasets.push_dataset(second, checkout)
    assert datasets.is_pushed("tiny", "sessions", checkout)


def test_a_failing_stage_is_one_line_and_leaves_the_lock_alone(checkout):
    datasets.build("tiny", "sessions", push=False, chosen=checkout)
    lock = (checkout.root / "dvc.lock").read_bytes()
    write_params(checkout.root, fails=True)
    with pytest.raises(UserError, match=r"cannot build sessions/tiny: params\.yaml: sessions\.fails is set") as caught:
        datasets.build("tiny", "sessions", chosen=checkout)
    assert "\n" not in str(caught.value)
    assert (checkout.root / "dvc.lock").read_bytes() == lock
    assert "exit 255" in (checkout.state / "logs" / "dvc.log").read_text()


def test_two_at_once_build_once(checkout):
    stage = checkout.root / "stage.py"
    stage.write_text("import time\ntime.sleep(1)\n" + stage.read_text())
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(datasets.build, "tiny", "sessions", push=False, chosen=checkout) for _ in range(2)]
        first, second = (each.result() for each in both)
    assert first == second
    assert (checkout.root / "runs").read_text() == "x"


def test_every_command_waits_for_whoever_is_at_the_checkout(checkout, tmp_path, monkeypatch):
    asked, run = [], subprocess.run

    def told(command, **more):
        asked.append(command[3:])
        return run(command, **more)

    monkeypatch.setattr(datasets.subprocess, "run", told)
    elsewhere = checkout.model_copy(update={"dvc_remote": str(tmp_path / "elsewhere")})
    datasets.build("tiny", "sessions", chosen=elsewhere)
    datasets.is_pushed("tiny", "sessions", elsewhere)
    assert {words[1] for words in asked} == {"repro", "remote", "push", "status"}
    assert {words[0] for words in asked} == {"--wait-for-lock"}


def test_a_remote_that_cannot_be_written_is_one_line(checkout, tmp_path):
    (tmp_path / "file").write_text("")
    elsewhere = checkout.model_copy(update={"dvc_remote": str(tmp_path / "file" / "below")})
    with pytest.raises(UserError, match=r"cannot push sessions/tiny to .*below") as caught:
        datasets.build("tiny", "sessions", chosen=elsewhere)
    assert "\n" not in str(caught.value) and "unexpected error" not in str(caught.value)


def test_another_remote_stays_out_of_the_committed_configuration(checkout, tmp_path):
    committed = (checkout.root / ".dvc" / "config").read_bytes()
    elsewhere = checkout.model_copy(update={"dvc_remote": str(tmp_path / "elsewhere")})
    datasets.build("tiny", "sessions", chosen=elsewhere)
    assert datasets.is_pushed("tiny", "sessions", elsewhere)
    assert any((tmp_path / "elsewhere").rglob("*.dir"))
    assert not (checkout.state / "dvc-remote").exists()
    assert (checkout.root / ".dvc" / "config").read_bytes() == committed
    local = checkout.root / ".dvc" / "config.local"
    before = local.stat().st_mtime_ns
    assert datasets.remote_name(elsewhere) == datasets.CONFIGURED_REMOTE
    assert local.stat().st_mtime_ns == before


def test_a_profile_without_its_own_section_shares_the_data_of_the_one_it_extends(checkout):
    assert datasets.owner_of("large", "sessions", checkout.root) == "small"
    with pytest.raises(UserError, match="no profile 'huge'"):
        datasets.owner_of("huge", "sessions", checkout.root)


def test_another_build_than_the_lock_names_is_refused_and_built_anew(checkout, monkeypatch):
    """As after `git pull`: the lock has moved on, the ignored folder has not."""
    old = datasets.build("tiny", "sessions", push=False, chosen=checkout)
    stale = checkout.root / "stale"
    shutil.copytree(old.folder, stale)
    write_params(checkout.root, train=7)
    new = datasets.build("tiny", "sessions", push=False, chosen=checkout)
    shutil.rmtree(new.folder)
    shutil.move(stale, new.folder)
    with pytest.raises(UserError, match=r"is not the build that dvc\.lock names"):
        datasets.locked("tiny", "sessions", checkout)
    monkeypatch.setattr(datasets, "settings", lambda: checkout)
    assert building.current(SimpleNamespace(profile="tiny"), "sessions") == new != old


def test_nothing_built_is_said(checkout):
    with pytest.raises(UserError, match="no entry for sessions@tiny"):
        datasets.locked("tiny", "sessions", checkout)


def test_the_manifest_sees_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    first = datasets.manifest_digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = datasets.manifest_digest(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, second, datasets.manifest_digest(tmp_path)}) == 3


def test_stages_run_on_this_python(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert str(Path(sys.executable).parent) not in os.environ["PATH"]
    assert datasets.build("tiny", "sessions", push=False, chosen=checkout).rows == 5
