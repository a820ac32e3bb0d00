from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from mlflow.exceptions import MlflowException

from data.errors import UserError
from mlflow_config.settings import Tag, stage_tag
from tasks import identity, tracking
from tasks.locks import place
from tasks.recording import log_dataset
from tasks.settings import settings


def spec(stage="train_sft", print_="a" * 64, **more):
    return tracking.Spec(stage, "smoke", print_, **more)


def status(run_id):
    return tracking.client().get_run(run_id).info.status


@pytest.fixture(autouse=True)
def installed(home):
    """Every test has its own MLflow."""


def finish(found=None, **more):
    with tracking.stage(spec(**more)) as run:
        run.finish(found or {"answer": 42})
    return run


def test_a_finished_run_is_reused():
    first = finish()
    with tracking.stage(spec()) as second:
        assert second.reused and second.run_id == first.run_id and second.result == {"answer": 42}
    assert len(tracking.find("smoke", "train_sft")) == 1 and status(first.run_id) == "FINISHED"


def test_another_fingerprint_is_another_run():
    assert finish().run_id != finish(print_="b" * 64).run_id


def test_what_uncommitted_code_made_is_made_again_once_it_is_committed(monkeypatch):
    """Its statement says "uncommitted" for good: reused, it would be refused for good."""
    monkeypatch.setattr(identity, "git", lambda: identity.Git("c0ffee", ("model/rl.py",)))
    first, again = finish(), finish()
    assert again.run_id == first.run_id
    monkeypatch.setattr(identity, "git", lambda: identity.Git("c0ffee"))
    clean = finish()
    assert clean.run_id != first.run_id and finish().run_id == clean.run_id
    monkeypatch.setattr(identity, "git", lambda: identity.Git("c0ffee", ("model/rl.py",)))
    assert finish().reused


def test_what_no_longer_holds_is_done_again_in_a_run_of_its_own():
    """What a finished run says has been signed: its tags stay as they are."""
    first = finish()
    said = tracking.client().get_run(first.run_id).data.tags
    with tracking.stage(spec(), verify=lambda found: found["answer"] == 43) as again:
        assert not again.reused and again.run_id != first.run_id
        again.finish({"answer": 43})
    kept = tracking.client().get_run(first.run_id)
    assert kept.data.tags == said and kept.info.status == "FINISHED"
    with tracking.stage(spec(), verify=lambda found: found["answer"] == 43) as third:
        assert third.reused and third.run_id == again.run_id


def test_a_store_that_does_not_answer_reopens_nothing():
    first = finish()

    def ask(_found):
        raise ConnectionError("the store is down")

    with pytest.raises(ConnectionError), tracking.stage(spec(), verify=ask):
        pass
    assert status(first.run_id) == "FINISHED" and len(tracking.find("smoke", spec().stage)) == 1


@pytest.mark.parametrize(("error", "ends"), [(ValueError("boom\n at"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_an_error_closes_the_run_and_its_parent_and_a_retry_goes_on_in_them(error, ends):
    with pytest.raises(type(error)), tracking.stage(spec("retrain")) as parent:  # noqa: SIM117
        with tracking.stage(spec(parent_run=parent.run_id)) as child:
            raise error
    assert status(child.run_id) == status(parent.run_id) == ends
    tags = tracking.client().get_run(child.run_id).data.tags
    assert type(error).__name__ in tags[Tag.FAILURE] and "\n" not in tags[Tag.FAILURE]
    again = finish(parent_run=parent.run_id)
    assert again.run_id == child.run_id and not again.reused and status(again.run_id) == "FINISHED"
    assert Tag.FAILURE not in tracking.client().get_run(again.run_id).data.tags


def test_a_stop_signal_counts_as_killed():
    class Stopped(UserError):
        exit_code = 143

    with pytest.raises(Stopped), tracking.stage(spec()) as run:
        raise Stopped("stopped", "Run again")
    assert status(run.run_id) == "KILLED"


def test_a_reused_parent_whose_stage_fails_is_failed():
    parent = finish(stage="retrain")
    with pytest.raises(ValueError), tracking.stage(spec("retrain")) as again:
        assert again.reused
        raise ValueError("a stage was lost and its repetition failed")
    assert status(parent.run_id) == "FAILED"


def test_a_run_without_a_result_is_no_success():
    with pytest.raises(RuntimeError, match="without a result"), tracking.stage(spec()) as run:
        pass
    assert status(run.run_id) == "FAILED"


def test_the_parent_names_the_runs_of_its_stages_reused_or_not():
    stage = finish()
    parent = finish(stage="retrain", print_="c" * 64)
    finish(parent_run=parent.run_id)
    assert tracking.client().get_run(parent.run_id).data.tags[stage_tag("train_sft")] == stage.run_id


def test_metrics_arrive_and_a_resumed_run_does_not_repeat_them():
    with pytest.raises(ValueError), tracking.stage(spec()) as run:
        for step in range(5):
            run.report(step, {"train/loss": 1.0 / (step + 1)})
        raise ValueError
    with tracking.stage(spec()) as run:
        for step in range(3, 8):  # the checkpoint was older than the last report
            run.report(step, {"train/loss": 1.0 / (step + 1)})
        run.finish({"done": True})
    history = tracking.client().get_metric_history(run.run_id, "train/loss")
    assert [metric.step for metric in history] == list(range(8))


def test_metrics_go_in_batches(monkeypatch):
    sent = []
    with tracking.stage(spec()) as run:
        count = lambda *_, metrics=(), **__: sent.append(len(metrics))  # noqa: E731
        monkeypatch.setattr(type(tracking.client()), "log_batch", count)
        for step in range(400):
            run.report(step, {"train/loss": 0.0, "train/flow": 0.0, "train/trace": 0.0})
        run.flush()
        monkeypatch.undo()
        run.finish({"done": True})
    assert sum(sent) == 1200 and len(sent) <= 5


def test_inputs_are_logged_with_the_hash_of_dvc():
    digest = "0123456789abcdef" * 2 + ".dir"
    with tracking.stage(spec()) as run:
        run.dataset("sessions/smoke", digest, {"md5": digest}, "training", {"rows": 3})
        with pytest.raises(UserError, match="36"):
            run.dataset("sessions/smoke", "f" * 64, {}, "training", {})
        run.params({f"p{i}": i for i in range(150)})
        run.finish({"done": True})
    found = tracking.client().get_run(run.run_id)
    (entry,) = found.inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest, entry.tags[0].value) == ("sessions/smoke", digest, "training")
    assert len(found.data.params) == 150


def test_only_reuse_never_starts_anything():
    with pytest.raises(tracking.NotFinished), tracking.only_reuse(), tracking.stage(spec()):
        pass
    assert tracking.find("smoke", "train_sft") == []


def test_runs_that_died_are_closed_and_live_ones_are_not():
    tags = {Tag.HOST: place(settings().state), Tag.STAGE: "train_sft"}
    dead, alive = (
        tracking.client().create_run(tracking.experiment_id("smoke"), tags={**tags, Tag.FINGERPRINT: letter * 64})
        for letter in "de"
    )
    with FileLock(settings().folder("runs") / f"{spec(print_='e' * 64).key}.lock"):
        assert [run.info.run_id for run in tracking.sweep("smoke")] == [dead.info.run_id]
    assert (status(dead.info.run_id), status(alive.info.run_id)) == ("KILLED", "RUNNING")


def test_a_run_that_ended_since_it_was_listed_is_no_dead_one(monkeypatch):
    tags = {Tag.HOST: place(settings().state), Tag.STAGE: "train_sft", Tag.FINGERPRINT: "d" * 64}
    run = tracking.client().create_run(tracking.experiment_id("smoke"), tags=tags)
    listed = tracking.client().search_runs([tracking.experiment_id("smoke")])
    tracking.client().set_terminated(run.info.run_id, "FINISHED")
    monkeypatch.setattr(type(tracking.client()), "search_runs", lambda *_, **__: listed)
    assert tracking.sweep("smoke") == [] and status(run.info.run_id) == "FINISHED"


def test_what_a_failure_says_of_an_address_holds_no_login():
    with pytest.raises(ConnectionError), tracking.stage(spec()) as run:
        raise ConnectionError("no answer from http://ada:pass@mlflow.example/api")
    told = tracking.client().get_run(run.run_id).data.tags[Tag.FAILURE]
    assert "mlflow.example" in told and "pass" not in told


@pytest.mark.parametrize(("stage", "print_"), [("../../outside", "a" * 64), ("train_sft", "../../outside"), ("x", "")])
def test_tags_of_a_foreign_run_name_no_lock(home, stage, print_):
    tags = {Tag.HOST: place(settings().state), Tag.STAGE: stage, Tag.FINGERPRINT: print_}
    run = tracking.client().create_run(tracking.experiment_id("smoke"), tags=tags)
    assert tracking.sweep("smoke") == [] and status(run.info.run_id) == "RUNNING"
    assert not list(home.parent.rglob("*.lock"))


def test_a_result_that_mlflow_would_cut_is_refused():
    with pytest.raises(UserError, match="train_sft has 9"), tracking.stage(spec()) as run:
        run.finish({"text": "x" * 9000})
    assert status(run.run_id) == "FAILED" and tracking.result(tracking.client().get_run(run.run_id)) == {}


def test_a_killed_process_leaves_a_run_that_the_next_one_takes_up(home):
    script = (
        "import os, signal\n"
        "from tasks import tracking\n"
        "with tracking.stage(tracking.Spec('train_sft', 'smoke', 'a' * 64)) as run:\n"
        "    run.report(0, {'train/loss': 1.0})\n"
        "    run.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL
    (dead,) = tracking.find("smoke", "train_sft")
    assert dead.info.status == "RUNNING"
    again = finish()
    assert again.run_id == dead.info.run_id and status(again.run_id) == "FINISHED"
    assert len(tracking.find("smoke", "train_sft")) == 1


def test_a_run_under_way_on_another_machine_is_left_to_it():
    tags = {Tag.HOST: "elsewhere/0123", Tag.STAGE: "train_sft", Tag.FINGERPRINT: "a" * 64}
    theirs = tracking.client().create_run(tracking.experiment_id("smoke"), tags=tags)
    ours = finish()
    assert ours.run_id != theirs.info.run_id and status(theirs.info.run_id) == "RUNNING"
    assert tracking.client().get_run(theirs.info.run_id).data.tags == theirs.data.tags


class Racing:
    """A store that refuses as often as it is told to, as MLflow does when another run enters a data set first."""

    def __init__(self, refusals, message):
        self.refusals, self.message, self.logged = refusals, message, []

    def log_inputs(self, run_id, datasets):
        if self.refusals:
            self.refusals -= 1
            raise MlflowException(self.message)
        self.logged.append((run_id, *datasets))


def test_a_data_set_that_another_run_has_just_entered_is_found_the_second_time():
    store = Racing(1, "(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.name")
    log_dataset(store, "run", "used")
    assert store.logged == [("run", "used")]
    with pytest.raises(MlflowException, match="duplicate"):
        log_dataset(Racing(2, "duplicate key value violates unique constraint"), "run", "used")
    with pytest.raises(MlflowException, match="disk"):
        log_dataset(Racing(1, "disk is full"), "run", "used")
