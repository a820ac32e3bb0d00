from __future__ import annotations

import subprocess
from dataclasses import dataclass

import pytest

from mlflow_config.settings import Stage
from tasks import identity


@dataclass(frozen=True)
class Section:
    steps: int = 10
    seed: int = 0


def project(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".py").write_text(text)
    return root


def print_of(section=None, **changes):
    return identity.fingerprint(Stage.TRAIN_SFT, section or Section(), **{"code": "c", **changes})


def test_the_same_inputs_have_the_same_fingerprint():
    datasets = {"sessions/tiny": "a.dir", "x": "b"}
    again = dict(reversed(datasets.items()))
    assert print_of(datasets=datasets, parent="p") == print_of(datasets=again, parent="p")
    assert len(print_of()) == 64


@pytest.mark.parametrize(
    "other",
    [
        {"section": Section(steps=11)},
        {"section": Section(seed=1)},
        {"datasets": {"sessions/tiny": "b.dir"}},
        {"parent": "q"},
        {"code": "d"},
    ],
)
def test_every_input_counts(other):
    usual = {"datasets": {"sessions/tiny": "a.dir"}, "parent": "p"}
    assert print_of(**usual) != print_of(**{**usual, **other})


def test_closure_follows_imports_however_they_are_written(tmp_path):
    project(
        tmp_path,
        model__a="import json\nfrom model import b\n",
        model__b="def late():\n    from data.c import thing\n",
        data__c="import torch\n",
        model__unrelated="",
    )
    assert set(identity.closure(["model.a"], tmp_path)) == {"model.a", "model.b", "data.c"}


def test_code_outside_the_closure_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "ENTRIES", {"stage": ("model.a",)})
    digest = identity.code_digest.__wrapped__
    project(tmp_path, model__a="from model import b\n", model__b="x = 1\n", model__c="x = 1\n")
    before = digest("stage", tmp_path)
    project(tmp_path, model__c="x = 2\n")
    assert digest("stage", tmp_path) == before
    project(tmp_path, model__b="x = 2\n")
    assert digest("stage", tmp_path) != before


def test_a_library_version_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "ENTRIES", {"stage": ()})
    before = identity.code_digest.__wrapped__("stage", tmp_path)
    monkeypatch.setattr(identity, "version", lambda name: "0.0.1")
    assert identity.code_digest.__wrapped__("stage", tmp_path) != before


def test_training_code_of_one_stage_is_not_that_of_another():
    base, rl = (set(identity.closure(identity.ENTRIES[stage])) for stage in (Stage.PRETRAIN_BASE, Stage.TRAIN_RL))
    assert "model.rl" in rl and "model.rl" not in base
    assert not any(module.startswith("tasks") for module in base | rl)


def test_a_folder_outside_git_is_dirty(tmp_path):
    assert identity.git.__wrapped__(tmp_path) == identity.Git(None)
    assert identity.Git(None).dirty


def test_what_decides_about_a_model_counts_as_a_change_and_nothing_else(tmp_path):
    def git(*words):
        who = ["-c", "user.name=n", "-c", "user.email=e@x"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    project(tmp_path, model__a="x = 1\n", docs__a="")
    (tmp_path / "dvc.lock").write_text("a")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    look = identity.git.__wrapped__
    assert look(tmp_path).commit and not look(tmp_path).dirty

    project(tmp_path, docs__b="")
    (tmp_path / "dvc.lock").write_text("b")
    assert not look(tmp_path).dirty
    project(tmp_path, model__a="x = 2\n", tasks__b="")  # one changed, one that no commit has
    assert look(tmp_path).changed == ("model/a.py", "tasks/b.py")
