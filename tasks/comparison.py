"""Paired comparison of two models on one benchmark: bootstrap over sessions, vectorised over metrics and slices.

Both models answered the same sessions, so every difference is taken within a turn, and whole sessions are resampled:
turns of one session depend on each other. A statistic is a ratio of sums over the S sessions, D / N with D the
summed differences and N the number of turns that are valid for both models. P-values shift the bootstrap
distribution to the null (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 16); intervals are
the matching basic ones; families of tests are corrected after Holm (1979).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from tasks.scores import TURN_METRICS, Scores

Floats = npt.NDArray[np.float64]
Axis = Literal["overall", "track", "turn", "edit_type"]
_TIE = 1e-12  # sums of equal sessions differ in their last bits


@dataclass(frozen=True)
class Slice:
    """One metric on one part of the benchmark, e.g. `GA` on `track=cm`."""

    metric: str
    axis: Axis
    value: str = ""

    def __str__(self) -> str:
        return f"{self.metric}, {self.axis}" + (f"={self.value}" if self.value else "")


@dataclass(frozen=True)
class Difference:
    """Candidate minus reference on one slice.

    `samples` (R,) are bootstrap replicates of `estimate`; `sessions` and `count` are the denominators: sessions that
    hold at least one pair of valid values, and the pairs themselves.
    """

    slice: Slice
    estimate: float
    sessions: int
    count: int
    samples: Floats

    def p_above(self, bound: float) -> float:
        """One-sided p-value of the hypothesis that the true difference is at most `bound`."""
        exceed = np.count_nonzero(self.samples - self.estimate >= self.estimate - bound - _TIE)
        return float((1 + exceed) / (1 + self.samples.size))

    def p_below(self, bound: float) -> float:
        """One-sided p-value of the hypothesis that the true difference is at least `bound`."""
        exceed = np.count_nonzero(self.samples - self.estimate <= self.estimate - bound + _TIE)
        return float((1 + exceed) / (1 + self.samples.size))

    def interval(self, alpha: float) -> tuple[float, float]:
        """Basic bootstrap interval, each side of which leaves out `alpha`."""
        low, high = np.quantile(self.samples, [alpha, 1 - alpha])
        return float(2 * self.estimate - high), float(2 * self.estimate - low)


@lru_cache(maxsize=4)
def _resample(sessions: int, resamples: int, seed: int) -> Floats:
    """How often each session is drawn: (resamples, sessions), rows sum to `sessions`."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(sessions, np.full(sessions, 1 / sessions), size=resamples).astype(np.float64)


def same_sessions(candidate: Scores, reference: Scores) -> bool:
    """Whether both answered the same turns of the same sessions, in whatever order."""

    def layout(scores: Scores) -> dict[str, list[tuple[int, str]]]:
        return {session.id: [(turn.turn, turn.edit_type) for turn in session.turns] for session in scores.sessions}

    return layout(candidate) == layout(reference) and len(candidate.sessions) == len(reference.sessions)


@dataclass(frozen=True)
class _Rows:
    """Score rows of one kind (turns, or sessions) in a fixed order: `values` is (rows, metrics) with NaN for absent."""

    metrics: tuple[str, ...]
    values: Floats
    session: npt.NDArray[np.int64]
    labels: dict[Axis, list[str]]


def _turn_rows(scores: Scores) -> _Rows:
    ordered = sorted(scores.sessions, key=lambda session: session.id)
    rows = [(index, session, turn) for index, session in enumerate(ordered) for turn in session.turns]
    return _Rows(
        metrics=TURN_METRICS,
        values=np.array([[turn.value(metric) for metric in TURN_METRICS] for *_, turn in rows], np.float64),
        session=np.array([index for index, *_ in rows], np.int64),
        labels={
            "overall": [""] * len(rows),
            "track": [session.track or "" for _, session, _ in rows],
            "turn": [str(turn.turn) for *_, turn in rows],
            "edit_type": [turn.edit_type for *_, turn in rows],
        },
    )


def _session_rows(scores: Scores) -> _Rows:
    ordered = sorted(scores.sessions, key=lambda session: session.id)
    return _Rows(
        metrics=("session_success",),
        values=np.array([[session.success] for session in ordered], np.float64),
        session=np.arange(len(ordered)),
        labels={"overall": [""] * len(ordered), "track": [session.track or "" for session in ordered]},
    )


def _sums(ours: _Rows, theirs: _Rows, sessions: int) -> Iterator[tuple[Slice, Floats, Floats]]:
    """Per slice the summed differences and the number of pairs of each session, (S,) each."""
    difference = ours.values - theirs.values
    for axis, labels in ours.labels.items():
        names, of_row = np.unique(labels, return_inverse=True)
        for index, metric in enumerate(ours.metrics):
            valid = np.isfinite(difference[:, index])
            for value, name in enumerate(names):
                chosen = valid & (of_row == value)
                if chosen.any() and (name or axis == "overall"):
                    at = ours.session[chosen]
                    sums = np.bincount(at, difference[chosen, index], minlength=sessions).astype(np.float64)
                    yield Slice(metric, axis, str(name)), sums, np.bincount(at, minlength=sessions).astype(np.float64)


def compare(candidate: Scores, reference: Scores, resamples: int, seed: int) -> dict[Slice, Difference]:
    """Differences of every slice that holds at least one pair of values.

    Raises:
        ValueError: the two did not answer the same turns.
    """
    if not same_sessions(candidate, reference):
        raise ValueError("the two score records hold different sessions")
    size = len(candidate.sessions)
    found = [
        *_sums(_turn_rows(candidate), _turn_rows(reference), size),
        *_sums(_session_rows(candidate), _session_rows(reference), size),
    ]
    sums = np.stack([column for _, column, _ in found], axis=1)
    counts = np.stack([column for *_, column in found], axis=1)
    return _differences([where for where, *_ in found], sums, counts, resamples, seed)


def _differences(
    slices: Sequence[Slice], sums: Floats, counts: Floats, resamples: int, seed: int
) -> dict[Slice, Difference]:
    """`sums` and `counts` are (S, K); a resample that draws no valid pair of a slice says nothing and is left out."""
    weights = _resample(len(sums), resamples, seed)
    with np.errstate(invalid="ignore"):
        samples = (weights @ sums) / (weights @ counts)
    totals, valid = sums.sum(0), counts.sum(0)
    return {
        found: Difference(
            slice=found,
            estimate=float(totals[k] / valid[k]),
            sessions=int(np.count_nonzero(counts[:, k])),
            count=int(valid[k]),
            samples=samples[np.isfinite(samples[:, k]), k],
        )
        for k, found in enumerate(slices)
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for a family of tests by Holm's step-down rule, in the order given."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (p.size - np.arange(p.size)))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]
