from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from prefect import flow
from prefect.states import Cancelled, Completed, Failed, Pending

from data.errors import UserError
from flows import dispatch
from mlflow_config.settings import Stage
from tasks import tracking
from tasks.settings import settings

DONE: list[str] = []


@flow(name="toy")
def toy(profile: str, parent_run: str | None = None) -> str:
    """A stage that records its work."""
    with tracking.stage(tracking.Spec(Stage.TRAIN_SFT, profile, "a" * 64, parent_run)) as run:
        if not run.reused:
            DONE.append(run.run_id)
            run.finish({"answer": 42})
    return run.run_id


@pytest.fixture(autouse=True)
def installed(home):
    DONE.clear()


class Pool:
    """A server and a worker: `script` says how each new run ends; runs are found again by their key."""

    def __init__(self, *script: Any) -> None:
        self.script, self.runs, self.asked = list(script), {}, []

    def run_deployment(self, name, parameters, timeout, idempotency_key):
        self.asked.append((name, parameters, idempotency_key))
        fresh = idempotency_key not in self.runs
        if fresh:
            self.runs[idempotency_key] = self.script.pop(0)
        state = Pending() if fresh else self.runs[idempotency_key]
        return SimpleNamespace(id=idempotency_key, name="toy-run", state=state)

    def wait(self, run):
        end = self.runs[run.id]
        if end.is_completed():
            toy.fn("smoke")
        return end


@pytest.fixture
def pool(monkeypatch):
    def install(*script):
        made = Pool(*script)
        monkeypatch.setenv("EDIT_R2_DISPATCH", "work-pools")
        settings.cache_clear()
        monkeypatch.setattr(dispatch, "run_deployment", made.run_deployment)
        monkeypatch.setattr(dispatch, "_wait", made.wait)
        return made

    return install


def run() -> Any:
    return dispatch.stage(toy, Stage.TRAIN_SFT, profile="smoke", parent_run=None)


def test_a_stage_on_a_worker_is_done_once_and_its_result_found(pool):
    made = pool(Completed())
    assert run() == DONE[0]
    ((name, parameters, _),) = made.asked
    assert name == "toy/toy" and parameters["profile"] == "smoke"


def test_a_retried_retraining_attaches_to_the_run_under_way(pool):
    made = pool(Completed())
    run()
    run()
    assert len(made.runs) == 1 and len(DONE) == 1


@pytest.mark.parametrize("end", [Failed(message="loss is\nnot finite"), Cancelled()])
def test_a_child_that_did_not_complete_raises(pool, end):
    pool(end)
    with pytest.raises(UserError, match=end.name):
        run()
    assert DONE == []


def test_after_a_failure_the_next_attempt_is_a_new_run(pool):
    made = pool(Failed(message="out of memory"), Completed())
    with pytest.raises(UserError, match="out of memory"):
        run()
    assert run() == DONE[0]
    assert [key.rsplit("-", 1)[1] for key in made.runs] == ["0", "1"]


def test_a_completed_child_without_a_result_is_an_error(pool, monkeypatch):
    made = pool(Completed())
    monkeypatch.setattr(dispatch, "_wait", lambda found: made.runs[found.id])
    with pytest.raises(UserError, match="not in MLflow"):
        run()
    assert DONE == []


def test_the_key_depends_on_inputs_and_not_on_the_parent_run():
    inputs = {"profile": "smoke", "base": "m-1"}
    key = dispatch.idempotency_key(Stage.TRAIN_SFT, inputs)
    assert key == dispatch.idempotency_key(Stage.TRAIN_SFT, {**inputs, "parent_run": "r"})
    assert key != dispatch.idempotency_key(Stage.TRAIN_SFT, {**inputs, "base": "m-2"})
    assert key != dispatch.idempotency_key(Stage.TRAIN_SFT, {**inputs, "profile": "tiny"})
