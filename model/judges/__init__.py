"""Judges score sessions: per turn and metric a number in 0..1, or the reason why there is none.

Metrics: `IF` the change that the turn asks for holds; `CC` everything else is as it was; `GA` every standing rule and
reference of the session so far holds; `GA_cumulative` the least GA up to the turn (once lost, lost); `success` all of
them at once. An absence is never replaced by a number: it is counted, and left out of means and of group statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

METRICS = ("IF", "CC", "GA", "GA_cumulative", "success")
JUDGE = {"name": "exact", "version": "1"}
"""Of the judge of rendered sessions, stored with every score: a change of its verdicts is a new version."""


class Absence(StrEnum):
    """Why a score is absent."""

    NOT_APPLICABLE = "not_applicable"
    """The turn has nothing of the kind: no rule or reference so far, nothing that must stay."""
    INVALID_ANNOTATION = "invalid_annotation"
    """The session does not say what would have to hold."""
    JUDGE_ERROR = "judge_error"
    """The pictures could not be judged."""


Score = float | Absence


@dataclass(frozen=True)
class SessionScores:
    """Scores of one session: per turn a value or absence for each of `METRICS`, and the session's success.

    `distances` has, per turn, how many turns back the farthest rule or reference was stated that the turn needs (None
    where it needs none): the axis of the diagnostic "GA by distance".
    """

    turns: tuple[dict[str, Score], ...]
    success: Score
    distances: tuple[int | None, ...]
