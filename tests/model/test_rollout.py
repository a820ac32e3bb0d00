import dataclasses

import numpy as np
import pytest
import torch

from model.config import SamplingConfig
from model.context import Context
from model.excerpts import Excerpt
from model.replay import explored, replay, store, transition
from model.rollout import rollout
from model.tokenizer import encode_texts
from model.trajectories import Exploration
from tests.model.toys import toy_bundle, toy_example

SAMPLING = SamplingConfig(points=5, temperature=1.0, max_trace=6)
TURNS = (3, 1, 2)


@pytest.fixture(scope="module")
def bundle():
    return toy_bundle()


@pytest.fixture(scope="module")
def examples():
    return [toy_example(turns, f"session-{turns}", targets=False) for turns in TURNS]


def sample(bundle, examples, sampling=SAMPLING, exploration=Exploration("cps", 0.7, 1, 2), **options):
    with torch.no_grad():
        return rollout(bundle, examples, sampling, seed=7, exploration=exploration, **options)


@pytest.mark.parametrize("kind", ["flow", "cps"])
@pytest.mark.parametrize(
    "changes", [{}, {"temperature": 0.7}, {"write_trace": False}, {"text_guidance": 3.0, "image_guidance": 2.0}]
)
def test_replay_gives_the_log_probabilities_of_the_rollout(bundle, examples, kind, changes):
    sampling = dataclasses.replace(SAMPLING, **changes)
    window = Exploration(kind, 0.6, 1, 2)
    chosen = sample(bundle, examples, sampling, window, group_size=2)
    excerpts = [Excerpt.whole(row, trajectory) for row, trajectory in enumerate(chosen)]
    noisy, done = explored(excerpts, sampling, window)
    stored = store(bundle, examples, excerpts, sampling, noisy, guided=sampling.text_guidance > 1)
    result = replay(bundle.model, stored, sampling)
    step = transition(stored, done, result.velocity, window)
    assert step.logprob.shape == (sum(TURNS) * 2 * window.size,)
    assert (step.logprob - done.logprobs).abs().max() < 1e-4
    if sampling.write_trace:
        assert (result.text_logprobs - stored.text_logprobs).abs().max() < 1e-4
        assert result.text_logprobs.min() < -0.5, "log-probabilities near 0 would prove nothing"
    else:
        assert len(result.text_logprobs) == 0


def test_every_session_runs_all_its_turns_and_no_more(bundle, examples):
    chosen = sample(bundle, examples, group_size=2)
    assert [len(t.turns) for t in chosen] == [3, 3, 1, 1, 2, 2]
    assert [len(t.images) for t in chosen] == [4, 4, 2, 2, 3, 3]
    assert [len(t.history) for t in chosen] == [3, 3, 1, 1, 2, 2]


def test_a_group_shares_its_first_noise_and_nothing_else(bundle, examples):
    first, second = sample(bundle, examples[:1], group_size=2, exploration=Exploration("cps", 0.7, 0, 2))
    assert torch.equal(first.turns[0].window.states[0], second.turns[0].window.states[0])
    assert not torch.equal(first.turns[0].window.following[0], second.turns[0].window.following[0])
    apart = sample(bundle, examples[:1], group_size=2, shared_noise=False, exploration=Exploration("cps", 0.7, 0, 2))
    assert not torch.equal(apart[0].turns[0].window.states[0], apart[1].turns[0].window.states[0])
    half = dataclasses.replace(SAMPLING, noise_scale=0.5)
    quiet, _ = sample(bundle, examples[:1], half, group_size=2, exploration=Exploration("cps", 0.7, 0, 2))
    assert torch.equal(quiet.turns[0].window.states[0], 0.5 * first.turns[0].window.states[0])


@pytest.mark.parametrize("exploration", [None, Exploration("flow", 0.7, 1, 2)], ids=["deterministic", "explores"])
@pytest.mark.parametrize("changes", [{"temperature": 0.0}, {}], ids=["greedy", "sampled"])
@pytest.mark.parametrize("shared", [False, True], ids=["own-noise", "shared-noise"])
def test_a_session_runs_alone_as_in_company(bundle, examples, exploration, changes, shared):
    sampling = dataclasses.replace(SAMPLING, **changes)
    together = sample(bundle, examples, sampling, exploration, group_size=2, shared_noise=shared)
    for i, example in enumerate(examples):
        alone = sample(bundle, [example], sampling, exploration, group_size=2, shared_noise=shared)
        for member, other in zip(alone, together[2 * i : 2 * i + 2], strict=True):
            assert [t.trace for t in member.turns] == [t.trace for t in other.turns]
            assert np.abs(np.stack(member.images).astype(int) - np.stack(other.images)).max() <= 1


def test_what_members_do_alike_is_done_once(bundle, examples, monkeypatch):
    drawn = []
    decode = type(bundle).decode
    monkeypatch.setattr(type(bundle), "decode", lambda self, x, grid: (drawn.append(len(x)), decode(self, x, grid))[1])
    greedy = dataclasses.replace(SAMPLING, temperature=0.0)
    group = sample(bundle, examples[:1], greedy, None, group_size=3)
    assert drawn == [1, 1, 1] and all(a is b for a, b in zip(group[0].turns, group[2].turns, strict=True))
    drawn.clear()
    sampled = sample(bundle, examples[:1], exploration=None, group_size=6)
    for turn, count in enumerate(drawn):
        deeds = {tuple(tuple(t.trace) for t in member.turns[: turn + 1]) for member in sampled}
        assert len(deeds) == count == len({id(member.turns[turn]) for member in sampled})
    assert 1 < drawn[0] <= drawn[1], "members differ, or this shows nothing"
    drawn.clear()
    sample(bundle, examples[:1], greedy, None, group_size=3, shared_noise=False)
    assert drawn == [3, 3, 3], "noise of their own sets members apart"


def test_known_intents_are_written_in_place_of_sampled_traces(bundle, examples):
    for trajectory in sample(bundle, examples, exploration=None, true_intents=True):
        turns = examples[trajectory.session].session.turns
        assert [turn.trace_text for turn in trajectory.turns] == [turn.intent or turn.instruction for turn in turns]


def test_the_same_seed_gives_the_same_bits(bundle, examples):
    one, other = sample(bundle, examples, group_size=2), sample(bundle, examples, group_size=2)
    for a, b in zip(one, other, strict=True):
        assert np.array_equal(np.stack(a.images), np.stack(b.images))
        assert [t.trace for t in a.turns] == [t.trace for t in b.turns]


def test_trajectories_without_exploration_cannot_be_replayed(bundle, examples):
    chosen = sample(bundle, examples, exploration=None)
    with pytest.raises(ValueError, match="stochastic"):
        explored([Excerpt.whole(0, chosen[0])], SAMPLING, Exploration("cps", 0.7, 0, 1))


def test_a_member_may_go_on_from_a_sibling_and_replays_what_it_really_had(bundle, examples):
    def second_follows_first(played):
        first = {t.session: k for k, t in enumerate(played) if t.member == 0}
        return [first[t.session] if t.member == 1 and len(t.turns) == 1 else k for k, t in enumerate(played)]

    window = Exploration("cps", 0.7, 1, 2)
    chosen = sample(bundle, examples, exploration=window, group_size=2, go_on=second_follows_first)
    for first, second in ((chosen[0], chosen[1]), (chosen[4], chosen[5])):
        (stub,) = second.stubs
        assert second.own == 1 and second.turns[0] is first.turns[0] and second.images[1] is first.images[1]
        assert (
            stub.member == 1 and len(stub.turns) == 1 and not torch.equal(stub.turns[0].latents, first.turns[0].latents)
        )
        assert not torch.equal(second.turns[1].latents, first.turns[1].latents), "it goes its own way from there"
        assert first.before == [0] * len(first.turns) and not first.stubs
        assert second.before == [0, 0, 1][: len(second.turns)] and stub.before[:1] == [1]
    assert not chosen[3].stubs, "a session of one turn has nothing to go on to"
    excerpts = [Excerpt.whole(row, piece) for row, t in enumerate(chosen) for piece in (*t.stubs, t)]
    learned = [(e.row, turn) for e in excerpts for turn in e.pictures]
    assert sorted(learned) == sorted((row, turn) for row, t in enumerate(chosen) for turn in range(len(t.turns)))
    noisy, done = explored(excerpts, SAMPLING, window)
    stored = store(bundle, examples, excerpts, SAMPLING, noisy)
    result = replay(bundle.model, stored, SAMPLING)
    assert (transition(stored, done, result.velocity, window).logprob - done.logprobs).abs().max() < 1e-4
    assert (result.text_logprobs - stored.text_logprobs).abs().max() < 1e-4


def test_the_true_history_holds_the_known_intents_and_not_what_was_written(bundle):
    example = toy_example(3, "true")
    greedy = dataclasses.replace(SAMPLING, temperature=0.0)
    (found,) = sample(bundle, [example], greedy, None, true_history=True)
    turns = example.session.turns
    told = [encode_texts(bundle.tokenizer, [t.instruction, t.intent]) for t in turns]
    context = Context(bundle.model, bundle.special)
    for turn, (instruction, intent) in enumerate(told):
        context.append_pictures(bundle.encode(example.images[turn : turn + 1]))
        context.append_text([instruction])
        written = context.select([0]).generate_text(greedy.max_trace, 0.0)
        assert written.texts() == [found.turns[turn].trace] != [intent]
        context.append_text([intent])
