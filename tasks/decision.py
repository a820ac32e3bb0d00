"""What a gate decision is made of: the evidence that goes in, the findings per rule, the verdict that comes out.

All of it is plain data. A decision names the digests of everything it was made from, so that anyone who holds those
documents can make it again and compare.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tasks.canonical import canonical, sha256

Verdict = Literal["pass", "fail", "warn", "skipped"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def document(self) -> bytes:
        """Canonical JSON: the form that digests refer to."""
        return canonical(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """SHA-256 of `document()`."""
        return sha256(self.document())


class DatasetEvidence(_Record):
    """One dataset that the model came from. None means that nobody looked, which no rule takes for a yes."""

    name: str
    used: str | None  # DVC digest that the training run recorded
    locked: str | None  # DVC digest in dvc.lock
    pushed: bool | None  # the remote holds it
    valid: bool | None  # its expectations passed


class RewardTrend(_Record):
    """Mean training reward over the first and the last tenth of RL, in the units of the score.

    `error` is the standard error of their difference: every iteration draws other sessions.
    """

    first: float
    last: float
    error: float = 0.0


class Evidence(_Record):
    """What is known of a candidate's origin besides its scores."""

    profile: str
    stage: Literal["base", "sft", "rl"]
    model_digest: str
    commit: str | None
    dirty: bool | None
    lock_digest: str | None
    datasets: tuple[DatasetEvidence, ...]
    benchmark_digest: str | None
    parent_digest: str | None
    parent_signed: bool | None
    reward: RewardTrend | None = None


class Finding(_Record):
    """One rule applied to one part of the scores or the lineage."""

    rule: str
    scope: str
    observed: float | str | None
    bound: float | str | None
    verdict: Verdict
    reason: str
    n: int | None = None
    p: float | None = None
    interval: tuple[float, float] | None = None


class Inputs(_Record):
    """SHA-256 of the documents that a decision was made from."""

    policy: str
    candidate: str
    champion: str | None
    parent: str | None
    evidence: str


class Decision(_Record):
    """The verdict on one candidate, against one champion or none."""

    format: Literal[1] = 1
    profile: str
    model_digest: str
    champion_digest: str | None
    benchmark_digest: str
    verdict: Literal["promote", "refuse"]
    findings: tuple[Finding, ...] = Field(min_length=1)
    inputs: Inputs

    @property
    def promote(self) -> bool:
        """Whether the model may become champion."""
        return self.verdict == "promote"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it was refused: one sentence per failed rule."""
        return tuple(finding.reason for finding in self.findings if finding.verdict == "fail")

    def markdown(self) -> str:
        """A table of the findings, the failed ones first."""
        order = {"fail": 0, "warn": 1, "pass": 2, "skipped": 3}
        heads = "| verdict | rule | scope | observed | bound | interval | p | n | why |"
        lines = [f"**{self.verdict}**, decision `{self.digest}`", "", heads, "|" + "---|" * 9]
        for found in sorted(self.findings, key=lambda finding: order[finding.verdict]):
            interval = " to ".join(f"{end:+.4f}" for end in found.interval) if found.interval else None
            facts = (found.observed, found.bound, interval, found.p, found.n, found.reason)
            lines.append(
                "| " + " | ".join(_cell(cell) for cell in (found.verdict, found.rule, found.scope, *facts)) + " |"
            )
        return "\n".join(lines)


def _cell(value: float | str | None) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "–" if value is None else str(value)
