"""The scores of one model on one benchmark: the record that evaluation writes and that gates, lineage and audit read.

Scores are kept per turn, because every gate resamples whole sessions. A missing value is a typed absence
(`not_applicable`, `invalid_annotation`, `judge_error`), never a number.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.errors import UserError
from tasks.canonical import canonical, sha256

TURN_METRICS = ("IF", "CC", "GA", "GA_cumulative", "success")
METRICS = (*TURN_METRICS, "session_success")
JUDGE_ERROR = "judge_error"


class _Record(BaseModel):
    """Frozen; fields unknown to the gates are kept, so that the digest covers all that evaluation wrote."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class TurnScore(_Record):
    """Scores of one turn, each in [0, 1] or absent; `absent` names why, by metric."""

    turn: int
    edit_type: str
    IF: float | None = None
    CC: float | None = None
    GA: float | None = None
    GA_cumulative: float | None = None
    success: float | None = None
    absent: dict[str, str] = Field(default_factory=dict)

    def value(self, metric: str) -> float | None:
        """The score, or None when the metric is absent for this turn."""
        found = getattr(self, metric)
        return None if metric in self.absent or found is None else float(found)


class SessionScore(_Record):
    """One session: its track (`cm`, `cu` or none), whether every turn succeeded, and its turns in order."""

    id: str
    track: str | None = None
    success: float | None = None
    turns: tuple[TurnScore, ...]


class Benchmark(_Record):
    """Name and DVC digest (`<md5>.dir`) of the benchmark that was used."""

    name: str
    digest: str


class Judge(_Record):
    """Name and version of what scored the pictures."""

    name: str
    version: str


class Scores(_Record):
    """Contents of `scores.json`."""

    format: int
    profile: str
    model_digest: str
    benchmark: Benchmark
    judge: Judge
    seed: int
    settings: dict[str, Any] = Field(default_factory=dict)
    batch_size: int | None = None  # sessions that ran at once, in this order: company decides the last bits of a sum
    sessions: tuple[SessionScore, ...]
    summary: dict[str, Any] = Field(default_factory=dict)

    def document(self) -> bytes:
        """Canonical JSON: the form that digests and statements refer to."""
        unsaid = {"batch_size"} if self.batch_size is None else None
        return canonical(self.model_dump(mode="json", exclude=unsaid))

    @property
    def digest(self) -> str:
        """SHA-256 of `document()`."""
        return sha256(self.document())

    def values(self, metric: str) -> list[float]:
        """Every valid value of one metric, over turns (or over sessions for `session_success`)."""
        if metric == "session_success":
            return [float(session.success) for session in self.sessions if session.success is not None]
        found = (turn.value(metric) for session in self.sessions for turn in session.turns)
        return [value for value in found if value is not None]

    def judge_errors(self, metric: str) -> int:
        """Turns of which the judge could not say anything about this metric."""
        return sum(turn.absent.get(metric) == JUDGE_ERROR for session in self.sessions for turn in session.turns)

    def means(self) -> dict[str, dict[str, float | int | None]]:
        """Mean and denominator per metric, recomputed from the turns: {"IF": {"mean": 0.5, "n": 12}, ...}."""
        columns = {metric: self.values(metric) for metric in METRICS}
        return {
            metric: {"mean": round(sum(found) / len(found), 6) if found else None, "n": len(found)}
            for metric, found in columns.items()
        }


def parse_scores(text: bytes | str, source: str) -> Scores:
    """Scores from JSON; `source` names the text in errors.

    Raises:
        UserError: the text is not JSON or not a score record.
    """
    try:
        return Scores.model_validate(json.loads(text))
    except (ValueError, ValidationError) as error:
        problem = str(error).splitlines()[0]
        raise UserError(f"{source} is not a score record ({problem})", "Run the evaluation again") from error


def read_scores(path: Path) -> Scores:
    """Scores from a `scores.json`.

    Raises:
        UserError: the file is missing or not a score record.
    """
    if not path.is_file():
        raise UserError(f"{path.name} is missing", "Run the evaluation first")
    return parse_scores(path.read_bytes(), path.name)
