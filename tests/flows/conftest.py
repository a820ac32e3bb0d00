"""A pipeline whose builds, trainers and judge are stand-ins; flows, tracking, lineage, gates and ledger are real."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks import datasets
from tests.tasks.stages import Trainers, datasets_of, install, passed


def stand_ins(monkeypatch: pytest.MonkeyPatch, root: Path) -> Trainers:
    """Put the stand-ins in place; what they build lies below `root`."""
    made = Trainers()
    install(monkeypatch, made)
    ready = datasets_of(root)

    def built(_profile, name, push=True):
        made.calls.append(name)
        return ready[name]

    monkeypatch.setattr(datasets, "build", built)
    monkeypatch.setattr(datasets, "locked", lambda _profile, name: ready[name])
    monkeypatch.setattr(datasets, "push_dataset", lambda dataset: made.calls.append(f"push {dataset.name}"))
    monkeypatch.setattr(datasets, "is_pushed", lambda _profile, _name: True)
    monkeypatch.setattr("tasks.expectations.validate", passed)
    return made


@pytest.fixture
def trainers(home, prefect, tmp_path, monkeypatch):
    return stand_ins(monkeypatch, tmp_path)
