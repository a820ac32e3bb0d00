"""What the gates say to editors of known quality: `python -m tests.tasks.gate_table` writes docs/gates.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from model.atomic import write_atomically
from tasks.decision import Decision
from tasks.gates import decide, load_policy
from tasks.scores import Scores
from tests.tasks.scoresets import Quality, broken, evidence, forgetter, identity, noise, score_set, skilled, tinter

PAGE = Path(__file__).parents[2] / "docs" / "gates.md"
POLICY = load_policy("small")
CHAMPION = score_set(skilled(), seed=1, name="champion")
PARENT = score_set(skilled(0.45), seed=2, name="parent")
SAME, BETTER = 200, 40  # trials of the two rates
HEAD = """# What the gates let pass

Written by `python -m tests.tasks.gate_table`; `tests/tasks/test_gates.py` checks that it is current.

Editors of known quality stand for promotion against one champion, under the policy of profile `small` in
`mlflow_config/gates.yaml`: {sessions} sessions with {turns} turns, scores drawn at random from each editor's chances.

The policy of `tiny`, whose benchmark is smaller, has wider margins and lower floors and asks of a first champion only
that it is not shown to be worse than its parent: it shows how the gates work, and lets smaller faults pass.

| candidate | decision | rules that refuse it | the first reason |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    """One candidate and what was decided."""

    name: str
    decision: Decision

    @property
    def rules(self) -> list[str]:
        """Rules that refuse it."""
        return sorted({finding.rule for finding in self.decision.findings if finding.verdict == "fail"})

    @property
    def line(self) -> str:
        """The row in Markdown."""
        reason = self.decision.reasons[0] if self.decision.reasons else "–"
        return f"| {self.name} | {self.decision.verdict} | {', '.join(self.rules) or '–'} | {reason} |"


def challenge(candidate: Scores, champion: Scores | None = CHAMPION, model: str = "model") -> Decision:
    """The decision on a candidate with flawless lineage."""
    return decide(POLICY, candidate, champion, evidence(model), PARENT)


def one_type_lost(turn: dict) -> tuple[float, float, float]:
    """Better than the champion everywhere but in one edit type, which it has lost."""
    return (0.0, 0.9, 0.0) if turn["edit_type"] == "count_change" else skilled(0.85)(turn)


def rows() -> list[Row]:
    """Every editor of known quality."""
    editors: dict[str, Quality] = {
        "copies its input (identity)": identity,
        "forgets all but the last turn": forgetter,
        "noise": noise,
        "edits well, tints everything": tinter,
        "the champion with one edit type broken": broken("text_change"),
        "better, but one edit type is lost": one_type_lost,
        "the same model, sampled again": skilled(),
        "truly better": skilled(0.8),
    }
    found = [Row(name, challenge(score_set(editor, seed=4))) for name, editor in editors.items()]
    return [*found[:-1], Row("the champion's own weights again", challenge(CHAMPION, model="champion")), found[-1]]


def rate(trial: Callable[[int], Decision], trials: int) -> int:
    """How many of some trials end in a promotion."""
    return sum(trial(number).promote for number in range(trials))


def same(number: int) -> Decision:
    """Two samplings of one model, one as candidate and one as champion."""
    return challenge(score_set(skilled(), seed=100 + number), score_set(skilled(), seed=900 + number, name="c"))


def better(number: int) -> Decision:
    """A clearly better model against the champion."""
    return challenge(score_set(skilled(0.8), seed=200 + number))


def table() -> str:
    """The page down to the end of the table."""
    facts = HEAD.format(sessions=len(CHAMPION.sessions), turns=sum(len(found.turns) for found in CHAMPION.sessions))
    return facts + "\n".join(row.line for row in rows()) + "\n"


def rates(same_promoted: int, better_promoted: int) -> str:
    """The end of the page."""
    return (
        f"\nOf {SAME} samplings of the champion's equal {same_promoted} were promoted (stated level: "
        f"{POLICY.alpha:.0%}); of {BETTER} samplings of the truly better model {better_promoted} were.\n"
    )


def main() -> None:
    """Write the page."""
    write_atomically(PAGE, (table() + rates(rate(same, SAME), rate(better, BETTER))).encode())


if __name__ == "__main__":
    main()
