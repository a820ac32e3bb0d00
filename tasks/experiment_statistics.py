"""The statistics of the results table: means and paired differences over held-out sessions, with 95% intervals.

Several seeds of a variant answered the same sessions. Their turns are pooled within each session, whole sessions are
resampled, and both are done by `tasks.comparison`, as the gates do: a mean is a difference from nought. Intervals of
means are percentile ones, which stay within [0, 1]; those of differences are the gates' basic ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.errors import UserError
from tasks.comparison import Axis, Difference, Slice, compare, same_sessions
from tasks.scores import METRICS, TURN_METRICS, Scores, SessionScore, TurnScore

RESAMPLES = 10_000
SEED = 0
ALPHA = 0.025  # left out on each side
TRACKS = ("cm", "cu")
KEYS = (*METRICS, *(f"{track}/{metric}" for track in TRACKS for metric in METRICS))


@dataclass(frozen=True)
class Estimate:
    """A value with its interval. `n` counts the scored turns (or sessions) of all seeds."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def sign(self) -> int:
        """1 or -1 when the whole interval lies on that side of nought, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def pooled(runs: Sequence[Scores]) -> Scores:
    """One record of several seeds: in each session the turns of all, and the share of seeds that succeeded.

    Raises:
        UserError: the records do not hold the same turns of the same sessions.
    """
    if any(not same_sessions(run, runs[0]) or run.benchmark != runs[0].benchmark for run in runs[1:]):
        raise UserError("the seeds of a variant were evaluated on different sessions", "Evaluate them again")
    by_id = [{session.id: session for session in run.sessions} for run in runs]
    return runs[0].model_copy(
        update={"sessions": tuple(_together([found[s.id] for found in by_id]) for s in runs[0].sessions)}
    )


def _together(seeds: Sequence[SessionScore]) -> SessionScore:
    successes = [one.success for one in seeds if one.success is not None]
    success = sum(successes) / len(successes) if successes else None
    return seeds[0].model_copy(update={"success": success, "turns": tuple(t for one in seeds for t in one.turns)})


def nought(scores: Scores) -> Scores:
    """The same record with every score 0; absences stay."""

    def empty(turn: TurnScore) -> TurnScore:
        return turn.model_copy(update={name: None if turn.value(name) is None else 0.0 for name in TURN_METRICS})

    sessions = tuple(
        session.model_copy(
            update={
                "success": None if session.success is None else 0.0,
                "turns": tuple(empty(turn) for turn in session.turns),
            }
        )
        for session in scores.sessions
    )
    return scores.model_copy(update={"sessions": sessions})


def means(runs: Sequence[Scores]) -> dict[Slice, Estimate]:
    """Mean of every slice over the seeds of a variant."""
    whole = pooled(runs)
    found = compare(whole, nought(whole), RESAMPLES, SEED)
    return {at: _estimate(one, _percentiles(one), len(runs)) for at, one in found.items()}


def differences(ours: Sequence[Scores], theirs: Sequence[Scores]) -> dict[Slice, Estimate]:
    """Ours minus theirs on every slice, within the same sessions and seeds."""
    found = compare(pooled(ours), pooled(theirs), RESAMPLES, SEED)
    return {at: _estimate(one, one.interval(ALPHA), len(ours)) for at, one in found.items()}


def _percentiles(one: Difference) -> tuple[float, float]:
    low, high = np.quantile(one.samples, [ALPHA, 1 - ALPHA])
    return float(low), float(high)


def _estimate(one: Difference, bounds: tuple[float, float], seeds: int) -> Estimate:
    # A session's success is pooled to one value, its turns are not.
    count = one.count * seeds if one.slice.metric == "session_success" else one.count
    return Estimate(one.estimate, *bounds, count)


def by_key(found: Mapping[Slice, Estimate]) -> dict[str, Estimate]:
    """The overall values as `IF`, those of a track as `cm/IF`."""
    overall = {at.metric: one for at, one in found.items() if at.axis == "overall"}
    tracks = {f"{at.value}/{at.metric}": one for at, one in found.items() if at.axis == "track"}
    both = overall | tracks
    return {key: both[key] for key in KEYS if key in both}


def along(found: Mapping[Slice, Estimate], metric: str, axis: Axis) -> dict[int, Estimate]:
    """The values of one metric along a numbered axis, in order."""
    values = {int(at.value): one for at, one in found.items() if at.metric == metric and at.axis == axis}
    return dict(sorted(values.items()))


def by_distance(runs: Sequence[Scores], metric: str = "GA") -> dict[int, Estimate]:
    """Mean of a metric by the number of turns since what it needs was stated."""

    def distance(turn: TurnScore) -> int | None:
        found: int | None = (turn.model_extra or {}).get("distance")
        return found

    distances = {distance(turn) for session in runs[0].sessions for turn in session.turns} - {None}
    result = {}
    for wanted in sorted(value for value in distances if value is not None):
        kept = [only(run, lambda turn, at=wanted: distance(turn) == at) for run in runs]  # type: ignore[misc]
        if (found := means(kept).get(Slice(metric, "overall"))) is not None:
            result[wanted] = found
    return result


def part(scores: Scores, held_out: bool) -> Scores:
    """The record with the sessions that hold something that no training shows, or with the others."""
    sessions = (one for one in scores.sessions if bool((one.model_extra or {}).get("held_out")) == held_out)
    return scores.model_copy(update={"sessions": tuple(sessions)})


def only(scores: Scores, keep: Callable[[TurnScore], bool]) -> Scores:
    """The record with the turns that are kept."""
    sessions = (s.model_copy(update={"turns": tuple(filter(keep, s.turns))}) for s in scores.sessions)
    return scores.model_copy(update={"sessions": tuple(sessions)})


def contamination(runs: Sequence[Scores]) -> dict[Slice, Estimate]:
    """What earlier mistakes cost: free-running scores minus those on the true history; empty when not evaluated."""
    if any("true_history" not in (run.model_extra or {}) for run in runs):
        return {}
    return differences(runs, [true_history(run) for run in runs])


def true_history(scores: Scores) -> Scores:
    """The record that the same model would have had without a mistake in any earlier turn."""
    rows: Iterable[dict[str, Any]] = (scores.model_extra or {})["true_history"]
    by_turn = {(row["id"], turn["turn"]): turn for row in rows for turn in row["turns"]}
    sessions = tuple(
        session.model_copy(
            update={
                "success": None,
                "turns": tuple(
                    turn.model_copy(
                        update={name: by_turn.get((session.id, turn.turn), {}).get(name) for name in TURN_METRICS}
                    )
                    for turn in session.turns
                ),
            }
        )
        for session in scores.sessions
    )
    return scores.model_copy(update={"sessions": sessions})
