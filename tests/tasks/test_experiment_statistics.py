from __future__ import annotations

import numpy as np
import pytest

from data.errors import UserError
from tasks import experiment_statistics as statistics
from tasks.comparison import Slice
from tasks.scores import Scores
from tests.tasks.scoresets import BENCHMARK, score_set, skilled


def scores(*sessions: list[dict], success=None, **changes) -> Scores:
    """Sessions of turns given as {metric: score}; a metric that is left out is absent."""
    rows = [
        {
            "id": f"s{index}",
            "track": ("cm", "cu")[index % 2],
            "success": success[index] if success else None,
            "turns": [{"turn": k, "edit_type": "color_alter", **turn} for k, turn in enumerate(turns, start=1)],
        }
        for index, turns in enumerate(sessions)
    ]
    base = {
        "format": 1,
        "profile": "smoke",
        "model_digest": "a" * 64,
        "benchmark": {"name": "benchmark/smoke", "digest": BENCHMARK},
        "judge": {"name": "exact", "version": "1"},
        "seed": 0,
        "sessions": rows,
    }
    return Scores.model_validate(base | changes)


def test_a_mean_is_that_of_all_turns_of_all_seeds_with_their_count():
    one = scores([{"IF": 1.0}, {"IF": 0.0}], [{"IF": 1.0}], success=[0.0, 1.0])
    other = scores([{"IF": 0.0}, {"IF": 0.0}], [{"IF": 1.0}], success=[0.0, 0.0])
    found = statistics.by_key(statistics.means([one, other]))
    assert found["IF"].mean == pytest.approx(3 / 6) and found["IF"].n == 6
    assert found["cm/IF"].mean == pytest.approx(1 / 4) and found["cm/IF"].n == 4
    assert found["cu/IF"].mean == 1.0 and (found["cu/IF"].low, found["cu/IF"].high) == (1.0, 1.0)
    assert found["session_success"].mean == pytest.approx(1 / 4) and found["session_success"].n == 4
    assert "GA" not in found, "no turn has a score"


def test_an_absence_is_left_out_of_mean_and_count():
    found = statistics.by_key(statistics.means([scores([{"GA": 1.0}, {}], [{"GA": 0.0}, {}, {}])]))
    assert found["GA"].mean == 0.5 and found["GA"].n == 2


def test_two_sessions_of_one_turn_have_the_interval_of_two_coins():
    """A resample draws s0 twice, once or never with chances 1/4, 1/2, 1/4: means 1, 1/2 and 0."""
    found = statistics.by_key(statistics.means([scores([{"IF": 1.0}], [{"IF": 0.0}])]))
    assert (found["IF"].mean, found["IF"].low, found["IF"].high) == (0.5, 0.0, 1.0)


def test_the_interval_of_many_sessions_is_that_of_the_normal_approximation():
    draws = np.random.default_rng(3).random(400) < 0.3
    found = statistics.by_key(statistics.means([scores(*([{"IF": float(hit)}] for hit in draws))]))["IF"]
    share = draws.mean()
    half = 1.96 * np.sqrt(share * (1 - share) / 400)
    assert found.low == pytest.approx(share - half, abs=0.005) and found.high == pytest.approx(share + half, abs=0.005)


def test_a_difference_pairs_sessions_and_seeds():
    ours = [scores([{"IF": 1.0}], [{"IF": 0.5}]), scores([{"IF": 0.6}], [{"IF": 0.1}])]
    theirs = [scores([{"IF": 0.9}], [{"IF": 0.4}]), scores([{"IF": 0.5}], [{"IF": 0.0}])]
    found = statistics.by_key(statistics.differences(ours, theirs))["IF"]
    assert found.mean == pytest.approx(0.1) and found.low == pytest.approx(0.1) and found.high == pytest.approx(0.1)
    assert found.sign == 1 and found.n == 4
    back = statistics.by_key(statistics.differences(theirs, ours))["IF"]
    assert back.sign == -1 and back.mean == pytest.approx(-0.1)


def test_a_difference_that_may_be_chance_has_no_sign():
    ours, theirs = scores([{"IF": 1.0}], [{"IF": 0.0}]), scores([{"IF": 0.0}], [{"IF": 1.0}])
    assert statistics.by_key(statistics.differences([ours], [theirs]))["IF"].sign == 0


def test_more_seeds_of_the_same_answers_do_not_narrow_the_interval():
    """Seeds are no new sessions: pooling one record with itself changes the count alone."""
    one = score_set(skilled(), sessions=40)
    alone, thrice = (statistics.means([one] * count)[Slice("IF", "overall")] for count in (1, 3))
    assert (alone.mean, alone.low, alone.high) == pytest.approx((thrice.mean, thrice.low, thrice.high))
    assert thrice.n == 3 * alone.n


def test_seeds_on_different_sessions_are_refused():
    with pytest.raises(UserError, match="different sessions"):
        statistics.pooled([scores([{"IF": 1.0}]), scores([{"IF": 1.0}, {"IF": 0.0}])])


def test_values_by_turn_and_by_distance():
    turns = [{"GA": 0.0, "distance": 1}, {"GA": 1.0, "distance": 10}, {"GA": 0.5, "distance": 1}, {"distance": None}]
    one = scores(turns)
    by_turn = statistics.along(statistics.means([one]), "GA", "turn")
    assert {turn: found.mean for turn, found in by_turn.items()} == {1: 0.0, 2: 1.0, 3: 0.5}
    by_distance = statistics.by_distance([one])
    assert [(distance, found.mean, found.n) for distance, found in by_distance.items()] == [(1, 0.25, 2), (10, 1.0, 1)]


def test_contamination_is_free_running_minus_true_history_where_both_have_a_score():
    true = [{"id": "s0", "turns": [{"turn": 1, "IF": 0.8}, {"turn": 2, "IF": 0.9}, {"turn": 3, "GA": 1.0}]}]
    one = scores([{"IF": 0.8}, {"IF": 0.4}, {"IF": 0.3}], true_history=true)
    gap = statistics.along(statistics.contamination([one]), "IF", "turn")
    assert {turn: round(found.mean, 6) for turn, found in gap.items()} == {1: 0.0, 2: -0.5}
    assert statistics.contamination([scores([{"IF": 0.8}])]) == {}
