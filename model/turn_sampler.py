"""Sampling of one turn for a batch of trajectories: the intent traces, then the pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model import samplers
from model.bundle import Bundle
from model.config import SamplingConfig
from model.context import Context
from model.decoding import distinct
from model.guidance import Guidance
from model.images import Pixels
from model.pictures import Grid
from model.tokenizer import decode_texts, encode_texts
from model.trainer import generator
from model.trajectories import Exploration, TurnSample, Window

Members = Sequence[tuple[str, int]]  # name of the script and number in the group, per row
_Trace = tuple[list[int], str, Tensor, bool]  # ids, words, log-probabilities, whether it was cut


class Sampler:
    """Samples one turn of a batch of trajectories.

    Args:
        shared_noise: the members of a group start a turn's picture from one noise.
        guidance: replaces the scales of `config`.
        allowed: (V,) bool, ids that a trace may hold; None allows all.
        true_history: what is sampled does not stay in the context: traces are branches, which end with their turn.
    """

    def __init__(
        self,
        bundle: Bundle,
        config: SamplingConfig,
        seed: int,
        step: int = 0,
        exploration: Exploration | None = None,
        *,
        shared_noise: bool = True,
        guidance: Guidance | None = None,
        allowed: Tensor | None = None,
        true_history: bool = False,
    ) -> None:
        self.bundle, self.config, self.seed, self.step, self.exploration = bundle, config, seed, step, exploration
        self.shared_noise, self.allowed, self.true_history = shared_noise, allowed, true_history
        self.guidance = guidance or Guidance(text=config.text_guidance, image=config.image_guidance)
        self.grid = samplers.schedule(config.points, config.shift).to(bundle.model.device)

    def turn(
        self,
        context: Context,
        stands: Sequence[int],
        members: Members,
        turn: int,
        grid: Grid,
        given: Sequence[str] = (),
    ) -> tuple[Context, list[int], list[TurnSample], Pixels]:
        """Write the traces (the `given` ones, if any), then sample the pictures.

        Args:
            stands: row of the context in which each member stands.

        Returns:
            The context with a row for everything that was done, the row of what each member did, and per row the sample
            and its picture (R, H, W, 3).
        """
        if given:
            context, texts, rows = self._write(context, stands, given)
        else:
            texts, rows = self._traces(context, stands, members, turn)
        alike = self.shared_noise and self.exploration is None
        firsts, made = distinct([(row, None if alike else member) for row, member in zip(rows, members, strict=True)])
        context = context.keeping([rows[k] for k in firsts])
        latents, windows = self._pictures(context, [members[k] for k in firsts], turn, grid)
        images = self.bundle.decode(latents, grid)
        parts = zip([texts[k] for k in firsts], latents, windows, strict=True)
        samples = [TurnSample(*text, latent, window) for text, latent, window in parts]
        return context, made, samples, images

    def _write(
        self, context: Context, stands: Sequence[int], texts: Sequence[str]
    ) -> tuple[Context, list[_Trace], list[int]]:
        """The context with a row for every different text that follows a row, the texts, and the row of each."""
        firsts, rows = distinct(list(zip(stands, texts, strict=True)))
        context = context.keeping([stands[k] for k in firsts])
        ids = encode_texts(self.bundle.tokenizer, texts)
        context.append_text([ids[k] for k in firsts], branch=self.true_history)
        return context, [(row, text, torch.zeros(0), False) for row, text in zip(ids, texts, strict=True)], rows

    def _random(self, purpose: str, members: Members, turn: int) -> list[torch.Generator]:
        return [generator(self.seed, self.step, f"{purpose}/{name}/{turn}/{number}") for name, number in members]

    def _traces(
        self, context: Context, stands: Sequence[int], members: Members, turn: int
    ) -> tuple[list[_Trace], list[int]]:
        """A trace per member, and the row of the context in which it stands now."""
        if not self.config.write_trace:
            return [([], "", torch.zeros(0), False)] * len(members), list(stands)
        random, config = self._random("trace", members, turn), self.config
        sample = context.generate_text(
            config.max_trace,
            config.temperature,
            random,
            branch=self.true_history,
            allowed=self.allowed,
            stands=stands,
        )
        ids = sample.texts()
        words = decode_texts(self.bundle.tokenizer, ids)
        lengths, cut, logprobs = sample.lengths.tolist(), (~sample.finished).tolist(), sample.logprobs
        traces = [(ids[i], words[i], logprobs[i, : lengths[i]].clone(), cut[i]) for i in range(len(members))]
        return traces, sample.rows

    def _noise(self, purpose: str, members: Members, turn: int, shape: tuple[int, ...]) -> Tensor:
        """(B, *shape) normal numbers; rows with the same name and number get the same ones."""
        drawn = [torch.randn(shape, generator=random) for random in self._random(purpose, members, turn)]
        return torch.stack(drawn).to(self.bundle.model.device)

    def _pictures(
        self, context: Context, members: Members, turn: int, grid: Grid
    ) -> tuple[Tensor, list[Window | None]]:
        shape = (grid[0] * grid[1], self.bundle.model.config.latent_dim)
        group = [(name, 0) for name, _ in members]
        first = self._noise("noise", group if self.shared_noise else members, turn, shape)
        x, noise = self.config.noise_scale * first, None
        if self.exploration is not None:
            noise = self._noise("exploration", members, turn, (self.exploration.size, *shape))
        states, steps = [], []
        for i in range(len(self.grid) - 1):
            taken = self._step(x, context.velocity(x, self.grid[i], grid, self.guidance), i, noise)
            if self.exploration is not None and self.exploration.covers(i):
                states.append(x)
                steps.append(taken)
            x = taken.next
        if not steps:
            return x, [None] * len(members)
        lists = (states, [s.next for s in steps], [s.mean for s in steps], [s.logprob for s in steps])
        parts = [torch.stack(values, 1) for values in lists]
        return x, [Window(*(part[row] for part in parts)) for row in range(len(members))]

    def _step(self, x: Tensor, v: Tensor, i: int, noise: Tensor | None) -> samplers.Step:
        """Step i of the grid; noise (B, W, N, C) of the exploration's steps."""
        t, t_next, explored = self.grid[i], self.grid[i + 1], self.exploration
        if noise is None or explored is None or not explored.covers(i):
            return samplers.step(x, v, t, t_next, kind="ode")
        drawn = noise[:, i - explored.start]
        return samplers.step(x, v, t, t_next, kind=explored.kind, noise_level=explored.noise_level, noise=drawn)
