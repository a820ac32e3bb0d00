"""Incremental path: one KV cache for a batch of trajectories of different lengths (inference only, no gradient).

It appends the same segments that `model.packing` packs, so both paths agree. One context serves the three guidance
views in one batched call: the view without the current text is a mask over the same cache, the pictureless view a
second stream of columns in the same rows (`guided=True`); no cache is duplicated. A branch is the last thing in the
cache until `drop_branch` or the next picture ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from model.attention import SESSION, additive, visible
from model.cache import Cache
from model.decoding import TextSample, sample_text
from model.guidance import Guidance, combine
from model.layers import Rows
from model.modeling import EditModel
from model.packing import PackedBatch, lay_out
from model.pictures import Grid, Pictures
from model.segments import Kind, RopeState, Segment, View, picture_segments, place_all
from model.tokenizer import SpecialIds

__all__ = ["Context", "TextSample"]


class _Plan(NamedTuple):
    """What a velocity call needs and what does not change between time steps."""

    batch: PackedBatch
    rows: Rows
    group: Tensor  # (B*N,) picture of each token


class Context:
    """KV cache of `rows` trajectories that all stand in the same turn."""

    def __init__(
        self, model: EditModel, special: SpecialIds, rows: int = 1, *, guided: bool = False, capacity: int = 256
    ) -> None:
        self.model, self.special, self.guided = model, special, guided
        attention = [layer.self_attn for layer in model.language_model.model.layers]
        self.cache = Cache.empty(rows, capacity, attention, model.device, model.dtype)
        self.states = [RopeState(turn=1) for _ in range(rows)]
        self.turn = 1
        self._spoken = False  # whether the current turn has a text
        self._branch_at: int | None = None  # columns before the live branches
        self._plans: dict[tuple[Grid, int], _Plan] = {}

    @property
    def rows(self) -> int:
        """Trajectories in the batch."""
        return len(self.states)

    def lengths(self, view: View = View.FULL) -> list[int]:
        """Tokens that a view sees, per row."""
        marks = self.cache.marks[:, :, : self.cache.length]
        query = self._query(view)
        return visible(query, marks).sum(-1).flatten().tolist()

    def ropes(self, view: View = View.FULL) -> list[int]:
        """Next rope id of a view, per row."""
        if view == View.NO_TEXT:
            return [state.floor for state in self.states]
        return [state.rope[int(view == View.NO_IMAGE)] for state in self.states]

    def _query(self, view: View) -> Tensor:
        """Marks (8, B, 1) of a query that comes after everything cached."""
        fields = (0, 1 << 30, 1 << 30, Kind.NOISY, self.turn, 0, view == View.NO_IMAGE, view == View.NO_TEXT)
        marks = torch.tensor([int(x) for x in fields], dtype=torch.int32, device=self.model.device)
        return marks[:, None, None].expand(8, self.rows, 1)

    def _lay_out(self, segments: Sequence[Sequence[Segment]], pictures: Pictures | None) -> PackedBatch:
        """Index tensors of one list of segments per row, and the rope state after them."""
        placed = []
        for row, listed in enumerate(segments):
            where, self.states[row] = place_all(listed, self.states[row])
            placed.append(where)
        rows = range(self.rows)
        batch = lay_out(placed, pictures, self.special, rows, [0] * self.rows, self.cache.length).to(self.model.device)
        batch.marks[SESSION].clamp_(max=0)  # rows come and go: one session per row, always number 0
        return batch

    def _mask(self, queries: Tensor) -> Tensor:
        keys = torch.cat((self.cache.marks[:, :, : self.cache.length], queries), -1)
        return additive(visible(queries, keys), self.model.dtype)

    @torch.no_grad()
    def append(self, segments: Sequence[Sequence[Segment]], pictures: Pictures | None = None) -> tuple[Tensor, Tensor]:
        """Append one list of (kept) segments per row; hidden states (B, width, D) by slot and their marks."""
        self._plans.clear()
        batch = self._lay_out(segments, pictures)
        rows = self.model.rows_of(batch, self._mask(batch.marks))
        self.cache.reserve(batch.width)
        hidden = self.model.decode(
            *self.model.embed(batch, pictures, None, None), rows, self.cache.layers, self.cache.length
        )
        self.cache.commit(batch.marks)
        return torch.cat(hidden)[batch.gather].view(batch.rows, batch.width, -1), batch.marks

    @torch.no_grad()
    def append_text(
        self, ids: Sequence[Sequence[int]], branch: bool = False, want_logits: bool = False
    ) -> Tensor | None:
        """One text per row (plain ids; the frame is added). With `want_logits`: (B, longest framed text, V), in which
        what lies beyond a row's own text means nothing."""
        if branch and self._branch_at is None:
            self._branch_at = self.cache.length
        texts = [Segment(Kind.TEXT, self.turn, tuple(row), branch=branch) for row in ids]
        streams = (View.FULL, View.NO_IMAGE) if self.guided else (View.FULL,)
        hidden, _ = self.append([[replace(text, view=view) for view in streams] for text in texts])
        self._spoken = True
        longest = max(len(text.tokens) for text in texts) + 2
        return self.model.logits(hidden[:, :longest]) if want_logits else None

    def append_pictures(self, pictures: Pictures, use_vit: bool = True) -> None:
        """Picture i of the table goes to row i: clean latents, then ViT. After a text this opens the next turn, and
        live branches end. ValueError when the table has another number of pictures than there are rows."""
        if len(pictures) != self.rows:
            raise ValueError(f"{len(pictures)} pictures for {self.rows} trajectories")
        self.drop_branch()
        if self._spoken:
            self.turn, self._spoken = self.turn + 1, False
        self.append([picture_segments(row, self.turn, use_vit) for row in range(self.rows)], pictures)

    def select(self, rows: Tensor | Sequence[int]) -> Context:
        """A context of the named rows (repeats allowed); this one stays as it is."""
        index = torch.as_tensor(rows, dtype=torch.long, device=self.model.device)
        other = Context.__new__(Context)
        other.__dict__.update(self.__dict__)
        other.cache = self.cache.select(index)
        other.states = [self.states[i] for i in index.tolist()]
        other._plans = {}
        return other

    def repeat_interleave(self, times: int) -> Context:
        """Every row `times` times in a row: a group that shares its prefix until its members diverge."""
        return self.select([row for row in range(self.rows) for _ in range(times)])

    def drop_branch(self) -> None:
        """Forget all branch texts; rope ids go back to where they were before them."""
        if self._branch_at is None:
            return
        self.cache.truncate(self._branch_at)
        self.states = [state.without_branches() for state in self.states]
        self._branch_at = None
        self._plans.clear()

    @torch.no_grad()
    def generate_text(
        self,
        max_tokens: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        branch: bool = True,
        allowed: Tensor | None = None,
    ) -> TextSample:
        """Sample one text per row, each until its own eos. temperature 0 is greedy (log-probabilities at 1).

        `allowed` (V,) bool restricts the vocabulary; log-probabilities are normalised over it. A text that max_tokens
        cuts is closed in the context by an eos that is no decision (`finished` is False there).
        """
        start = self.cache.length
        if branch and self._branch_at is None:
            self._branch_at = start
        self._plans.clear()
        query = replace(Segment(Kind.TEXT, self.turn, branch=branch))
        sample = sample_text(self, query, max_tokens, temperature, generator, allowed)
        texts = [Segment(Kind.TEXT, self.turn, tuple(row), branch=branch) for row in sample.texts()]
        self.states = [state.place(text)[1] for state, text in zip(self.states, texts, strict=True)]
        if self.guided:
            self.append([[replace(text, view=View.NO_IMAGE)] for text in texts])
        self._spoken = True
        return sample

    def _plan(self, grid: Grid, views: int) -> _Plan:
        key = (grid, views)
        if key not in self._plans:
            states = list(self.states)
            listed = [
                [Segment(Kind.NOISY, self.turn, noisy=row, view=view, grid=grid) for view in tuple(View)[:views]]
                for row in range(self.rows)
            ]
            batch = self._lay_out(listed, None)
            self.states = states  # noise leaves no trace
            self.cache.reserve(batch.width)
            rows = self.model.rows_of(batch, self._mask(batch.marks))
            self._plans[key] = _Plan(batch, rows, batch.noisy_of_token)
        return self._plans[key]

    @torch.no_grad()
    def velocity(self, x: Tensor, t: Tensor | float, grid: Grid, guidance: Guidance | None = None) -> Tensor:
        """Velocity (B, N, C) of latents x (B, N, C) at time t (scalar or (B,)); the cache stays as it is.

        ValueError when image guidance is asked of a context without the pictureless stream.
        """
        time = torch.as_tensor(t, dtype=torch.float32, device=x.device).expand(x.shape[0])
        views = 1
        if guidance is not None and guidance.uses_text and bool(guidance.acts(time).any()):
            views = 3 if guidance.uses_image else 2
        if views == 3 and not self.guided:
            raise ValueError("image guidance needs Context(guided=True)")
        plan = self._plan(grid, views)
        und, gen = self.model.embed(plan.batch, None, x.flatten(0, 1), time)
        _, gen = self.model.decode(und, gen, plan.rows, self.cache.layers, self.cache.length)
        out = self.model.velocities(plan.batch, gen).to(x.dtype)
        if views == 1 or guidance is None:
            return out[0].view_as(x)
        no_image = out[2] if views == 3 else None
        return combine(guidance, out[0], out[1], no_image, time[plan.group], plan.group).view_as(x)
