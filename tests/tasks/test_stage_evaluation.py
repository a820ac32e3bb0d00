from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from data.errors import UserError
from mlflow_config.catalogue import describe
from mlflow_config.settings import Tag
from tasks import evaluation, models, tracking
from tasks.books import open_books
from tasks.canonical import sha256
from tasks.scores import read_scores
from tests.tasks.stages import Trainers, datasets_of, install, loaded, score_sheet


@pytest.fixture
def trainers(home, monkeypatch):
    made = Trainers()
    install(monkeypatch, made)
    return made


@pytest.fixture
def benchmark(tmp_path):
    return datasets_of(tmp_path)["benchmark"]


@pytest.fixture
def model(trainers, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_text("rl of sft of base")
    with tracking.stage(tracking.Spec("train_rl", "smoke", "a" * 64)) as run:
        made = models.log(run, folder, "rl", None, {})
        run.finish({"model_id": made.model_id})
    return made


def test_scores_are_tied_to_model_and_benchmark(trainers, benchmark, model):
    made = evaluation.evaluate.fn(loaded(), benchmark, model)
    sheet = made.scores()
    assert (sheet["profile"], sheet["model_digest"]) == ("smoke", model.digest)
    assert sheet["benchmark"] == {"name": "benchmark/smoke", "digest": benchmark.digest}
    read_scores(made.path())  # the gates can read it
    scored = tracking.client().get_logged_model(model.model_id).metrics
    (overall,) = [m for m in scored if m.key == "evaluation/IF"]
    assert (overall.value, overall.dataset_digest) == (pytest.approx(0.6), benchmark.digest)
    run = tracking.client().get_run(made.run_id)
    assert run.info.run_name == "evaluate rl" and run.data.tags[Tag.MODEL] == model.model_id
    assert run.data.metrics["evaluation/by_turn/2/CC/n"] == 12


def test_pictures_and_captions_are_in_mlflow(trainers, benchmark, model):
    made = evaluation.evaluate.fn(loaded(), benchmark, model)
    names = [file.path for file in tracking.client().list_artifacts(made.run_id, "images")]
    assert any("session" in name and name.endswith(".png") for name in names)
    content = json.loads(Path(tracking.client().download_artifacts(made.run_id, "strips.json")).read_text())
    assert "turns" in content["columns"] and "make it red" in content["data"][0][-1]


def test_an_evaluation_is_reused_until_its_stored_sheet_is_damaged(trainers, benchmark, model, home):
    first = evaluation.evaluate.fn(loaded(), benchmark, model)
    assert evaluation.evaluate.fn(loaded(), benchmark, model) == first
    first.path().write_text("{}")
    assert evaluation.evaluate.fn(loaded(), benchmark, model) == first, "a damaged copy is fetched again"
    assert trainers.calls == ["judge"]
    stored = Path(tracking.client().get_run(first.run_id).info.artifact_uri.removeprefix("file://"))
    (stored / "evaluation" / "scores.json").write_text("{}")
    first.path().write_text("{}")
    assert evaluation.evaluate.fn(loaded(), benchmark, model).run_id != first.run_id
    assert trainers.calls == ["judge", "judge"]


def forge(made, **changes):
    """What someone can do who may write to MLflow and to the disk, and holds no key: other scores, their digest with
    them."""
    sheet = json.loads(made.path().read_text()) | changes
    text = json.dumps(sheet, indent=1, sort_keys=True)
    folder = made.path().parent
    (folder / "scores.json").write_text(text)
    forged = dataclasses.replace(made, digest=sha256(text.encode()))
    shutil.copytree(folder, folder.parent / forged.digest[:12])
    tracking.client().log_artifact(made.run_id, str(folder / "scores.json"), "evaluation")
    tracking.client().set_tag(made.run_id, Tag.RESULT, json.dumps(dataclasses.asdict(forged)))
    return forged


def test_the_gates_do_not_see_scores_that_nobody_signed_for(trainers, benchmark, model, home):
    books = open_books()
    made = evaluation.evaluate.fn(loaded(), benchmark, model)
    assert made.proven(books, model.digest, benchmark.digest).means()["IF"]["mean"] == pytest.approx(0.6)
    forged = forge(made, sessions=score_sheet(1.0)["sessions"])
    assert read_scores(forged.path()).means()["IF"]["mean"] == 1.0
    with pytest.raises(UserError, match="what was signed is something else"):
        forged.proven(books, model.digest, benchmark.digest)
    with pytest.raises(UserError, match="not kept here"):
        dataclasses.replace(forged, note="0" * 64).proven(books, model.digest, benchmark.digest)
    again = evaluation.evaluate.fn(loaded(), benchmark, model)
    assert again.run_id != made.run_id, "they are not taken over either"
    assert trainers.calls == ["judge", "judge"]


def test_the_scores_of_one_model_do_not_pass_for_those_of_another(trainers, benchmark, model):
    made = evaluation.evaluate.fn(loaded(), benchmark, model)
    for digests in (("f" * 64, benchmark.digest), (model.digest, "f" * 32 + ".dir")):
        with pytest.raises(UserError, match="something else"):
            made.proven(open_books(), *digests)


def test_scores_are_fetched_where_no_copy_lies(trainers, benchmark, model, home):
    made = evaluation.evaluate.fn(loaded(), benchmark, model)
    shutil.rmtree(home / "scores")
    assert made.scores()["model_digest"] == model.digest
    assert (made.path().parent / "strips" / "s0.png").exists()


def test_absent_scores_are_counted_and_not_filled_in():
    summary = {"IF": {"mean": 0.5, "n": 4}, "cm": {"GA": {"mean": None, "n": 0}}, "note": "text"}
    assert dict(evaluation.summary_metrics(summary)) == {
        "evaluation/IF": 0.5,
        "evaluation/IF/n": 4.0,
        "evaluation/cm/GA/n": 0.0,
    }


def test_every_metric_of_a_sheet_is_in_the_catalogue():
    names = dict(evaluation.summary_metrics(score_sheet(0.5)["summary"]))
    assert [name for name in names if describe(name) is None] == []
