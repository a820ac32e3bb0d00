"""What the settings of RL make of judged turns: who is compared with whom, who teaches, where noise is drawn."""

import dataclasses

import numpy as np
import pytest
import torch

from model import experience, rl
from model.bundle import load
from model.config import RlConfig, SamplingConfig
from model.experience import compare, draw_window, explore, summarise
from model.judges import Absence, SessionScores
from model.trainer import numpy_generator
from model.trajectories import Exploration, Trajectory
from tests.model.toys import TOY_RL, toy_sessions

PLAIN = RlConfig(rewards=(1.0, 0.0, 0.0, 0.0), scale="none", filter=False, minimum_spread=0.0)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    return toy_sessions(tmp_path_factory.mktemp("data"))


def compared(following, source=None, **changes):
    """One group's turns, judged by instruction following (g, t) alone; all went on from one `source` where given."""
    values = torch.tensor([following])
    members, turns = values.shape[1:]
    played = [
        Trajectory(0, [], turns=[object() for _ in range(turns)], member=member, before=[member] * turns)
        for member in range(members)
    ]
    metrics = {"IF": values, **{name: torch.full_like(values, torch.nan) for name in ("CC", "GA", "success")}}
    before = torch.arange(members)[None, :, None].repeat(1, 1, turns)
    if source is not None:
        before[..., 1:] = source
    config = dataclasses.replace(PLAIN, **changes)
    return compare([None], played, None, metrics, torch.ones_like(values, dtype=torch.bool), before, config)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"advantage": "turn"}, [[0.25, 0.05], [-0.25, -0.05]]),
        ({"advantage": "session"}, [[0.35, -0.05], [-0.15, -0.15]]),
        ({"advantage": "improvement"}, [[0.25, -0.2], [-0.25, 0.2]]),
        ({"scale": "deviation"}, [[1.0, 1.0], [-1.0, -1.0]]),
        ({"minimum_spread": 0.1}, [[0.25, 0.0], [-0.25, 0.0]]),
        ({"advantage_clip": 0.1}, [[0.1, 0.05], [-0.1, -0.05]]),
    ],
)
def test_turns_are_compared_as_configured(changes, expected):
    found = compared([[1.0, 0.6], [0.5, 0.5]], **changes)
    for advantages in (found.image_advantages, found.text_advantages):
        torch.testing.assert_close(advantages[0], torch.tensor(expected), atol=3e-3, rtol=0)


def test_what_a_turn_adds_is_counted_from_where_it_began():
    found = compared([[1.0, 0.6], [0.5, 0.5]], source=0, advantage="improvement")
    torch.testing.assert_close(found.image_advantages[0, :, 1], torch.tensor([0.05, -0.05]))
    assert compared([[0.0, 0.6], [0.5, 0.5]], source=0, filter=True).learns[0, :, 1].tolist() == [False, False]


def test_the_filter_takes_what_follows_a_failure_out_of_the_pictures_comparison_and_out_of_the_traces_if_asked():
    following = [[0.0, 1.0], [1.0, 0.5], [1.0, 0.3]]
    masked, whole = [0.0, 0.1, -0.1], [0.4, -0.1, -0.3]
    for changes, learns, image, text in (
        ({"filter": True}, False, masked, whole),
        ({"filter": True, "mask_text": True}, False, masked, masked),
        ({"filter": False, "mask_text": True}, True, whole, whole),
    ):
        found = compared(following, **changes)
        assert found.learns[0, :, 1].tolist() == [learns, True, True] and found.learns[..., 0].all()
        assert found.healthy[0, :, 1].tolist() == [False, True, True]
        torch.testing.assert_close(found.image_advantages[0, :, 1], torch.tensor(image))
        torch.testing.assert_close(found.text_advantages[0, :, 1], torch.tensor(text))


def test_a_turn_fails_at_the_threshold_for_the_filter_and_for_resampling(monkeypatch):
    following = [[0.4, 1.0], [0.5, 1.0], [0.6, 1.0]]
    for threshold, learns in ((0.0, [True, True, True]), (0.5, [False, False, True])):
        found = compared(following, filter=True, filter_threshold=threshold)
        assert found.learns[0, :, 1].tolist() == learns
    absent = dict.fromkeys(("CC", "GA", "success"), Absence.NOT_APPLICABLE)
    judged = [SessionScores(({"IF": first, **absent},), 1.0, (None,)) for first, _ in following]
    monkeypatch.setattr(experience, "_scores", lambda examples, played: judged)
    played = [Trajectory(0, [], turns=[None], member=member) for member in range(3)]
    for threshold, sources in ((0.0, [0, 1, 2]), (0.5, [2, 2, 2])):
        config = dataclasses.replace(PLAIN, resample="healthy", filter_threshold=threshold)
        assert experience._go_on([None], config)(played) == sources


def test_the_stochastic_steps_begin_anywhere_in_their_range_and_anew_in_every_iteration(parent, sessions):
    config = dataclasses.replace(TOY_RL, window=2, window_range=(1, 5), sde="flow", noise_level=0.7)
    drawn = [draw_window(config, np.random.default_rng(seed)) for seed in range(40)]
    assert set(drawn) == {Exploration("flow", 0.7, start, 2) for start in (1, 2, 3)}
    bundle, config = load(parent), dataclasses.replace(TOY_RL, window=1)
    found = [explore(bundle, rl.practice(sessions), config, step) for step in range(5)]
    starts = [one.window.start for one in found]
    assert len(set(starts)) > 1 and [summarise(one, config)["window_start"] for one in found] == starts
    for one in found:  # of all groups and members alike, or another step than the window's would have been drawn from
        windows = [turn.window for _, piece in one.pieces() for turn in piece.turns]
        assert all(len(window.states) == 1 for window in windows)
    again = explore(bundle, rl.practice(sessions), config, 1)
    assert again.window == found[1].window
    assert numpy_generator(0, 0, "rl sessions").random() != numpy_generator(0, 1, "rl sessions").random()


@pytest.mark.parametrize("changes", [{"policies": ("text",)}, {"objective": "nft"}, {"objective": "best"}])
def test_no_noise_is_drawn_on_the_way_where_no_policy_learns_from_it(changes):
    assert draw_window(dataclasses.replace(TOY_RL, **changes), np.random.default_rng(0)) is None


def test_traces_that_the_limit_cuts_are_counted(parent, sessions):
    sampling = SamplingConfig(points=5, max_trace=2, temperature=1.0)
    found = explore(load(parent), rl.practice(sessions), dataclasses.replace(TOY_RL, sampling=sampling), 0)
    turns = [turn for one in found.trajectories for turn in one.turns]
    cut = [turn for turn in turns if len(turn.trace) == len(turn.trace_logprobs) == 2]
    watched = summarise(found, TOY_RL)
    assert watched["truncated_share"] == pytest.approx(len(cut) / len(turns)) and 0 < len(cut) < len(turns)
    assert watched["trace_length"] == pytest.approx(np.mean([len(turn.trace) for turn in turns]))
