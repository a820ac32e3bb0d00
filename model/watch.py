"""Watching an RL run: held-out sessions every few iterations, an alert when they part from the reward, and samples."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.loader import Example, SessionFolder
from model import distributed
from model.atomic import replacing
from model.bundle import Bundle
from model.config import EvaluationConfig, RlConfig, SamplingConfig
from model.evaluation import run_sessions, score_sheet, session_row
from model.experience import REWARDED, Experience
from model.judges import METRICS
from model.strips import draw_strip

logger = logging.getLogger(__name__)


def held_out(bundle: Bundle, examples: Sequence[Example], sampling: SamplingConfig, seed: int) -> dict[str, float]:
    """Mean scores of free-running, greedy sessions by metric, `session_success` among them; absences are left out."""
    config = EvaluationConfig(sampling=dataclasses.replace(sampling, temperature=0.0), seed=seed)
    rows = [session_row(*found) for found in run_sessions(bundle, examples, config)]
    summary = score_sheet(rows, config)["summary"]
    means = {name: summary[name]["mean"] for name in (*METRICS, "session_success")}
    return {name: mean for name, mean in means.items() if mean is not None}


def parting(rewards: Sequence[float], scores: Sequence[float], window: int, fall: float) -> bool:
    """Whether the reward rises while the held-out score falls by more than `fall`, both by the straight line through
    the last `window` looks."""
    if window < 2 or len(scores) < window:
        return False
    looks = np.arange(window)
    rise, change = (np.polyfit(looks, values[-window:], 1)[0] * (window - 1) for values in (rewards, scores))
    return bool(rise > 0 and change < -fall)


class Watch:
    """Looks at the first sessions of the split `validation`; without that split it sees nothing.

    Args:
        notes: the trainer's notes, which survive an interruption.
    """

    def __init__(self, bundle: Bundle, sessions: Path, config: RlConfig, notes: dict[str, Any]) -> None:
        self.bundle, self.config = bundle, config
        self.notes = notes.setdefault("watch", {"since": [], "rewards": [], "scores": []})
        self.examples: list[Example] = []
        if config.alert_every and (sessions / "validation.jsonl").is_file():
            folder = SessionFolder(sessions, "validation", targets=False)
            count = min(len(folder), config.alert_sessions)
            self.examples = [folder[index].first(config.max_turns) for index in range(count)]

    def look(self, step: int, reward: float) -> dict[str, float]:
        """Note the reward of an iteration; every `alert_every` of them score the held-out sessions.

        Returns:
            `validation_*` and `alert` (1 or 0), or nothing between looks.
        """
        self.notes["since"].append(reward)
        if not self.examples or step % self.config.alert_every:
            return {}
        with distributed.whole(self.bundle.model):
            found = held_out(self.bundle, self.examples, self.config.sampling, self.config.optimisation.seed)
        self.notes["rewards"].append(float(np.mean(self.notes["since"])))
        self.notes["scores"].append(self._score(found))
        self.notes["since"] = []
        rewards, scores = self.notes["rewards"], self.notes["scores"]
        alert = parting(rewards, scores, self.config.alert_window, self.config.alert_fall)
        if alert:
            first = max(-self.config.alert_window, -len(rewards))
            logger.warning(
                "Iteration %d: the reward rises (%.3f to %.3f) while the held-out score falls (%.3f to %.3f)",
                *(step, rewards[first], rewards[-1], scores[first], scores[-1]),
            )
        return {f"validation_{name}": value for name, value in found.items()} | {"alert": float(alert)}

    def _score(self, found: dict[str, float]) -> float:
        """The metrics weighted as in the reward."""
        weights = dict(zip(REWARDED, self.config.rewards, strict=True))
        there = {name: weight for name, weight in weights.items() if name in found}
        return sum(weight * found[name] for name, weight in there.items()) / (sum(there.values()) or 1.0)


def draw_samples(experience: Experience, path: Path) -> None:
    """The first group of an iteration as one picture: a row per member, captions with trace and reward."""
    size = experience.rewards.shape[1]
    rows = []
    for member, trajectory in enumerate(experience.trajectories[:size]):
        session = experience.examples[trajectory.session].session
        captions = [f"{session.id} {member}"]
        for turn, sample in enumerate(trajectory.turns):
            told = f"reward {experience.rewards[0, member, turn]:.2f}" if turn >= trajectory.own else "a sibling's"
            captions.append(f"{session.turns[turn].instruction} [{sample.trace_text}] {told}")
        rows.append(draw_strip(trajectory.images, captions))
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    with replacing(path) as temporary:
        sheet.save(temporary, "PNG", compress_level=4)
