"""Incremental path: one KV cache for a batch of trajectories of different lengths (inference only, no gradient).

It appends the same segments that `model.packing` packs, so both paths agree. One context serves the three guidance
views in one batched call: the view without the current text is a mask over the same cache, the pictureless view a
second stream of columns in the same rows (`guided=True`); no cache is duplicated. A branch is the last thing in the
cache until `drop_branch` or the next picture ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.attention import COLUMN, SESSION, additive, visible
from model.batch import Calls, PackedBatch
from model.cache import Cache
from model.decoding import Generators, TextSample, distinct, sample_text, text_marks
from model.guidance import Guidance, combine
from model.layout import lay_out
from model.modeling import EditModel
from model.partition import windows
from model.pictures import Grid, Pictures
from model.rows import LayerCache, Part, Rows, evened
from model.segments import Kind, RopeState, Segment, View, picture_segments, place_all
from model.token_arrays import token_count
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
        self.model, self.special = model, special
        attention = [layer.self_attn for layer in model.language_model.model.layers]
        sizes = (capacity, max(capacity // 4, 1)) if guided else (capacity,)
        self.streams = [Cache.empty(rows, size, attention, model.device, model.dtype) for size in sizes]
        self.states = [RopeState(turn=1) for _ in range(rows)]
        self.turn = 1
        self._spoken = False  # whether the current turn has a text
        self._branch_at: list[int] | None = None  # columns per stream before the live branches
        self._plans: dict[tuple[Grid, int], _Plan] = {}

    @property
    def rows(self) -> int:
        """Trajectories in the batch."""
        return len(self.states)

    @property
    def guided(self) -> bool:
        """Whether there is a pictureless stream."""
        return len(self.streams) > 1

    def lengths(self, view: View = View.FULL) -> list[int]:
        """Tokens that a view sees, per row."""
        cache = self.streams[int(view == View.NO_IMAGE)]
        fields = (0, 1 << 30, 1 << 30, Kind.NOISY, self.turn, 0, view == View.NO_IMAGE, view == View.NO_TEXT)
        query = torch.tensor([int(x) for x in fields], dtype=torch.int32, device=self.model.device)
        keys = cache.marks[:, :, : cache.length]
        return visible(query[:, None, None].expand(8, self.rows, 1), keys).sum(-1).flatten().tolist()

    def ropes(self, view: View = View.FULL) -> list[int]:
        """Next rope id of a view, per row."""
        if view == View.NO_TEXT:
            return [state.floor for state in self.states]
        return [state.rope[int(view == View.NO_IMAGE)] for state in self.states]

    def _lay_out(
        self,
        groups: Sequence[Sequence[Sequence[Segment]]],
        streams: Sequence[int],
        pictures: Pictures | None,
        lasting: bool = True,
    ) -> tuple[PackedBatch, Rows]:
        """Index tensors of groups[g][row], each group beside the one before and on its own stream; moves the rope.
        Groups that are not `lasting` may borrow the columns that they do not see."""
        placed, columns, begin = [], [], 0
        for group in groups:
            for row, listed in enumerate(group):
                where, self.states[row] = place_all(listed, self.states[row])
                placed.append(where)
                columns.append(begin)
            begin += max(sum(token_count(s, pictures) for s in listed) for listed in group)
        batch = lay_out(placed, pictures, self.special, [*range(self.rows)] * len(groups), columns)
        batch = batch.to(self.model.device)
        batch.marks[SESSION].clamp_(max=0)  # rows come and go: one session per row, always number 0
        begins, ends = columns[:: self.rows], [*columns[self.rows :: self.rows], begin]
        tokens, restore = windows(batch.gather.view(self.rows, -1), begins, ends, batch.scatter)
        parts = []
        for stream, start, end in zip(streams, begins, ends, strict=True):
            cache, marks, width = self.streams[stream], batch.marks[:, :, start:end], end - start
            marks[COLUMN] += cache.length - start
            asking = marks if lasting else marks[:, :, :1]  # the tokens of a noisy picture see alike
            at = cache.length if lasting else self._needed(cache, asking)
            mask = self._mask(cache, asking, marks, at)
            parts.append(Part(self.rows, width, width, mask, stream, at, borrows=at < cache.length))
            cache.reserve(width)
        rows = self.model.rows_of(batch, Calls(parts, tokens, tokens, restore))
        return batch, rows if lasting else self._evened(rows, batch)

    @staticmethod
    def _needed(cache: Cache, queries: Tensor) -> int:
        """Columns of the cache up to the last one that any query sees."""
        seen = torch.nonzero(visible(queries, cache.marks[:, :, : cache.length]).any(0).any(0))
        return int(seen[-1]) + 1 if len(seen) else 0

    def _mask(self, cache: Cache, queries: Tensor, own: Tensor, columns: int) -> Tensor | None:
        seen = visible(queries, torch.cat((cache.marks[:, :, :columns], own), -1))
        return None if bool(seen.all()) else additive(seen, self.model.dtype)

    def _evened(self, rows: Rows, batch: PackedBatch) -> Rows:
        """Rows of noisy pictures: two frame tokens, then the latents, which is an order as good as any."""
        count = sum(part.rows for part in rows.parts)
        attention: Any = self.model.language_model.model.layers[0].self_attn
        heads = attention.heads + attention.kv_heads
        return evened(rows, len(batch.token_ids) // count, len(batch.noisy_index) // count, heads)

    def _layers(self) -> list[list[LayerCache]]:
        return [stream.layers for stream in self.streams]

    @torch.no_grad()
    def append(
        self, groups: Sequence[Sequence[Sequence[Segment]]], pictures: Pictures | None = None, first_stream: int = 0
    ) -> Tensor:
        """Append groups[g][row], lists of kept segments; group g goes to stream first_stream + g. Hidden states
        (B, width, D) by slot."""
        self._plans.clear()
        streams = range(first_stream, first_stream + len(groups))
        batch, rows = self._lay_out(groups, streams, pictures)
        hidden = self.model.decode(*self.model.embed(batch, pictures, None, None), rows, self._layers())
        begin = 0
        for part in rows.parts:
            end = begin + part.keys
            self.streams[part.stream].commit(batch.marks[:, :, begin:end])
            begin = end
        return torch.cat(hidden)[batch.gather].view(batch.rows, batch.width, -1)

    def _open_branch(self) -> None:
        if self._branch_at is None:
            self._branch_at = [stream.length for stream in self.streams]

    @torch.no_grad()
    def append_text(
        self, ids: Sequence[Sequence[int]], branch: bool = False, want_logits: bool = False
    ) -> Tensor | None:
        """One text per row (plain ids; the frame is added). With `want_logits`: (B, longest framed text, V), in which
        what lies beyond a row's own text means nothing."""
        if branch:
            self._open_branch()
        texts = [Segment(Kind.TEXT, self.turn, tuple(row), branch=int(branch)) for row in ids]
        views = (View.FULL, View.NO_IMAGE) if self.guided else (View.FULL,)
        hidden = self.append([[[replace(text, view=view)] for text in texts] for view in views])
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
        self.append([[picture_segments(row, self.turn, use_vit) for row in range(self.rows)]], pictures)

    def select(self, rows: Tensor | Sequence[int]) -> Context:
        """A context of the named rows (repeats allowed); this one stays as it is."""
        index = torch.as_tensor(rows, dtype=torch.long, device=self.model.device)
        other = Context.__new__(Context)
        other.__dict__.update(self.__dict__)
        other.streams = [stream.select(index) for stream in self.streams]
        other.states = [self.states[i] for i in index.tolist()]
        other._plans = {}
        return other

    def keeping(self, rows: Sequence[int]) -> Context:
        """As `select`, but this context itself where nothing would change."""
        return self if list(rows) == list(range(self.rows)) else self.select(rows)

    def repeat_interleave(self, times: int) -> Context:
        """Every row `times` times in a row: a group that shares its prefix until its members diverge."""
        return self.select([row for row in range(self.rows) for _ in range(times)])

    def drop_branch(self) -> None:
        """Forget all branch texts; rope ids go back to where they were before them."""
        if self._branch_at is None:
            return
        for stream, length in zip(self.streams, self._branch_at, strict=True):
            stream.truncate(length)
        self.states = [state.without_branches() for state in self.states]
        self._branch_at = None
        self._plans.clear()

    @torch.no_grad()
    def generate_text(
        self,
        max_tokens: int,
        temperature: float = 1.0,
        generator: Generators = None,
        branch: bool = False,
        allowed: Tensor | None = None,
        stands: Sequence[int] | None = None,
    ) -> TextSample:
        """Sample texts, each until its own eos. temperature 0 is greedy (log-probabilities at 1).

        `allowed` (V,) bool restricts the vocabulary; log-probabilities are normalised over it. A text that max_tokens
        cuts is closed in the context by an eos that is no decision (`finished` is False there). `generator`: one for
        all, or a list with one per text, which makes a text independent of its company. `stands`: the row that each
        text follows, by default one text per row; afterwards every different text of a row has a row (`rows`).
        """
        if branch:
            self._open_branch()
        self._plans.clear()
        stands = range(self.rows) if stands is None else stands
        query, rows = Segment(Kind.TEXT, self.turn, branch=int(branch)), torch.tensor(stands, device=self.model.device)
        sample, columns = sample_text(self, query, max_tokens, temperature, generator, allowed, rows)
        deeds = list(zip(stands, map(tuple, sample.texts()), strict=True))
        firsts, numbers = distinct(deeds)
        texts = [replace(query, tokens=deeds[k][1]) for k in firsts]
        self._follow([stands[k] for k in firsts], texts, columns[firsts])
        if self.guided:
            self.append([[[replace(text, view=View.NO_IMAGE)] for text in texts]], first_stream=1)
        self._spoken = True
        return sample._replace(rows=numbers)

    def _follow(self, stands: list[int], texts: list[Segment], columns: Tensor) -> None:
        """Make rows of the texts, which follow rows `stands` and were decoded in `columns` (R, steps)."""
        if stands != list(range(self.rows)):
            rows = torch.tensor(stands, device=self.model.device)
            self.streams = [s.select(rows, None if i else columns) for i, s in enumerate(self.streams)]
            self.states = [self.states[i] for i in stands]
        lengths = [len(text.tokens) + 2 for text in texts]
        self.streams[0].commit(text_marks(self, texts[0], lengths, columns.shape[1]))
        self.states = [state.place(text)[1] for state, text in zip(self.states, texts, strict=True)]

    def _plan(self, grid: Grid, views: int) -> _Plan:
        """Every view is a part of its own. The first two share a cache: one writes behind the turn's texts, then the
        one that is blind to them in their place."""
        key = (grid, views)
        if key not in self._plans:
            states = list(self.states)
            chosen = tuple(View)[:views]
            noise = [Segment(Kind.NOISY, self.turn, noisy=row, grid=grid) for row in range(self.rows)]
            groups = [[[replace(segment, view=view)] for segment in noise] for view in chosen]
            batch, rows = self._lay_out(groups, [int(view == View.NO_IMAGE) for view in chosen], None, lasting=False)
            self.states = states  # noise leaves no trace
            self._plans[key] = _Plan(batch, rows, batch.noisy_of_token)
        return self._plans[key]

    @torch.no_grad()
    def views(self, x: Tensor, t: Tensor, grid: Grid, views: int = 3) -> Tensor:
        """Velocities (views, B*N, C) of the first views of `View`; x (B, N, C), t (B,). ValueError without the
        stream that a view needs."""
        if views > 1 + len(self.streams):
            raise ValueError("image guidance needs Context(guided=True)")
        plan = self._plan(grid, views)
        und, gen = self.model.embed(plan.batch, None, x.flatten(0, 1), t)
        _, gen = self.model.decode(und, gen, plan.rows, self._layers())
        return self.model.velocities(plan.batch, gen)

    def velocity(self, x: Tensor, t: Tensor | float, grid: Grid, guidance: Guidance | None = None) -> Tensor:
        """Velocity (B, N, C) of latents x (B, N, C) at time t (scalar or (B,)); the cache stays as it is."""
        time = torch.as_tensor(t, dtype=torch.float32, device=x.device).expand(x.shape[0])
        views = 1
        if guidance is not None and guidance.uses_text and bool(guidance.acts(time).any()):
            views = 3 if guidance.uses_image else 2
        out = self.views(x, time, grid, views)
        if views == 1 or guidance is None:
            return out[0].view_as(x)
        group = self._plan(grid, views).group
        no_image = out[2] if views == 3 else None
        return combine(guidance, out[0], out[1], no_image, time[group], group).view_as(x)
