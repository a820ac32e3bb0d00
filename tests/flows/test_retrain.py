"""The whole chain with stand-ins for builds, trainers and judge; flows, tracking, lineage, gates, ledger are real."""

from __future__ import annotations

import json

import pytest
from prefect.client.orchestration import get_client

from data.errors import UserError
from flows.retrain import retrain
from mlflow_config.settings import RETRAIN, Stage, Tag, stage_tag
from tasks import building, datasets, tracking
from tasks.books import open_books
from tasks.locks import place
from tasks.settings import settings


def parents():
    return tracking.find("smoke", RETRAIN)


def flow_runs(name):
    with get_client(sync_client=True) as client:
        return [run.state_name for run in client.read_flow_runs() if run.name == name]


def test_data_to_promotion_and_then_nothing_left_to_do(trainers):
    first = retrain("smoke")
    assert trainers.calls == [
        *("sessions", "push sessions", "benchmark", "push benchmark"),
        *("vae", "base", "sft", "rl", "judge", "judge", "judge"),
    ]
    assert [found.name for found in first.evaluations] == ["base", "sft", "rl"]
    assert first.promotion.verdict == "promoted", first.promotion.details
    registered = tracking.client().get_model_version_by_alias("edit-r2", first.promotion.alias)
    assert int(registered.version) == first.promotion.version
    (parent,) = parents()
    assert parent.info.status == "FINISHED" and parent.info.run_id == first.run_id
    children = tracking.client().search_runs([parent.info.experiment_id], f"tags.`{Tag.PARENT_RUN}` = '{first.run_id}'")
    assert len(children) == 8 and {run.info.status for run in children} == {"FINISHED"}
    files = {file.path for file in tracking.client().list_artifacts(first.run_id)}
    assert {"report.html", "decision.json"} <= files

    trainers.calls.clear()
    second = retrain("smoke")
    assert trainers.calls == ["sessions", "benchmark"]  # DVC is asked whether the files still hold
    assert second.run_id == first.run_id and second.promotion.verdict == "unchanged"
    assert len(parents()) == 1 and len(open_books(alias=first.promotion.alias).ledger.chain()) == 1


def test_a_failing_stage_fails_its_run_the_retraining_and_the_flow_and_is_taken_up_again(trainers):
    trainers.broken = "rl"
    with pytest.raises(UserError, match="not finite"):
        retrain("smoke")
    (parent,) = parents()
    (stage,) = tracking.find("smoke", "train_rl")
    assert parent.info.status == stage.info.status == "FAILED"
    assert "Failed" in flow_runs("retrain-smoke") and "Failed" in flow_runs("train-rl-smoke")
    assert trainers.calls.count("rl") == 1  # a defect of training is not tried again

    trainers.broken = None
    trainers.calls.clear()
    done = retrain("smoke")
    assert trainers.calls == ["sessions", "benchmark", "rl", "judge", "judge", "judge"]
    assert done.run_id == parent.info.run_id and parents()[0].info.status == "FINISHED"
    tags = tracking.client().get_run(done.run_id).data.tags
    assert tags[stage_tag("train_rl")] == stage.info.run_id


def test_a_build_that_nobody_signed_for_is_checked_again(trainers):
    retrain("smoke")
    (built,) = tracking.find("smoke", Stage.BUILD_DATASET)
    forged = tracking.result(built) | {"note": "0" * 64}
    tracking.client().set_tag(built.info.run_id, Tag.RESULT, json.dumps(forged))
    retrain("smoke")
    assert len(tracking.find("smoke", Stage.BUILD_DATASET)) == 2


def test_a_store_with_a_bad_moment_is_asked_again(trainers, monkeypatch):
    from prefect.settings import PREFECT_TASK_DEFAULT_RETRY_DELAY_SECONDS, temporary_settings

    monkeypatch.setattr(building.build, "retry_delay_seconds", 0)
    pushes = iter([ConnectionResetError("store"), None])

    def push(dataset):
        error = next(pushes, None)
        if error:
            raise error

    monkeypatch.setattr(datasets, "push_dataset", push)
    from flows.build_dataset import build_dataset

    with temporary_settings({PREFECT_TASK_DEFAULT_RETRY_DELAY_SECONDS: 0}):
        assert build_dataset("smoke").name == "sessions"
    (run,) = tracking.find("smoke", "build_dataset")
    assert run.info.status == "FINISHED"


def test_a_retraining_that_died_is_closed_in_both_places(trainers):
    from prefect import flow
    from prefect.states import Running

    @flow(name="doomed")
    def doomed():
        return None

    with get_client(sync_client=True) as client:
        ghost = client.create_flow_run(doomed, state=Running())
        tags = {
            Tag.HOST: place(settings().state),
            Tag.STAGE: Stage.TRAIN_SFT,
            Tag.FINGERPRINT: "d" * 64,
            Tag.FLOW_RUN: str(ghost.id),
        }
        dead = tracking.client().create_run(tracking.experiment_id("smoke"), tags=tags)
        retrain("smoke")
        assert client.read_flow_run(ghost.id).state_name == "Crashed"
    assert tracking.client().get_run(dead.info.run_id).info.status == "KILLED"
