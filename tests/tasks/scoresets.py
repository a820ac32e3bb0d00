"""Synthetic score records: editors of known quality on one benchmark, for tests of everything after evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from tasks.decision import DatasetEvidence, Evidence, RewardTrend
from tasks.scores import Scores

EDIT_TYPES = (
    "subject_add",
    "subject_remove",
    "subject_replace",
    "color_alter",
    "material_alter",
    "text_change",
    "position_change",
    "count_change",
    "background_change",
)
BENCHMARK = "0123456789abcdef0123456789abcdef.dir"
Quality = Callable[[dict], tuple[float, float, float]]  # turn facts -> chances of IF and GA, mean CC: (IF, CC, GA)


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def skilled(skill: float = 0.6) -> Quality:
    """An editor of equal skill everywhere; harder turns fail more often."""
    return lambda turn: (skill - turn["hard"], 0.9, skill - turn["hard"])


def identity(turn: dict) -> tuple[float, float, float]:
    return 0.0, 1.0, 0.0


def noise(turn: dict) -> tuple[float, float, float]:
    return 0.02, 0.0, 0.02


def forgetter(turn: dict) -> tuple[float, float, float]:
    """Does each instruction by itself, and loses what earlier turns stated."""
    ours = skilled()(turn)
    return ours if turn["turn"] == 1 else (ours[0] * 0.8, ours[1], 0.05)


def tinter(turn: dict) -> tuple[float, float, float]:
    """Edits well, and tints all that should have stayed."""
    ours = skilled()(turn)
    return ours[0], 0.15, ours[2]


def broken(edit_type: str) -> Quality:
    return lambda turn: (0.0, 0.9, 0.0) if turn["edit_type"] == edit_type else skilled()(turn)


def score_set(quality: Quality, seed: int = 0, sessions: int = 120, name: str = "model", **changes) -> Scores:
    """Scores of one editor. The benchmark is the same for every call of one size; `seed` draws the answers."""
    layout, answers = np.random.default_rng(7), np.random.default_rng([seed, 11])
    records = []
    for index in range(sessions):
        turns: list[dict] = []
        for number in range(1, int(layout.integers(2, 9)) + 1):
            facts = {"turn": number, "edit_type": str(layout.choice(EDIT_TYPES)), "hard": float(layout.uniform(0, 0.3))}
            constrained = bool(layout.random() < 0.6)
            chances = quality(facts)
            IF, GA = (float(answers.random() < p) for p in (chances[0], chances[2]))
            CC = float(np.clip(answers.normal(chances[1], 0.08), 0, 1).round(4))
            turn = {
                "turn": number,
                "edit_type": facts["edit_type"],
                "IF": IF,
                "CC": CC,
                "success": IF * GA * (CC > 0.5),
            }
            turn |= {"GA": GA} if constrained else {"absent": {"GA": "not_applicable"}, "success": IF * (CC > 0.5)}
            turns.append(turn)
        success = float(all(turn["success"] for turn in turns))
        track = "cm" if index % 2 else "cu"
        records.append({"id": f"s{index:04d}", "track": track, "success": success, "turns": turns})
    base = {
        "format": 1,
        "profile": "tiny",
        "model_digest": digest(name),
        "benchmark": {"name": "benchmark/tiny", "digest": BENCHMARK},
        "judge": {"name": "exact", "version": "1"},
        "seed": 0,
        "settings": {"steps": 8},
        "sessions": records,
    }
    return Scores.model_validate(base | changes)


def evidence(model: str = "model", **changes) -> Evidence:
    """Flawless lineage of an RL model."""
    dataset = DatasetEvidence(name="sessions/tiny", used="a.dir", locked="a.dir", pushed=True, valid=True)
    base = {
        "profile": "tiny",
        "stage": "rl",
        "model_digest": digest(model),
        "commit": "c" * 40,
        "dirty": False,
        "lock_digest": "d" * 64,
        "datasets": (dataset,),
        "benchmark_digest": BENCHMARK,
        "parent_digest": digest("parent"),
        "parent_signed": True,
        "reward": RewardTrend(first=0.3, last=0.5),
    }
    return Evidence.model_validate(base | changes)
