from __future__ import annotations

import pytest

from tasks import identity, progress, retraining


@pytest.mark.parametrize(
    ("git", "expected"),
    [
        (identity.Git("c0ffee"), None),
        (identity.Git(None), "no git checkout"),
        (identity.Git("c0ffee", ("params.yaml",)), "params.yaml. The gates"),
        (identity.Git("c0ffee", tuple(f"model/{n}.py" for n in range(7))), "model/4.py and 2 more. The gates"),
    ],
)
def test_what_the_gates_will_refuse_is_said_before_the_training(monkeypatch, git, expected):
    said: list[str] = []
    monkeypatch.setattr(identity, "git", lambda: git)
    monkeypatch.setattr(progress, "say", said.append)
    retraining.warn_of_changes()
    assert said == [] if expected is None else expected in said[0]
