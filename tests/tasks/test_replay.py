"""Replay: two runs of a session are told apart by the first thing that differs."""

from __future__ import annotations

import json

import pytest

from data.build import SessionsConfig, build
from model.config import EvaluationConfig, SamplingConfig
from model.evaluation import evaluate
from tasks.audit_report import AuditReport
from tasks.promotion import promote
from tasks.replay import difference, replay, run_again
from tasks.scores import Scores, SessionScore
from tasks.view import live
from tests.model.toys import toy_bundle
from tests.tasks.houses import build_house, family, sqlite_template, stand
from tests.tasks.scoresets import skilled

TURN = {"turn": 1, "edit_type": "color_alter", "IF": 1.0, "CC": 0.5, "trace": "paint the box red"}


def session(**changes) -> SessionScore:
    return SessionScore.model_validate({"id": "s", "turns": [TURN, TURN | {"turn": 2} | changes]})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"CC": 0.5 + 1e-8}, None),
        ({"IF": 0.0}, "turn 2: IF is 0.0, the record says 1.0"),
        ({"CC": None, "absent": {"CC": "judge_error"}}, "turn 2: CC is None"),
        ({"trace": "paint the ball red"}, "turn 2: another intent trace"),
    ],
)
def test_the_first_difference_is_named(changes, words):
    found = difference(session(), session(**changes))
    assert found == words or (words and words in found)


def test_a_missing_turn_is_named():
    assert "2 turns instead of 1" in difference(SessionScore.model_validate({"id": "s", "turns": [TURN]}), session())


def test_another_state_of_the_benchmark_is_not_replayed(tmp_path):
    house = build_house(tmp_path / "house", sqlite_template(tmp_path))
    promote(house.books, *stand(house, family(house), skilled(0.7)), reason="better")
    (house.root / "data" / "benchmark" / "tiny" / "train.jsonl").write_text("changed")
    report = AuditReport("edit-r2", "champion")
    replay(report, live(house.books, house.root, None), None, 2)
    assert [link.holds for link in report.links] == [False]
    assert "another state" in report.line


def test_sessions_run_again_in_the_company_in_which_they_were_recorded(tmp_path):
    """A batch of another size rounds otherwise, and a grey level that flips changes scores."""
    benchmark = build(SessionsConfig(train=0, validation=0, test=5, turns=(1, 2)), tmp_path / "bench", "benchmark")
    model = toy_bundle().save(tmp_path / "model")
    config = EvaluationConfig(SamplingConfig(points=3, max_trace=3), batch_size=2, strips=0, true_history=False)
    sheet = json.loads(evaluate(config, model, benchmark, tmp_path / "scores", lambda *_: None).read_text())
    named = {"profile": "tiny", "model_digest": "0", "benchmark": {"name": "benchmark", "digest": "0"}}
    scores = Scores.model_validate(sheet | named)
    again = run_again(model, benchmark, scores, {scores.sessions[2].id})
    assert list(again) == [session.id for session in scores.sessions[2:4]], "the whole batch of the session"
    assert [difference(session, again[session.id]) for session in scores.sessions[2:4]] == [None, None]
