"""What the variants of the results table need of the trainers: sessions cut short, and no intent traces."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from data.build import SessionsConfig, build
from data.loader import Lesson, SessionFolder
from model.bundle import load
from model.judges.exact import judge_many
from model.rl import train_rl
from model.sft import train_sft
from model.supervised import SupervisedConfig
from model.taught import TaughtSessions
from tests.model.test_rl import CONFIG

ONE = dataclasses.replace(CONFIG.optimisation, steps=1)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    config = SessionsConfig(train=6, validation=0, turns=(2, 3))
    return build(config, tmp_path_factory.mktemp("data") / "sessions", "sessions")


def test_a_session_cut_short_is_judged_as_its_first_turns(sessions):
    for whole in SessionFolder(sessions, "train"):
        cut = whole.first(1)
        assert len(cut.session.turns) == 1 and len(cut.images) == 2
        (score,) = judge_many([cut.session], [cut.images])
        (of_whole,) = judge_many([whole.session], [np.asarray(whole.images)])
        assert score.turns == of_whole.turns[:1]
        assert whole.first(None) is whole and whole.first(9) is whole
    practice = SessionFolder(sessions, "train", targets=False)[0].first(1)
    assert len(practice.images) == 1 and len(practice.session.turns) == 1


def test_with_few_labelled_sessions_only_the_first_of_the_folder_are_ever_drawn(parent, sessions):
    batches = TaughtSessions(load(parent), sessions, 3, 8, 0, "test")
    first = {Lesson.of(batches.sessions[index]).instructions for index in range(3)}
    drawn = {lesson.instructions for step in range(20) for lesson in batches(step)[0]}
    assert len(batches.sessions) > 3 and drawn == first
    random = np.random.default_rng(0)
    assert {batches.any(random).instructions for _ in range(50)} == first


def test_encoded_sessions_stay_as_long_as_there_is_room(parent, sessions, monkeypatch):
    bundle, encoded = load(parent), []
    whole = TaughtSessions(bundle, sessions, None, 3, 0, "test")
    encode = type(bundle).encode
    monkeypatch.setattr("model.bundle.Bundle.encode", lambda *of: encoded.append(1) or encode(*of))
    drawn = [whole(step) for step in range(8)]
    assert len(encoded) == len(whole.kept) == 6
    sizes = [lesson.images.nbytes + table.nbytes for lesson, table in whole.kept.values()]
    room = sum(sizes) // 2
    monkeypatch.setattr("model.taught.ROOM", room)
    little, encoded[:] = TaughtSessions(bundle, sessions, None, 3, 0, "test"), []
    for step, (lessons, tables) in enumerate(drawn):
        again, others = little(step)
        assert [lesson.instructions for lesson in again] == [lesson.instructions for lesson in lessons]
        assert all(torch.equal(one.latents, other.latents) for one, other in zip(tables, others, strict=True))
    held = sum(lesson.images.nbytes + table.nbytes for lesson, table in little.kept.values())
    assert room - max(sizes) <= held <= room and little.room == room - held
    assert len(encoded) > 6


def test_rl_on_first_turns_meets_no_other(parent, sessions, tmp_path):
    seen = []
    config = dataclasses.replace(CONFIG, max_turns=1, optimisation=ONE)
    train_rl(config, parent, sessions, tmp_path / "rl", lambda step, metrics: seen.append(metrics))
    assert "rl/IF_turn_1" in seen[0] and "rl/IF_turn_2" not in seen[0]


def test_sft_and_rl_without_traces_learn_pictures_alone(parent, sessions, tmp_path):
    seen = []

    def report(_step, metrics):
        seen.append(metrics)

    sft = SupervisedConfig(noise_draws=2, write_trace=False, optimisation=dataclasses.replace(ONE, batch_size=3))
    tuned = train_sft(sft, parent, sessions, tmp_path / "sft", report)
    assert seen[0]["sft/flow_loss"] > 0 and not any("trace" in name for name in seen[0])
    sampling = dataclasses.replace(CONFIG.sampling, write_trace=False)
    config = dataclasses.replace(CONFIG, policies=("image",), sampling=sampling, optimisation=ONE)
    trained = train_rl(config, tuned, sessions, tmp_path / "rl", report)
    assert seen[1]["rl/trace_length"] == 0.0 and np.isfinite(seen[1]["rl/reward"])
    before, after = (_weights(folder) for folder in (tuned, trained))
    assert torch.equal(before["lm_head.weight"], after["lm_head.weight"])
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def _weights(folder):
    from safetensors.torch import load_file

    return {
        name.removeprefix("language_model."): value for name, value in load_file(folder / "model.safetensors").items()
    }
