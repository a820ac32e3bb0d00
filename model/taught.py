"""Ground-truth sessions, encoded once and drawn step by step: what SFT learns from, and what RL may hold on to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from data.loader import Lesson, SessionFolder
from model import distributed
from model.bundle import Bundle
from model.config import RlConfig, SupervisedConfig
from model.ground_truth import ground_truth
from model.packing import Pictures
from model.supervised import encode_lessons, noise_of, supervised_loss
from model.tallies import Tally, Watched
from model.trainer import numpy_generator

ROOM = 2**32  # bytes of encoded sessions that stay in memory: all of a rendered world's, a few hundred of 512 pixels


class TaughtSessions:
    """The sessions of a folder's split `train`; calling it with a step gives this rank's share of the step's batch.

    Args:
        labelled: learn from the first so many of them alone; None: from all.
        size: sessions of a step, over all ranks.
        name: what asks for them, in the draw and where the ranks cannot share them.
    """

    def __init__(self, bundle: Bundle, folder: Path, labelled: int | None, size: int, seed: int, name: str) -> None:
        self.sessions = SessionFolder(folder, "train")
        self.count = min(labelled or len(self.sessions), len(self.sessions))
        self.size, self.seed, self.name = min(size, self.count), seed, name

        self.bundle, self.room = bundle, ROOM
        self.kept: dict[int, tuple[Lesson, Pictures]] = {}

    def encoded(self, index: int) -> tuple[Lesson, Pictures]:
        """One session and its encoded pictures.

        The first ones stay as long as there is room: draws are even, so none is worth more than another.
        """
        found = self.kept.get(index)
        if found is None:
            lesson = Lesson.of(self.sessions[index])
            found = lesson, encode_lessons(self.bundle, [lesson])[0]
            size = lesson.images.nbytes + found[1].nbytes
            if size <= self.room:
                self.kept[index], self.room = found, self.room - size
        return found

    def __call__(self, step: int) -> tuple[Sequence[Lesson], Sequence[Pictures]]:
        random = numpy_generator(self.seed, step, f"{self.name} batch")
        chosen = random.choice(self.count, size=self.size, replace=False)
        mine = distributed.shard(chosen.tolist(), self.name)
        lessons, tables = zip(*(self.encoded(index) for index in mine), strict=True)
        return lessons, tables

    def any(self, random: np.random.Generator) -> Lesson:
        """One of all these sessions."""
        return self.encoded(int(random.integers(self.count)))[0]


class Anchor:
    """Ground truth beside the reward (PPO-ptx, arXiv 2203.02155): every RL update learns some SFT sessions too, so that
    what the reward does not speak of is not forgotten."""

    def __init__(self, bundle: Bundle, config: RlConfig, folder: Path) -> None:
        anchor, self.bundle = config.anchor, bundle
        self.config = SupervisedConfig(
            noise_draws=anchor.noise_draws,
            trace_weight=anchor.trace_weight,
            write_trace=config.sampling.write_trace,
            optimisation=config.optimisation,
        )
        self.weight, self.updates = anchor.weight, config.epochs * config.minibatches
        seed = config.optimisation.seed
        self.batches = TaughtSessions(bundle, folder, anchor.labelled, anchor.sessions, seed, "rl.anchor.sessions")

    def losses(self, iteration: int, update: int, watched: list[Watched]) -> Iterator[Tensor]:
        """The one loss of an update; what to watch goes to `watched`."""
        step = iteration * self.updates + update
        lessons, tables = self.batches(step)
        shown = ground_truth(self.bundle, lessons, tables, self.config, noise_of(self.config, step, len(lessons)))
        loss, metrics = supervised_loss(self.bundle, shown, self.config.trace_weight)
        watched.append({f"anchor_{name}": Tally(value) for name, value in metrics.items()})
        yield self.weight * loss
