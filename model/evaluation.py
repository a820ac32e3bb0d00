"""Free-running evaluation of a model over all turns of a benchmark, and the score sheet that gates and reports read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.loader import Example, SessionFolder
from model import distributed
from model.atomic import replace_folder
from model.bundle import Bundle, load
from model.config import EvaluationConfig
from model.judges import JUDGE, METRICS, SessionScores
from model.judges.exact import judge_many
from model.rollout import rollout
from model.strips import draw_strip
from model.trainer import Report
from model.trajectories import Trajectory

Row = dict[str, Any]


def evaluate(
    config: EvaluationConfig, model_folder: Path, benchmark_folder: Path, folder: Path, report: Report
) -> Path:
    """Run every session of the benchmark's split `test` and judge it.

    Args:
        folder: gets `scores.json` (see `score_sheet`), `strips/<session>.png` and `strips.json` (captions).

    Returns:
        The path of `scores.json`.
    """
    if (folder / "scores.json").exists():
        return folder / "scores.json"
    bundle = load(model_folder, device=distributed.device())
    bundle.model.eval()
    benchmark = SessionFolder(benchmark_folder, "test", targets=config.true_history)
    count = min(len(benchmark), config.sessions or len(benchmark))
    work = folder.with_name(f"{folder.name}.work")
    (work / "strips").mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    untouched: list[Row] = []
    understood: list[Row] = []
    captions: dict[str, list[str]] = {}
    for first in range(0, count, config.batch_size):
        examples = [benchmark[i] for i in range(first, min(first + config.batch_size, count))]
        for example, trajectory, scores in run_sessions(bundle, examples, config):
            rows.append(session_row(example, trajectory, scores))
            if len(captions) < config.strips:
                captions[example.session.id] = _draw(work / "strips", rows[-1], trajectory)
        if config.true_history:
            untouched += true_history_rows(bundle, examples, config)
            understood += true_history_rows(bundle, examples, config, true_intents=True)
        report(first, {"progress": min(1.0, (first + config.batch_size) / count), **_means(rows)})
    (work / "strips.json").write_text(json.dumps(captions, indent=1))
    sheet = score_sheet(rows, config)
    if config.true_history:
        sheet |= {"true_history": untouched}
        sheet["summary"]["contamination_gap"] = contamination_gap(rows, untouched)
        sheet["summary"]["ceiling"] = _table([turn for row in understood for turn in row["turns"]])
    (work / "scores.json").write_text(json.dumps(sheet, indent=1))
    replace_folder(work, folder)
    return folder / "scores.json"


def run_sessions(
    bundle: Bundle, examples: Sequence[Example], config: EvaluationConfig
) -> Iterable[tuple[Example, Trajectory, SessionScores]]:
    """Sample sessions with the recorded seed and judge them."""
    with torch.no_grad():
        trajectories = rollout(bundle, examples, config.sampling, seed=config.seed)
    scores = judge_many([e.session for e in examples], [np.stack(t.images) for t in trajectories])
    return zip(examples, trajectories, scores, strict=True)


def true_history_rows(
    bundle: Bundle, examples: Sequence[Example], config: EvaluationConfig, true_intents: bool = False
) -> list[Row]:
    """Scores of every turn when all turns before it went as they should: nothing is inherited from a mistake.

    With `true_intents` nothing is misunderstood either: what is left are mistakes of drawing, the ceiling of the model.

    Each sampled picture is judged in the session's own target pictures, which it replaces for its turn only.
    """
    with torch.no_grad():
        trajectories = rollout(
            bundle, examples, config.sampling, seed=config.seed, true_history=True, true_intents=true_intents
        )
    cases = [(row, k) for row, trajectory in enumerate(trajectories) for k in range(1, len(trajectory.images))]
    pictures = []
    for row, k in cases:
        images = examples[row].images.copy()
        images[k] = trajectories[row].images[k]
        pictures.append(images)
    rows: list[Row] = [{"id": example.session.id, "turns": []} for example in examples]
    scores = judge_many([examples[row].session for row, _ in cases], pictures)
    for (row, k), score in zip(cases, scores, strict=True):
        values = score.turns[k - 1]
        present = {name: values[name] for name in METRICS if isinstance(values[name], float)}
        rows[row]["turns"].append({"turn": k, "trace": trajectories[row].turns[k - 1].trace_text, **present})
    return rows


def contamination_gap(rows: Sequence[Row], untouched: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Per turn and metric, score of the free-running session minus score on the true history, over turns with both."""
    pairs: dict[str, dict[str, list[float]]] = {}
    for row, other in zip(rows, untouched, strict=True):
        for free, true in zip(row["turns"], other["turns"], strict=True):
            of_turn = pairs.setdefault(str(free["turn"]), {name: [] for name in METRICS})
            for name in METRICS:
                if name in free and name in true:
                    of_turn[name].append(free[name] - true[name])
    return {turn: {name: _mean(found) for name, found in of_turn.items()} for turn, of_turn in sorted(pairs.items())}


def session_row(example: Example, trajectory: Trajectory, scores: SessionScores) -> Row:
    """One session of the score sheet; an absent metric is named under `absent` and has no number."""
    turns = []
    for k, (turn, sample, values) in enumerate(
        zip(example.session.turns, trajectory.turns, scores.turns, strict=True), start=1
    ):
        present = {name: values[name] for name in METRICS if isinstance(values[name], float)}
        absent = {name: str(values[name]) for name in METRICS if name not in present}
        turns.append(
            {
                "turn": k,
                "edit_type": str(turn.task_type),
                "instruction": turn.instruction,
                "trace": sample.trace_text,
                "distance": scores.distances[k - 1],
                **present,
                "absent": absent,
            }
        )
    track, scene, success = example.session.track, example.session.scene, scores.success
    return {
        "id": example.session.id,
        "track": str(track) if track else None,
        "held_out": list(scene.held_out) if scene else [],
        "success": success if isinstance(success, float) else None,
        "turns": turns,
    }


def score_sheet(rows: Sequence[Row], config: EvaluationConfig) -> dict[str, Any]:
    """Scores of every session and turn with their means and denominators. The caller adds what names model and data."""
    turns = [turn | {"track": row["track"]} for row in rows for turn in row["turns"]]
    tracks = sorted({row["track"] for row in rows if row["track"]})
    summary: dict[str, Any] = {**_table(turns), "session_success": _successes(rows)}
    for track in tracks:
        of_track = [row for row in rows if row["track"] == track]
        summary[track] = {**_table([t for t in turns if t["track"] == track]), "session_success": _successes(of_track)}
    for name, key in (("by_turn", "turn"), ("by_type", "edit_type"), ("by_distance", "distance")):
        values = sorted({turn[key] for turn in turns if turn[key] is not None})
        summary[name] = {str(value): _table([t for t in turns if t[key] == value]) for value in values}
    return {
        "format": 1,
        "judge": JUDGE,
        "seed": config.seed,
        "settings": dataclasses.asdict(config.sampling),
        "batch_size": config.batch_size,
        "sessions": list(rows),
        "summary": summary,
    }


def _mean(values: Sequence[float]) -> dict[str, float | int | None]:
    return {"mean": float(np.mean(values)) if values else None, "n": len(values)}


def _successes(rows: Sequence[Row]) -> dict[str, float | int | None]:
    return _mean([row["success"] for row in rows if row["success"] is not None])


def _table(turns: Sequence[Row]) -> dict[str, Any]:
    return {name: _mean([turn[name] for turn in turns if name in turn]) for name in METRICS}


def _means(rows: Sequence[Row]) -> dict[str, float]:
    table = _table([turn for row in rows for turn in row["turns"]])
    return {f"evaluation/{name}": cell["mean"] for name, cell in table.items() if cell["mean"] is not None}


def _draw(folder: Path, row: Row, trajectory: Trajectory) -> list[str]:
    captions = ["source"] + [
        f"{t['turn']}. {t['instruction']} [{t['trace']}] "
        + " ".join(f"{name} {t[name]:.2f}" for name in ("IF", "CC", "GA") if name in t)
        for t in row["turns"]
    ]
    draw_strip(trajectory.images, captions).save(folder / f"{row['id']}.png")
    return captions
