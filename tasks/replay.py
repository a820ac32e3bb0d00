"""Replay: run benchmark sessions again with the recorded seed and settings, and hold the scores against the record.

Sessions run in the company in which they were recorded. In another batch sums round otherwise, a grey level of a
picture may flip, and all that follows it differs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.errors import UserError
from tasks.audit_report import AuditReport, NotHere, expect
from tasks.pedigree import pedigree
from tasks.scores import TURN_METRICS, Scores, SessionScore
from tasks.stores import folder_digest
from tasks.view import View

TOLERANCE = 1e-6


def replay(report: AuditReport, view: View, version: int | None, count: int) -> None:
    """Add one link per replayed session to a report; the sessions are spread evenly over the benchmark.

    Args:
        report: of the audit of the same version.
        view: needs the checkout, since the benchmark is read there.
        version: as in the audit.
        count: number of sessions.
    """
    found = pedigree(view, version)
    scores = found.scores
    chosen = list(scores.sessions[:: max(1, len(scores.sessions) // count)][:count])
    rows: dict[str, SessionScore] = {}
    with report.link("replay", "sessions", f"{len(chosen)} were run again"):
        folder = _benchmark(view, scores)
        with view.registry.model_folder(found.generations[0].internal["model_id"]) as model:
            rows = run_again(model, folder, scores, {session.id for session in chosen})
    for session in chosen if rows else []:
        with report.link("replay", f"session {session.id}", "the same traces and scores"):
            expect(session.id in rows, "the benchmark does not hold it")
            wrong = difference(session, rows[session.id])
            expect(wrong is None, str(wrong))


def _benchmark(view: View, scores: Scores) -> Path:
    """The benchmark's folder in the checkout, once its digest is that of the scores."""
    if view.root is None:
        raise NotHere("the benchmark is not part of this folder")
    folder = view.root / "data" / scores.benchmark.name
    if not folder.is_dir() or folder_digest(folder) != scores.benchmark.digest:
        raise UserError("the checkout holds another state of the benchmark", "Run `dvc pull` or `dvc repro`")
    return folder


def run_again(model: Path, benchmark: Path, scores: Scores, wanted: set[str]) -> dict[str, SessionScore]:
    """The wanted sessions by id, with all that ran in one batch with them."""
    from data.loader import SessionFolder
    from model import distributed
    from model.bundle import load
    from model.config import EvaluationConfig, SamplingConfig
    from model.evaluation import run_sessions, session_row

    size = scores.batch_size or len(scores.sessions)
    config = EvaluationConfig(sampling=SamplingConfig(**scores.settings), seed=scores.seed, strips=0)
    bundle = load(model, device=distributed.device())
    bundle.model.eval()
    sessions = SessionFolder(benchmark, "test", targets=False)
    places = {session.id: place for place, session in enumerate(sessions.sessions())}
    made: list[dict[str, Any]] = []
    for first in range(0, len(scores.sessions), size):
        ids = [session.id for session in scores.sessions[first : first + size]]
        if wanted.intersection(ids):
            examples = [sessions[places[name]] for name in ids if name in places]
            made += [session_row(*ran) for ran in run_sessions(bundle, examples, config)]
    return {row["id"]: SessionScore.model_validate(row) for row in made}


def difference(recorded: SessionScore, again: SessionScore) -> str | None:
    """The first thing in which two runs of a session differ, in words."""
    if len(recorded.turns) != len(again.turns):
        return f"{len(again.turns)} turns instead of {len(recorded.turns)}"
    for before, now in zip(recorded.turns, again.turns, strict=True):
        if getattr(before, "trace", None) != getattr(now, "trace", None):
            return f"turn {before.turn}: another intent trace"
        for metric in TURN_METRICS:
            old, new = before.value(metric), now.value(metric)
            if (old is None) != (new is None) or (old is not None and new is not None and abs(old - new) > TOLERANCE):
                return f"turn {before.turn}: {metric} is {new}, the record says {old}"
    return None
