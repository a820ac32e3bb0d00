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
from tasks.documents import FolderShelf
from tasks.failures import ServiceError
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


@pytest.mark.parametrize("cut", ["tasks.witness.witness", "tasks.recording.ActiveRun.finish"])
def test_an_evaluation_that_was_cut_off_shows_its_pictures_once(trainers, benchmark, model, monkeypatch, cut):
    def fail(*_):
        raise ConnectionError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(cut, fail)
        with pytest.raises(ConnectionError):
            evaluation.evaluate.fn(loaded(), benchmark, model)
    made = evaluation.evaluate.fn(loaded(), benchmark, model)
    pictures = [file.path for file in tracking.client().list_artifacts(made.run_id, "images") if "s0" in file.path]
    assert len({path for path in pictures if path.endswith(".png")}) == 1
    content = json.loads(Path(tracking.client().download_artifacts(made.run_id, "strips.json")).read_text())
    assert len(content["data"]) == 1 and proven(made, model, benchmark)
    assert len(tracking.client().get_metric_history(made.run_id, "evaluation/IF")) == 1


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


def enter(made, **result):
    """What someone can do who may write to MLflow and holds no key: let a finished run hand on something else."""
    tracking.client().set_tag(made.run_id, Tag.RESULT, json.dumps(dataclasses.asdict(made) | result))


def proven(made, model, benchmark):
    wanted = evaluation.spec(loaded(), benchmark, model)
    return made.proven(open_books(), wanted, model.digest, benchmark.digest)


def test_the_gates_do_not_see_scores_that_nobody_signed_for(trainers, benchmark, model, home):
    made = evaluation.evaluate.fn(loaded(), benchmark, model)
    assert proven(made, model, benchmark).means()["IF"]["mean"] == pytest.approx(0.6)
    text = json.dumps(json.loads(made.path().read_text()) | {"sessions": score_sheet(1.0)["sessions"]})
    forged = dataclasses.replace(made, digest=sha256(text.encode()))
    shutil.copytree(made.path().parent, home / "scores" / forged.digest[:12])
    (home / "scores" / forged.digest[:12] / "scores.json").write_text(text)
    assert read_scores(forged.path()).means()["IF"]["mean"] == 1.0, "that is what the run would hand on"
    with pytest.raises(UserError, match="another sheet was signed"):
        proven(forged, model, benchmark)
    with pytest.raises(UserError, match="not kept here"):
        proven(dataclasses.replace(forged, note="0" * 64), model, benchmark)
    enter(forged)
    assert evaluation.evaluate.fn(loaded(), benchmark, model).run_id != made.run_id, "it is not taken over either"
    assert trainers.calls == ["judge", "judge"]


def test_the_scores_of_one_evaluation_do_not_pass_for_those_of_another(trainers, benchmark, model):
    made = evaluation.evaluate.fn(loaded(), benchmark, model)
    other_model = dataclasses.replace(model, digest="f" * 64)
    other_benchmark = dataclasses.replace(benchmark, digest="f" * 32 + ".dir")
    parameters = loaded()
    luckier = dataclasses.replace(parameters, evaluation=dataclasses.replace(parameters.evaluation, seed=7))
    for arguments in ((other_model, benchmark), (model, other_benchmark)):
        with pytest.raises(UserError, match="something else"):
            proven(made, *arguments)
    with pytest.raises(UserError, match="something else"):
        made.proven(open_books(), evaluation.spec(luckier, benchmark, model), model.digest, benchmark.digest)


@pytest.mark.parametrize("name", ["../keys", "", "../runs", 5, None, "a\0b", "x" * 5000, "0" * 63 + "/"])
def test_what_is_no_digest_names_no_folder(trainers, benchmark, model, home, name):
    made = evaluation.evaluate.fn(loaded(), benchmark, model)
    open_books()
    before = sorted(path.name for path in (home / "keys").iterdir())
    for key in ("digest", "note"):
        enter(made, **{key: name})
        again = evaluation.evaluate.fn(loaded(), benchmark, model)
        assert again.digest == made.digest and again.run_id != made.run_id
        tracking.client().set_tag(again.run_id, Tag.RESULT, "[1]")
    assert sorted(path.name for path in (home / "keys").iterdir()) == before


def test_a_model_whose_tags_were_changed_is_not_scored(trainers, benchmark, model):
    with pytest.raises(UserError, match="which is not"):
        evaluation.evaluate.fn(loaded(), benchmark, dataclasses.replace(model, digest="f" * 64))
    tracking.client().set_logged_model_tags(model.model_id, {str(Tag.DIGEST): "../keys"})
    with pytest.raises(UserError, match="the digest of model"):
        models.record(model.model_id)


def test_a_shelf_that_does_not_answer_is_no_forgery(trainers, benchmark, model, monkeypatch):
    made = evaluation.evaluate.fn(loaded(), benchmark, model)

    def silent(_shelf, _digest):
        raise ServiceError("the store does not answer", "Start it")

    monkeypatch.setattr(FolderShelf, "get", silent)
    with pytest.raises(ServiceError):
        evaluation.evaluate.fn(loaded(), benchmark, model)
    with pytest.raises(ServiceError):
        proven(made, model, benchmark)
    assert trainers.calls == ["judge"]


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
