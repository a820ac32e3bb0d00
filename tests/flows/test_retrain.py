"""The whole chain with stand-ins for builds, trainers and judge; flows, tracking, lineage, gates, ledger are real."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from data.errors import UserError
from flows import dispatch
from flows.promote import promote
from flows.retrain import retrain
from mlflow_config.settings import RETRAIN, Stage, Tag, stage_tag
from tasks import building, datasets, parameters, promoting, tracking
from tasks.books import open_books
from tasks.locks import place
from tasks.promotion import recall, rollback
from tasks.settings import settings


def parents():
    return tracking.find("smoke", RETRAIN)


def flow_runs(name):
    with get_client(sync_client=True) as client:
        return [run.state_name for run in client.read_flow_runs() if run.name == name]


def test_data_to_promotion_and_then_nothing_left_to_do(trainers, monkeypatch):
    def no_server(**_):
        raise ConnectionError("the server went away")

    monkeypatch.setattr("prefect.artifacts.create_markdown_artifact", no_server)  # a page less, and nothing else
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


def test_a_retraining_leaves_a_rollback_alone_and_does_not_fail(trainers, monkeypatch):
    first = retrain("smoke")
    monkeypatch.setattr(parameters, "load", other_steps)
    second = retrain("smoke")
    assert (first.promotion.verdict, second.promotion.verdict) == ("promoted", "promoted")
    books = open_books(alias=first.promotion.alias)
    rollback(books, "worse in practice")
    third = retrain("smoke")
    assert third.promotion.verdict == "rolled back" and not third.promotion.in_use
    assert "worse in practice" in third.promotion.reasons[0] and "edit-r2 approve" in third.promotion.reasons[1]
    assert books.registry.alias(books.alias) == first.promotion.version
    assert {run.info.status for run in parents()} == {"FINISHED"}
    assert len(books.ledger.chain()) == 3
    assert third.run_id == second.run_id, "nothing was trained again, and yet the verdict is another one"
    run = tracking.client().get_run(third.run_id)
    assert tracking.result(run)["promotion"]["verdict"] == "rolled back"
    report = Path(tracking.client().download_artifacts(third.run_id, "report.html"))
    assert "made of weights that were rolled back" in report.read_text()
    recall(books, second.promotion.version, "a session was withdrawn")
    assert retrain("smoke").promotion.verdict == "recalled", "no signature brings these back"
    assert {run.info.status for run in parents()} == {"FINISHED"}


def test_the_champion_is_evaluated_where_evaluations_run_and_a_decision_only_looks_its_scores_up(trainers, monkeypatch):
    first = retrain("smoke").promotion
    chosen = other_judging("smoke")
    benchmark = building.current(chosen, "benchmark")
    monkeypatch.setattr(parameters, "load", other_judging)
    asked = []

    def watched(flow, name, **arguments):
        asked.append((name, arguments["model"], arguments.get("label")))
        return dispatch.stage(flow, name, **arguments)

    monkeypatch.setattr("flows.promote.stage", watched)
    trainers.calls.clear()
    second = retrain("smoke")
    assert second.promotion.verdict == "promoted"
    assert asked == [(Stage.EVALUATE, first.model_id, "champion")] and trainers.calls.count("judge") == 4
    rl, sft = second.evaluations[-1], second.evaluations[-2]
    rollback(open_books(alias=first.alias), "worse in practice")
    assert promoting.decide.fn(chosen, benchmark, rl, sft).champion == first.version
    for run in tracking.find("smoke", Stage.EVALUATE):
        if run.data.tags[Tag.MODEL] == first.model_id:
            tracking.client().set_terminated(run.info.run_id, "FAILED")
    trainers.calls.clear()
    with pytest.raises(UserError, match=f"champion, model {first.model_id}, has no scores on benchmark/smoke"):
        promoting.decide.fn(chosen, benchmark, rl, sft)
    assert trainers.calls == []


def other_judging(profile, load=parameters.load):
    """Another model under another evaluation, of which the champion has no scores yet."""
    found = other_steps(profile, load)
    return replace(found, evaluation=replace(found.evaluation, seed=found.evaluation.seed + 1))


def other_steps(profile, load=parameters.load):
    """The same profile with one step of base training more: other weights all the way."""
    found = load(profile)
    steps = replace(found.base.optimisation, steps=found.base.optimisation.steps + 1)
    return replace(found, base=replace(found.base, optimisation=steps))


def test_a_mistake_in_the_policy_shows_before_anything_is_trained(trainers, monkeypatch):
    def mistaken(_profile):
        raise UserError("gates.yaml: alpha for profile smoke", "Correct the policy")

    monkeypatch.setattr(promoting, "load_policy", mistaken)
    with pytest.raises(UserError, match=r"gates\.yaml"):
        retrain("smoke")
    with pytest.raises(UserError, match=r"gates\.yaml"):
        promote("smoke", "m-1")
    assert trainers.calls == [] and parents() == []


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
