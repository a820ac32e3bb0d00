"""Validation during a supervised training: free-running held-out sessions with the averaged weights, and early stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from data.loader import Example
from model import distributed
from model.bundle import Bundle
from model.config import SupervisedConfig
from model.trainer import Trainer
from model.watch import held_out

SCORES = ("IF", "CC", "GA", "session_success")
"""Their mean decides which weights are the best."""


class Validation:
    """Looks at held-out sessions every few steps; what it has seen lies in the trainer's notes, so that a run that is
    cut off goes on as it would have. It draws nothing from the training's random numbers.

    Args:
        examples: sessions with their source pictures, none of which is trained on; without any, nothing is looked at.
    """

    def __init__(self, bundle: Bundle, config: SupervisedConfig, examples: Sequence[Example], work: Trainer) -> None:
        self.bundle, self.config, self.work = bundle, config, work
        self.examples = list(examples)
        self.notes: dict[str, Any] = work.notes.setdefault("validation", {"best": None, "since": 0})

    def look(self, step: int) -> dict[str, float]:
        """After a step, when it is time: mean scores by name and `validation_score`; keeps the best weights."""
        last = step + 1 == self.config.optimisation.steps
        if not self.examples or ((step + 1) % self.config.validation.every and not last):
            return {}
        model = self.bundle.model
        model.eval()
        with self.work.averaged(), distributed.whole(model):
            # Every rank looks at all of them: scores are means, and there are few.
            found = held_out(self.bundle, self.examples, self.config.validation.sampling, self.config.optimisation.seed)
        model.train()
        score = sum(found.get(name, 0.0) for name in SCORES) / len(SCORES)
        better = self.notes["best"] is None or score > self.notes["best"]
        if better:
            self.work.keep()
        self.notes |= {"best": score, "since": 0} if better else {"since": self.notes["since"] + 1}
        return {f"validation_{name}": value for name, value in found.items()} | {"validation_score": score}

    @property
    def exhausted(self) -> bool:
        """Whether patience has ended."""
        return 0 < self.config.validation.patience <= self.notes["since"]

    def finish(self) -> None:
        """Put the best weights that were seen in place, or the averaged ones where nothing was looked at."""
        if self.notes["best"] is None:
            self.work.use_average()
        else:
            self.work.use_kept()
