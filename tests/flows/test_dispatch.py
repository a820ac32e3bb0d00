from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.states import Cancelled, Completed, Failed, Pending

from data.errors import UserError
from flows import dispatch
from mlflow_config.settings import Stage
from tasks import identity, tracking
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
    """A server and a worker: `script` says how each new run ends, once somebody has waited for it."""

    def __init__(self, *script: Any) -> None:
        self.script, self.runs, self.asked = list(script), [], []

    def run_deployment(self, name, parameters, timeout, idempotency_key, tags, as_subflow):
        self.asked.append((name, parameters, as_subflow))
        known = [run for run in self.runs if run.idempotency_key == idempotency_key]
        if not known:
            number = len(self.runs)
            made = {"id": number, "name": "toy-run", "state": Pending(), "tags": tags}
            self.runs.append(SimpleNamespace(idempotency_key=idempotency_key, **made))
        return (known or self.runs)[-1]

    def newest(self, flow, key):
        return next((run for run in reversed(self.runs) if run.tags == [f"{flow.name}:{key}"]), None)

    def wait(self, run):
        run.state = self.script.pop(0)
        if run.state.is_completed():
            toy.fn("smoke")
        return run.state


@pytest.fixture
def pool(monkeypatch):
    def install(*script):
        made = Pool(*script)
        monkeypatch.setenv("EDIT_R2_DISPATCH", "work-pools")
        settings.cache_clear()
        monkeypatch.setattr(dispatch, "run_deployment", made.run_deployment)
        monkeypatch.setattr(dispatch, "_newest", made.newest)
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
    run()
    assert len(made.runs) == len(DONE) == 1


def test_what_a_worker_made_with_uncommitted_code_is_the_gates_business(pool, monkeypatch):
    """Its checkout may never be clean for git; that the result were not in MLflow would be untrue."""
    made = pool(Completed(), Completed())
    dirty, clean = identity.Git("c0ffee", ("model/rl.py",)), identity.Git("c0ffee")
    wait = made.wait

    def on_the_worker(run):
        monkeypatch.setattr(identity, "git", lambda: dirty)
        state = wait(run)
        monkeypatch.setattr(identity, "git", lambda: clean)
        return state

    monkeypatch.setattr(identity, "git", lambda: clean)
    monkeypatch.setattr(dispatch, "_wait", on_the_worker)
    assert run() == DONE[0]
    assert run() == DONE[0] and len(made.runs) == 2, "it is asked for again, and the worker has it already"


def test_a_retried_retraining_attaches_to_the_run_under_way(pool, monkeypatch):
    made = pool(Completed())
    with monkeypatch.context() as cut_off:
        cut_off.setattr(dispatch, "_wait", lambda _found: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run()
    run()
    assert len(made.runs) == 1 and len(DONE) == 1


@pytest.mark.parametrize("end", [Failed(message="loss is\nnot finite"), Cancelled()])
def test_a_child_that_did_not_complete_raises(pool, end):
    pool(end)
    with pytest.raises(UserError, match=end.name):
        run()
    assert DONE == []


def test_after_any_number_of_failures_the_next_attempt_is_a_new_run(pool):
    made = pool(*[Failed(message="out of memory")] * 25, Completed())
    for _ in range(25):
        with pytest.raises(UserError, match="out of memory"):
            run()
    assert run() == DONE[0]
    assert [int(found.idempotency_key.rsplit("-", 1)[1]) for found in made.runs] == list(range(26))
    assert len(made.asked) == 26


def test_a_run_that_waits_for_a_person_is_asked_for_again_only_when_it_has_ended(pool):
    made = pool()
    for _ in range(2):
        dispatch.elsewhere(toy, "promote-1", profile="smoke")
    assert len(made.runs) == 1
    made.runs[0].state = Failed(message="nobody answered")
    dispatch.elsewhere(toy, "promote-1", profile="smoke")
    assert len(made.runs) == 2


@flow(name="asks-elsewhere")
def asks_elsewhere() -> None:
    """A flow that starts another as a deployment, twice."""
    dispatch.elsewhere(toy, "promote-1", profile="smoke")
    dispatch.elsewhere(toy, "promote-1", profile="smoke")


def test_what_may_wait_for_a_person_is_no_subflow_and_is_found_again(prefect, monkeypatch):
    """Prefect suspends no subflow, and `approving.ask` asks nobody from within one."""
    monkeypatch.setenv("EDIT_R2_DISPATCH", "work-pools")
    settings.cache_clear()
    with get_client(sync_client=True) as client:
        client.create_deployment(client.create_flow(toy), "toy")
        asks_elsewhere()
        newest = dispatch._newest(toy, "promote-1")
        assert newest.parent_task_run_id is None and newest.idempotency_key == "toy:promote-1-0"
        client.set_flow_run_state(newest.id, Failed(message="nobody answered"), force=True)
        asks_elsewhere()
    assert dispatch._newest(toy, "promote-1").idempotency_key == "toy:promote-1-1"


def test_a_completed_child_without_a_result_is_an_error(pool, monkeypatch):
    pool()
    monkeypatch.setattr(dispatch, "_wait", lambda _found: Completed())
    with pytest.raises(UserError, match="not in MLflow"):
        run()
    assert DONE == []


def test_the_key_depends_on_inputs_and_not_on_the_parent_run():
    inputs = {"profile": "smoke", "base": "m-1"}
    key = dispatch.idempotency_key(Stage.TRAIN_SFT, inputs)
    assert key == dispatch.idempotency_key(Stage.TRAIN_SFT, {**inputs, "parent_run": "r"})
    assert key != dispatch.idempotency_key(Stage.TRAIN_SFT, {**inputs, "base": "m-2"})
    assert key != dispatch.idempotency_key(Stage.TRAIN_SFT, {**inputs, "profile": "tiny"})
