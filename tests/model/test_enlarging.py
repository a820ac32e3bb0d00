"""A model that draws larger pictures than its sessions hold, as BAGEL does with those of a rendered world."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data.build import BenchmarkConfig, build
from data.loader import SessionFolder
from data.parameters import read_profile, section
from data.scenes import SMALL, TINY
from model import learning
from model.bundle import load
from model.config import EvaluationConfig, Optimisation, RlConfig, SamplingConfig, SupervisedConfig
from model.evaluation import evaluate, run_sessions
from model.images import at_size
from model.judges.exact import judge_many
from model.pipeline import EditPipeline
from model.rl import train_rl
from model.rollout import rollout
from model.sft import train_sft
from tests.model.ranks import on_ranks
from tests.model.toys import TOY_RL, TOY_SFT, WORDS, toy_bundle, toy_example, toy_sessions

SIDE = 2 * TINY.image_size
FAST = SamplingConfig(points=3, max_trace=4)
ONE_STEP = Optimisation(steps=1, batch_size=3, learning_rate=1e-3, warmup=0, ema_decay=0.0, checkpoint_every=1)


@pytest.fixture(scope="module")
def bundle():
    return toy_bundle(side=SIDE)


@pytest.fixture(scope="module")
def model(bundle, tmp_path_factory):
    return bundle.save(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    return build(BenchmarkConfig(test=4, turns=(2, 3)), tmp_path_factory.mktemp("data") / "benchmark", "benchmark")


def test_it_goes_on_from_what_it_drew_and_shows_it_at_the_size_of_the_source(bundle):
    example = toy_example(2, "session", targets=False)
    with torch.no_grad():
        (found,) = rollout(bundle, [example], FAST, seed=0)
    assert {image.shape for image in found.images} == {example.images[0].shape}
    assert np.array_equal(found.images[0], example.images[0])
    drawn = bundle.decode(found.turns[0].latents[None], (6, 6))
    assert drawn.shape == (1, SIDE, SIDE, 3)
    assert torch.equal(found.history[1].latents, bundle.encode(drawn).latents)
    assert torch.equal(found.history[1].patches, bundle.encode(drawn).patches)


def test_every_turn_is_judged_at_the_size_of_the_world(model, benchmark, tmp_path):
    config = EvaluationConfig(sampling=FAST, batch_size=3, strips=1)
    sheet = json.loads(evaluate(config, model, benchmark, tmp_path / "scores", lambda *_: None).read_text())
    turns = [turn for session in sheet["sessions"] for turn in session["turns"]]
    assert sheet["summary"]["success"]["n"] == sheet["summary"]["ceiling"]["success"]["n"] == len(turns)
    assert not any("judge_error" in turn["absent"].values() for turn in turns)
    examples = [SessionFolder(benchmark, "test", targets=False)[0]]
    ((_, trajectory, _),) = run_sessions(load(model), examples, config)
    assert {image.shape for image in trajectory.images} == {examples[0].images[0].shape}


@pytest.mark.parametrize(("world", "side"), [(TINY, SIDE), pytest.param(SMALL, 512, marks=pytest.mark.slow)])
def test_enlarging_and_back_costs_less_than_a_judge_tolerates(world, side, tmp_path):
    config = BenchmarkConfig(world=world.name, test=3, turns=(2, 4))
    examples = list(SessionFolder(build(config, tmp_path / "benchmark", "benchmark"), "test"))
    there = [at_size(example.images[1:], (side, side)) for example in examples]
    back = [at_size(images, (world.image_size, world.image_size)) for images in there]
    stacks = [np.concatenate((e.images[:1], images)) for e, images in zip(examples, back, strict=True)]
    listed = ([example.session for example in examples] * 2, [*stacks, *(example.images for example in examples)])
    scores = judge_many(*listed)
    for found, true in zip(scores[: len(stacks)], scores[len(stacks) :], strict=True):
        assert found.success == true.success
        for turn, other in zip(found.turns, true.turns, strict=True):
            assert turn | {"CC": 0} == other | {"CC": 0}
            assert turn["CC"] == pytest.approx(other["CC"], abs=0.005)


def test_rl_replays_what_it_sampled(model, tmp_path, monkeypatch):
    seen, sizes, checked = [], set(), []
    remember, check = learning._remember, learning.check_on_policy

    def remembered(model, result, chunk, experience):
        sizes.update(image.shape for one in experience.trajectories for image in one.images)
        return remember(model, result, chunk, experience)

    def watched(off, *, exact):
        checked.append(exact and sum(len(found) for chunk in off for found in chunk.values()))
        check(off, exact=exact)

    monkeypatch.setattr("model.learning._remember", remembered)
    monkeypatch.setattr("model.learning.check_on_policy", watched)
    config = dataclasses.replace(TOY_RL, samples_every=1, optimisation=ONE_STEP)
    sessions = toy_sessions(tmp_path)
    train_rl(config, model, sessions, tmp_path / "rl", lambda _, metrics: seen.append(metrics))
    assert any(checked) and sizes == {(TINY.image_size, TINY.image_size, 3)}
    assert len(seen) == 1 and "rl/reward" in seen[0] and seen[0]["rl/IF"] >= 0
    assert (tmp_path / "rl.samples/iteration-00000.png").is_file()


def test_sft_learns_from_histories_at_the_size_that_is_drawn(model, tmp_path, monkeypatch):
    sizes = set()
    encode = type(load(model)).encode

    def watched(self, images):
        sizes.add(images.shape[1])
        return encode(self, images)

    monkeypatch.setattr("model.bundle.Bundle.encode", watched)
    corruption = dataclasses.replace(TOY_SFT.corruption, share=1.0, refresh=1)
    config = dataclasses.replace(TOY_SFT, corruption=corruption, optimisation=ONE_STEP)
    train_sft(config, model, toy_sessions(tmp_path), tmp_path / "sft", lambda *_: None)
    assert sizes == {TINY.image_size, SIDE}


@pytest.mark.slow
def test_the_profile_of_the_official_checkpoint_runs_in_small(bundle, benchmark, tmp_path):
    """All its settings but the numbers of steps, sessions and tokens, on weights of its precision, by two ranks."""
    profile = read_profile("bagel-7b", Path(__file__).parents[2] / "params.yaml")
    base = bundle.save(tmp_path / "stored")
    model, sessions = load(base, "bfloat16").save(tmp_path / "base"), toy_sessions(tmp_path)
    sft, rl = section(profile, "sft", SupervisedConfig), section(profile, "rl", RlConfig)
    steps = {"steps": 1, "checkpoint_every": 1}
    of_sft = dataclasses.replace(sft.optimisation, batch_size=3, **steps)
    of_rl = dataclasses.replace(rl.optimisation, **steps)
    sft = dataclasses.replace(sft, optimisation=of_sft)
    sampling = dataclasses.replace(rl.sampling, max_trace=4)
    rl = dataclasses.replace(rl, sessions=2, sampling=sampling, minimum_spread=0.0, optimisation=of_rl)
    on_ranks(2, train_sft, sft, model, sessions, tmp_path / "sft", print)
    on_ranks(2, train_rl, rl, tmp_path / "sft", sessions, tmp_path / "rl", print)
    before, tuned, trained = (load(folder).model.state_dict() for folder in (model, tmp_path / "sft", tmp_path / "rl"))
    assert {value.dtype for value in trained.values()} == {torch.bfloat16}
    for one, other in ((before, tuned), (tuned, trained)):
        assert any(not torch.equal(value, other[name]) for name, value in one.items())
    config = section(profile, "evaluation", EvaluationConfig)
    config = dataclasses.replace(config, sessions=2, sampling=dataclasses.replace(sampling, points=3))
    sheet = json.loads(evaluate(config, tmp_path / "rl", benchmark, tmp_path / "scores", lambda *_: None).read_text())
    assert sheet["summary"]["success"]["n"] == sum(len(session["turns"]) for session in sheet["sessions"]) > 0


def test_a_user_gets_pictures_as_they_were_drawn(model):
    image = toy_example(1, "session").images[0]
    made = EditPipeline.from_pretrained(model)(image, [WORDS[0], WORDS[1]], points=3, trace_tokens=4)
    assert [picture.size for picture in made.images] == [(SIDE, SIDE)] * 2
