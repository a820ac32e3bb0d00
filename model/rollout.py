"""Free-running sessions: each turn the model writes an intent trace, then samples the picture it will go on from.

All trajectories run as one batch on one key/value cache; those whose session is over leave it. What replay needs is
kept: the ids of the traces with their log-probabilities, and the states of the stochastic steps. The history holds
uint8 pictures, re-encoded, exactly as replay will see them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from data.loader import Example
from model import samplers
from model.bundle import Bundle
from model.config import SamplingConfig
from model.context import Context
from model.guidance import Guidance
from model.packing import Pictures
from model.tokenizer import decode_texts, encode_texts
from model.trainer import generator


@dataclass(frozen=True)
class Exploration:
    """Where a sampler draws noise: the steps [start, start + size) of the time grid."""

    kind: Literal["flow", "cps"]
    noise_level: float
    start: int
    size: int


@dataclass(frozen=True)
class Window:
    """The stochastic steps of one picture, for replay. W steps, N tokens, C channels."""

    states: Tensor  # (W, N, C) before each step
    following: Tensor  # (W, N, C) after it
    means: Tensor  # (W, N, C)
    logprobs: Tensor  # (W,)


@dataclass(frozen=True)
class TurnSample:
    """What one trajectory did in one turn. `trace` ids are plain; `trace_logprobs` has one entry per decision."""

    trace: list[int]
    trace_text: str
    trace_logprobs: Tensor
    truncated: bool
    window: Window | None


@dataclass
class Trajectory:
    """One sampled session."""

    session: int  # row of the examples it came from
    images: list[np.ndarray]  # T + 1 pictures (H, W, 3) uint8, source first
    history: list[Pictures]  # the first T of them, encoded
    turns: list[TurnSample]


def rollout(
    bundle: Bundle,
    examples: Sequence[Example],
    config: SamplingConfig,
    *,
    seed: int,
    step: int = 0,
    group_size: int = 1,
    shared_noise: bool = True,
    exploration: Exploration | None = None,
    true_history: bool = False,
) -> list[Trajectory]:
    """Run every session `group_size` times, all at once.

    The initial noise of a turn depends on seed, step, session id and turn (and on the trajectory, unless
    `shared_noise`), never on the batch: a session evaluated alone gives what it gives in company.

    Args:
        examples: sessions with at least their source picture, all of one size.
        exploration: None samples the deterministic flow.
        true_history: go on from the target picture of each turn instead of the sampled one (needs the targets).

    Returns:
        Trajectories, those of one session in a row.
    """
    sampler = _Sampler(bundle, config, seed, step, exploration)
    trajectories = [Trajectory(i, [e.images[0]], [], []) for i, e in enumerate(examples) for _ in range(group_size)]
    sources = bundle.encode(np.stack([example.images[0] for example in examples]))
    context = Context(bundle.model, bundle.special, len(examples), guided=config.text_guidance > 1)
    context.append_pictures(sources)
    context.append_text(_instructions(bundle, examples, range(len(examples)), 0))
    context = context.repeat_interleave(group_size)
    pictures = sources.select([t.session for t in trajectories])
    rows, turn = list(range(len(trajectories))), 0
    while True:
        keys = [_noise_key(examples[trajectories[r].session], None if shared_noise else r, turn) for r in rows]
        samples, images = sampler.turn(context, keys, turn, sources.latent_grids[0])
        for i, row in enumerate(rows):
            trajectories[row].turns.append(samples[i])
            trajectories[row].images.append(images[i])
            trajectories[row].history.append(pictures.select([i]))
        turn += 1
        staying = [i for i, r in enumerate(rows) if len(examples[trajectories[r].session].session.turns) > turn]
        if not staying:
            return trajectories
        if len(staying) < len(rows):
            context, rows, images = context.select(staying), [rows[i] for i in staying], images[staying]
        context.drop_branch()
        if true_history:
            images = np.stack([examples[trajectories[row].session].images[turn] for row in rows])
        pictures = bundle.encode(images)
        context.append_pictures(pictures)
        context.append_text(_instructions(bundle, examples, [trajectories[r].session for r in rows], turn))


def _instructions(bundle: Bundle, examples: Sequence[Example], sessions: Sequence[int], turn: int) -> list[list[int]]:
    return encode_texts(bundle.tokenizer, [examples[s].session.turns[turn].instruction for s in sessions])


def _noise_key(example: Example, row: int | None, turn: int) -> str:
    return f"noise/{example.session.id}/{turn}" + ("" if row is None else f"/{row}")


class _Sampler:
    """Samples one turn of a batch of trajectories."""

    def __init__(
        self, bundle: Bundle, config: SamplingConfig, seed: int, step: int, exploration: Exploration | None
    ) -> None:
        self.bundle, self.config, self.seed, self.step, self.exploration = bundle, config, seed, step, exploration
        self.guidance = Guidance(text=config.text_guidance, image=config.image_guidance)
        self.grid = samplers.schedule(config.points, config.shift)

    def turn(
        self, context: Context, keys: list[str], turn: int, grid: tuple[int, int]
    ) -> tuple[list[TurnSample], np.ndarray]:
        """Write the traces into the context as branches, then sample the pictures (B, H, W, 3)."""
        texts = self._traces(context, len(keys), turn)
        latents, windows = self._pictures(context, keys, turn, grid)
        images = self.bundle.decode(latents, grid)
        return [TurnSample(*text, window) for text, window in zip(texts, windows, strict=True)], images

    def _traces(self, context: Context, rows: int, turn: int) -> list[tuple[list[int], str, Tensor, bool]]:
        if not self.config.write_trace:
            return [([], "", torch.zeros(0), False)] * rows
        random = generator(self.seed, self.step, f"trace/{turn}")
        sample = context.generate_text(self.config.max_trace, self.config.temperature, random)
        ids = sample.texts()
        words = decode_texts(self.bundle.tokenizer, ids)
        lengths, finished = sample.lengths.tolist(), sample.finished.tolist()
        return [(ids[i], words[i], sample.logprobs[i, : lengths[i]].clone(), not finished[i]) for i in range(rows)]

    def _pictures(
        self, context: Context, keys: list[str], turn: int, grid: tuple[int, int]
    ) -> tuple[Tensor, list[Window | None]]:
        shape = (grid[0] * grid[1], self.bundle.model.config.latent_dim)
        x = torch.stack([torch.randn(shape, generator=generator(self.seed, self.step, key)) for key in keys])
        random = generator(self.seed, self.step, f"exploration/{turn}")
        states, steps = [], []
        for i in range(len(self.grid) - 1):
            t = self.grid[i].expand(len(keys))
            v = context.velocity(x, t, grid, self.guidance)
            explores = self.exploration is not None and 0 <= i - self.exploration.start < self.exploration.size
            result = self._step(x, v, i, torch.randn(x.shape, generator=random) if explores else None)
            if explores:
                states.append(x)
                steps.append(result)
            x = result.next
        if not steps:
            return x, [None] * len(keys)
        lists = (states, [s.next for s in steps], [s.mean for s in steps], [s.logprob for s in steps])
        parts = [torch.stack(values, 1) for values in lists]
        return x, [Window(*(part[row] for part in parts)) for row in range(len(keys))]

    def _step(self, x: Tensor, v: Tensor, i: int, noise: Tensor | None) -> samplers.Step:
        t, t_next = self.grid[i], self.grid[i + 1]
        if noise is None or self.exploration is None:
            return samplers.step(x, v, t, t_next, kind="ode")
        return samplers.step(
            x, v, t, t_next, kind=self.exploration.kind, noise_level=self.exploration.noise_level, noise=noise
        )
