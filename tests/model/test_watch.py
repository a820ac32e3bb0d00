import logging
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from data.build import SessionsConfig, build
from model import rl, watch
from model.config import Optimisation, RlConfig, SamplingConfig
from model.watch import Watch, parting
from tests.model.toys import toy_bundle

CONFIG = RlConfig(
    sessions=2,
    group_size=2,
    sampling=SamplingConfig(points=4, temperature=1.0, max_trace=3),
    window_range=(0, 2),
    kl="none",
    alert_every=2,
    alert_sessions=2,
    alert_window=2,
    samples_every=3,
    optimisation=Optimisation(
        steps=4, learning_rate=1e-3, warmup=0, weight_decay=0.0, ema_decay=0.0, checkpoint_every=1
    ),
)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    config = SessionsConfig(train=2, practice=3, validation=3, turns=(1, 2), practice_turns=(1, 2))
    return build(config, tmp_path_factory.mktemp("data") / "sessions", "sessions")


@pytest.mark.parametrize(
    ("rewards", "scores", "parts"),
    [
        ([0.5, 0.6, 0.7], [0.8, 0.75, 0.7], True),
        ([0.5, 0.6, 0.7], [0.8, 0.81, 0.79], False),  # within the noise
        ([0.7, 0.6, 0.5], [0.8, 0.7, 0.6], False),  # both fall: no reward is hacked
        ([0.5, 0.6, 0.7], [0.6, 0.7, 0.8], False),
        ([0.9, 0.5, 0.6, 0.7], [0.1, 0.8, 0.75, 0.7], True),  # only the last three looks count
        ([0.5, 0.6], [0.8, 0.7], False),  # too few
    ],
)
def test_alert_by_hand(rewards, scores, parts):
    assert parting(rewards, scores, window=3, fall=0.05) is parts


def test_a_run_looks_draws_and_resumes_with_what_it_noted(sessions, tmp_path):
    parent = toy_bundle().save(tmp_path / "parent")

    def train(folder, stop_after=None):
        seen = []

        def report(step, metrics):
            seen.append(metrics)
            if step == stop_after:
                raise KeyboardInterrupt

        rl.train_rl(CONFIG, parent, sessions, folder, report)
        return seen

    seen = train(tmp_path / "whole")
    assert ["rl/validation_IF" in metrics for metrics in seen] == [True, False, True, False]
    assert seen[2]["rl/alert"] in (0.0, 1.0) and 0 <= seen[2]["rl/validation_session_success"] <= 1
    pictures = sorted((tmp_path / "whole.samples").iterdir())
    assert [path.name for path in pictures] == ["iteration-00000.png", "iteration-00003.png"]
    assert np.asarray(Image.open(pictures[0])).std() > 0
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", stop_after=1)
    again = train(tmp_path / "cut")
    assert [metrics["rl/alert"] for metrics in again if "rl/alert" in metrics] == [seen[2]["rl/alert"]]


def test_an_alert_warns_and_may_stop_the_run(sessions, tmp_path, monkeypatch, caplog):
    falling = iter([0.9, 0.5])
    monkeypatch.setattr(watch, "held_out", lambda *_: {"IF": next(falling)})
    notes = {}
    rising = Watch(toy_bundle(), sessions, CONFIG, notes)
    with caplog.at_level(logging.WARNING):
        found = [rising.look(step, 0.1 * step) for step in range(3)]
    assert found[0] == {"validation_IF": 0.9, "alert": 0.0} and found[1] == {} and found[2]["alert"] == 1.0
    assert "the held-out score falls (0.900 to 0.500)" in caplog.text
    assert notes["watch"]["rewards"] == pytest.approx([0.0, 0.15]), "the mean reward since the look before"
    monkeypatch.setattr(watch, "held_out", lambda *_: {"IF": 0.5})
    monkeypatch.setattr(watch, "parting", lambda *_: True)
    seen = []
    parent = toy_bundle().save(tmp_path / "parent")
    stopping = replace(CONFIG, stop_on_alert=True, samples_every=0)
    folder = rl.train_rl(stopping, parent, sessions, tmp_path / "stopped", lambda step, metrics: seen.append(step))
    assert seen == [0] and (folder / "config.json").is_file() and not (tmp_path / "stopped.samples").exists()


def test_without_validation_there_is_nothing_to_see(tmp_path):
    folder = build(SessionsConfig(train=1, validation=0), tmp_path / "sessions", "sessions")
    assert Watch(toy_bundle(), folder, CONFIG, {}).look(0, 0.5) == {}
