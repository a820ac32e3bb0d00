from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from data.errors import UserError
from mlflow_config.settings import Tag
from tasks import models, tracking, training
from tests.tasks.stages import Trainers, datasets_of, install, loaded


@pytest.fixture
def trainers(home, tmp_path, monkeypatch):
    made = Trainers()
    install(monkeypatch, made)
    return made


@pytest.fixture
def sessions(tmp_path):
    return datasets_of(tmp_path)["sessions"]


def test_three_stages_make_three_models_each_the_parent_of_the_next(trainers, sessions):
    chosen = loaded()
    base = training.pretrain_base.fn(chosen)
    sft = training.train_sft.fn(chosen, sessions, base)
    rl = training.train_rl.fn(chosen, sessions, sft)
    assert trainers.calls == ["vae", "base", "sft", "rl"]
    assert [m.name for m in (base, sft, rl)] == ["base", "sft", "rl"]
    assert [m.parent for m in (base, sft, rl)] == [None, base.model_id, sft.model_id]
    run = tracking.client().get_run(rl.run_id)
    assert run.inputs.model_inputs[0].model_id == sft.model_id
    assert run.inputs.dataset_inputs[0].dataset.digest == sessions.digest
    assert run.data.tags[Tag.STAGE] == "train_rl" and run.info.run_name == "train_rl"
    assert run.data.params["rl.group_size"] == str(chosen.rl.group_size)
    assert (models.fetch(rl.model_id) / "model.safetensors").read_text().startswith("rl of sft of base")


def test_nothing_is_trained_twice_and_a_parameter_retrains_only_what_depends_on_it(trainers, sessions):
    chosen = loaded()
    base = training.pretrain_base.fn(chosen)
    sft = training.train_sft.fn(chosen, sessions, base)
    trainers.calls.clear()
    assert training.pretrain_base.fn(chosen) == base
    assert training.train_sft.fn(chosen, sessions, base) == sft
    assert trainers.calls == []
    other = replace(chosen, sft=replace(chosen.sft, noise_draws=chosen.sft.noise_draws + 1))
    assert training.pretrain_base.fn(other) == base
    assert training.train_sft.fn(other, sessions, base).run_id != sft.run_id
    assert trainers.calls == ["sft"]


def test_a_broken_training_is_failed_and_its_retry_uses_what_was_done(trainers):
    trainers.broken = "base"
    with pytest.raises(UserError, match="not finite"):
        training.pretrain_base.fn(loaded())
    (failed,) = tracking.find("smoke", "pretrain_base")
    assert failed.info.status == "FAILED" and "not finite" in failed.data.tags[Tag.FAILURE]
    trainers.broken = None
    made = training.pretrain_base.fn(loaded())
    assert made.run_id == failed.info.run_id
    assert trainers.calls == ["vae", "base", "base"]
    steps = [m.step for m in tracking.client().get_metric_history(made.run_id, "base/loss")]
    assert steps == [0, 1, 2, 3]


def test_a_model_that_could_not_be_signed_for_at_once_is_stored_once(trainers, monkeypatch):
    def fail(*_):
        raise ConnectionError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(training, "_attest", fail)
        with pytest.raises(ConnectionError):
            training.pretrain_base.fn(loaded())
    made = training.pretrain_base.fn(loaded())
    (run,) = tracking.find("smoke", "pretrain_base")
    (model,) = tracking.client().search_logged_models([run.info.experiment_id])
    assert (model.model_id, made.run_id) == (made.model_id, run.info.run_id)
    assert [output.model_id for output in tracking.client().get_run(made.run_id).outputs.model_outputs] == [
        made.model_id
    ]


@pytest.mark.parametrize("key", ["checkpoint", "start"])
def test_an_autoencoder_that_came_ready_decides_which_base_it_is(trainers, tmp_path, key):
    chosen = loaded()
    named = replace(chosen, vae=replace(chosen.vae, **{key: str(tmp_path / "ready")}))
    with pytest.raises(UserError, match=f"ready holds no autoencoder.*vae.{key}"):
        training.base_plan(named)
    latents = tmp_path / "ready" / "vae"
    latents.mkdir(parents=True)
    (latents / "config.json").write_text("{}")
    base = training.pretrain_base.fn(named)
    recorded = tracking.client().get_run(base.run_id).data.params
    assert recorded[f"start.{tmp_path}/ready"] == models.digest(tmp_path / "ready")
    (latents / "config.json").write_text("{ }")
    assert training.pretrain_base.fn(named).run_id != base.run_id


def test_a_stored_model_that_was_changed_is_trained_again(trainers):
    base = training.pretrain_base.fn(loaded())
    location = tracking.client().get_logged_model(base.model_id).artifact_location
    (Path(location) / "model.safetensors").write_text("other weights")
    again = training.pretrain_base.fn(loaded())
    assert again.model_id != base.model_id and again.digest == base.digest and again.run_id != base.run_id


def test_a_stage_finds_its_predecessor_or_says_what_to_run(trainers, sessions):
    chosen = loaded()
    with pytest.raises(UserError, match="edit-r2 pretrain-base --profile smoke"):
        training.finished_sft(chosen, sessions)
    base = training.pretrain_base.fn(chosen)
    assert training.finished(training.base_plan(chosen), "smoke") == base
    with pytest.raises(UserError, match="edit-r2 train-sft --profile smoke"):
        training.finished_sft(chosen, sessions)


def test_phases_share_one_scale_of_progress():
    seen = []
    report = training.part(lambda step, metrics: seen.append((step, metrics)), "vae", 0.5, 1.0)
    report(3, {"loss": 2.0, "base/flow": 1.0, "progress": 0.5})
    assert seen == [(3, {"vae/loss": 2.0, "base/flow": 1.0, "progress": 0.75})]


def test_an_alert_becomes_a_tag_and_drawings_become_artifacts(tmp_path):
    class Run:
        folder, steps, tags, files = tmp_path, [], [], []

        def report(self, step, metrics):
            self.steps.append((step, metrics))

        def tag(self, tags):
            self.tags.append(tags)

        def artifact(self, path, folder):
            self.files.append((path.name, folder))

    run, shown = Run(), []
    report = training._reporter(run, lambda share, text: shown.append((share, text)))
    drawn = tmp_path / "model.samples"
    drawn.mkdir()
    for step, alert in enumerate((0.0, 1.0, 1.0)):
        (drawn / f"iteration-{step}.png").write_bytes(b"png")
        report(step, {"rl/reward": 0.5, "rl/alert": alert, "progress": step / 2})
    assert run.tags == [{Tag.ALERT: "step 1: the reward rises while the held-out score falls"}]
    assert run.files == [(f"iteration-{step}.png", "samples") for step in range(3)]
    assert shown[-1] == (1.0, "rl/reward 0.5") and run.steps[0] == (0, {"rl/reward": 0.5, "rl/alert": 0.0})
