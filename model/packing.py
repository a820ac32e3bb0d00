"""Many sessions in one forward: placed segments become flat index tensors over rows of slots.

`pack` serves training and replay; `model.context` uses `lay_out` for the tokens that it appends. All work on tokens is
vectorised here, once, in numpy; the forward only gathers. Token order is text (with picture frames), ViT, clean, noisy:
the understanding expert's tokens first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.attention import PADDING, additive, block_mask
from model.layers import Part
from model.partition import Dense, dense
from model.pictures import Grid, Pictures, offsets
from model.segments import Kind, Placed, Segment, View, picture_segments, place_all, session_segments
from model.tokenizer import SpecialIds

__all__ = [
    "Kind", "PackedBatch", "Pictures", "Segment", "View", "lay_out", "pack", "picture_segments", "session_segments",
]  # fmt: skip

Ints = NDArray[np.int64]


class Calls(NamedTuple):
    """Attention calls of a forward, and their tokens: see `model.layers.Rows`."""

    parts: list[Part]
    queries: Tensor
    keys: Tensor
    restore: Tensor


@dataclass(frozen=True)
class PackedBatch:
    """Index tensors of one forward over T tokens in (rows, width) slots; J noisy pictures with ΣN tokens.

    Trainers use noisy_of_token (ΣN,): row of the noisy table of every noisy token, in table order; noisy_target (ΣN,):
    row of `Pictures.latents` that is its clean target (-1 without one); noisy_turn, noisy_session (J,);
    text_turn, text_session (K,) of the K supervised texts, by session, then by place.
    *_cells (n, 4): row, column, rows, columns of a picture token, from which the model takes its table ids.
    """

    rows: int
    width: int
    scatter: Tensor  # (T,) slot of each token
    gather: Tensor  # (rows*width,) token of each slot
    positions: Tensor  # (T,) rope ids
    marks: Tensor  # (8, rows, width), see model.attention
    token_ids: Tensor  # (text tokens,)
    vit_index: Tensor  # (vit tokens,) into the encoded pictures, flat (P', longest)
    vit_patches: Tensor  # (P', longest) rows of Pictures.patches of the P' encoded pictures
    vit_cells: Tensor  # (P', longest, 4)
    vit_padding: Tensor  # (P', longest) bool, True where a shorter picture has no patch
    clean_index: Tensor  # (clean tokens,) rows of Pictures.latents
    clean_cells: Tensor
    noisy_index: Tensor  # (noisy tokens of all views,) rows of the noisy table
    noisy_cells: Tensor
    noisy_start: Tensor  # (J,) first token of each noisy picture
    view_rows: Tensor  # (views, ΣN) place among the noisy tokens, in the order of `views`
    noisy_of_token: Tensor
    noisy_target: Tensor
    noisy_turn: Tensor
    noisy_session: Tensor
    text_index: Tensor  # (M,) supervised places among the text tokens
    text_targets: Tensor  # (M,)
    text_segment: Tensor  # (M,) ordinal of the supervised text
    text_turn: Tensor
    text_session: Tensor
    views: tuple[View, ...]
    uniform_vit: bool
    kept: dict[torch.dtype, Calls] = field(default_factory=dict, repr=False, compare=False)

    def to(self, device: str | torch.device) -> PackedBatch:
        """The same batch on another device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {k: v.to(device) for k, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **moved, kept={})

    @property
    def guided(self) -> bool:
        """Whether every noisy picture is present in all three views."""
        return self.views == tuple(View)

    def calls(self, dtype: torch.dtype) -> Calls:
        """Attention of the packed forward: whole rows under a block mask on CUDA, dense
        problems elsewhere. Kept, since replay asks for it again."""
        if dtype not in self.kept:
            self.kept[dtype] = self._whole() if self.marks.is_cuda else self._dense(dtype)
        return self.kept[dtype]

    def _whole(self) -> Calls:
        part = Part(self.rows, self.width, self.width, block_mask(self.marks))
        return Calls([part], self.gather, self.gather, self.scatter)

    def _dense(self, dtype: torch.dtype) -> Calls:
        listed, restore = dense(self.marks.flatten(1)[:, self.scatter])
        parts = [_part(call, dtype) for call in listed]
        queries, keys = (torch.cat([getattr(c, n).flatten() for c in listed]) for n in ("queries", "keys"))
        return Calls(parts, queries, keys, restore)


def _part(call: Dense, dtype: torch.dtype) -> Part:
    rows, queries, keys = call.seen.shape
    return Part(rows, queries, keys, additive(call.seen, dtype))


def token_count(segment: Segment, pictures: Pictures | None) -> int:
    """Tokens of a segment with its frame."""
    if segment.kind == Kind.TEXT:
        return len(segment.tokens) + 2
    rows, columns = _grid(segment, pictures)
    return rows * columns + 2


def _grid(segment: Segment, pictures: Pictures | None) -> Grid:
    if segment.grid is not None:
        return segment.grid
    if pictures is None or not 0 <= segment.picture < len(pictures):
        raise ValueError(f"segment {segment.kind.name} of turn {segment.turn} names picture {segment.picture}")
    grids = pictures.patch_grids if segment.kind == Kind.VIT else pictures.latent_grids
    return grids[segment.picture]


def _bins(lengths: Sequence[int], limit: int) -> tuple[list[int], list[int]]:
    """First fit, longest first: row and first column of every session."""
    row, column = [0] * len(lengths), [0] * len(lengths)
    filled: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fits = (r for r, used in enumerate(filled) if used + lengths[index] <= limit)
        row[index] = next(fits, len(filled))
        if row[index] == len(filled):
            filled.append(0)
        column[index] = filled[row[index]]
        filled[row[index]] += lengths[index]
    return row, column


def pack(
    sessions: Sequence[Sequence[Segment]], pictures: Pictures, special: SpecialIds, *, row_tokens: int | None = None
) -> PackedBatch:
    """Pack sessions into rows by first fit (rows of `row_tokens` slots at least; default: the longest session)."""
    placed = [place_all(session)[0] for session in sessions]
    lengths = [sum(token_count(p.segment, pictures) for p in session) for session in placed]
    row, column = _bins(lengths, max(row_tokens or 0, *lengths))
    return lay_out(placed, pictures, special, row, column)


def lay_out(
    sessions: Sequence[Sequence[Placed]],
    pictures: Pictures | None,
    special: SpecialIds,
    row: Sequence[int],
    column: Sequence[int],
) -> PackedBatch:
    """Index tensors of placed sessions; session i starts at slot column[i] of row[i].

    ValueError when the noisy rows of a view are not exactly 0..J-1.
    """
    segments = [p.segment for session in sessions for p in session]
    counts = np.array([token_count(s, pictures) for s in segments], np.int64)
    session_of = np.repeat(np.arange(len(sessions)), [len(s) for s in sessions])
    ends = np.concatenate([np.cumsum(counts[session_of == i]) - counts[session_of == i] for i in range(len(sessions))])
    begin = ends + np.asarray(column)[session_of]
    tokens = _Tokens(segments, counts, session_of, pictures, special)
    slot_row = tokens.spread(np.asarray(row)[session_of])
    slot_column = tokens.spread(begin) + tokens.offset
    width = int(slot_column.max()) + 1
    rows = max(row) + 1
    slots = (slot_row * width + slot_column)[tokens.order]
    gather = np.zeros(rows * width, np.int64)
    gather[slots] = np.arange(len(slots))
    rope = np.array([p.rope for session in sessions for p in session], np.int64)
    within = np.where(tokens.kind == Kind.TEXT, tokens.offset, 0)
    orders = np.array([p.order for session in sessions for p in session], np.int64)
    marks = np.zeros((8, rows, width), np.int32)
    marks[0] = PADDING
    marks[:, slot_row, slot_column] = tokens.marks(orders, slot_column)
    common: dict[str, Any] = {
        "scatter": slots,
        "gather": gather,
        "positions": (tokens.spread(rope) + within)[tokens.order],
        "marks": marks,
        **tokens.text(),
        **tokens.vit(),
        **tokens.latents(),
        **tokens.supervision(),
    }
    tensors: dict[str, Any] = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in common.items()}
    uniform = not bool(tensors["vit_padding"].any())
    return PackedBatch(rows=rows, width=width, views=tokens.views(), uniform_vit=uniform, **tensors)


class _Tokens:
    """Per-token arrays of a list of segments, in the segments' order; `order` sorts them into expert order."""

    def __init__(
        self,
        segments: Sequence[Segment],
        counts: Ints,
        session_of: Ints,
        pictures: Pictures | None,
        special: SpecialIds,
    ) -> None:
        self.segments, self.counts, self.session_of, self.pictures, self.special = (
            segments, counts, session_of, pictures, special,
        )  # fmt: skip
        self.owner = np.repeat(np.arange(len(segments)), counts)
        self.offset = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        self.kind = self.spread([s.kind for s in segments])
        last = self.offset == self.spread(counts) - 1
        edge = (self.offset == 0) | last
        self.category = np.where(edge, int(Kind.TEXT), self.kind)
        self.order = np.argsort(self.category, kind="stable")
        self.last = last

    def spread(self, values: Sequence[Any] | NDArray[Any]) -> Ints:
        """Values per segment as values per token."""
        return np.asarray(values, np.int64)[self.owner]

    def marks(self, orders: Ints, columns: Ints) -> Ints:
        """(8, tokens), see model.attention."""
        s = self.segments
        return np.stack(
            [
                self.spread(self.session_of),
                self.spread(orders),
                columns,
                self.kind,
                self.spread([x.turn for x in s]),
                self.spread([x.branch for x in s]),
                self.spread([x.stream for x in s]),
                self.spread([x.view == View.NO_TEXT for x in s]),
            ]
        )

    def ids(self) -> Ints:
        """Vocabulary ids of text tokens and picture frames (0 elsewhere)."""
        ids = np.where(self.offset == 0, self.special.soi, np.where(self.last, self.special.eoi, 0))
        bos, eos = self.special.bos, self.special.eos
        texts = [[bos, *s.tokens, eos] for s in self.segments if s.kind == Kind.TEXT]
        ids[self.kind == Kind.TEXT] = np.array([i for text in texts for i in text], np.int64)
        return ids

    def text(self) -> dict[str, Ints]:
        chosen = self.order[: int((self.category == Kind.TEXT).sum())]
        return {"token_ids": self.ids()[chosen]}

    def _cells(self, kind: Kind) -> tuple[Ints, Ints, Ints]:
        """Tokens of a kind (in order), their cells (n, 4), and their index within the picture."""
        chosen = np.flatnonzero(self.category == kind)
        size = [_grid(s, self.pictures) if s.kind == kind else (1, 1) for s in self.segments]
        rows, columns = np.array(size, np.int64).reshape(-1, 2)[self.owner[chosen]].T
        inside = self.offset[chosen] - 1
        return chosen, np.stack([inside // columns, inside % columns, rows, columns], 1), inside

    def _field(self, name: str, chosen: Ints) -> Ints:
        return self.spread([getattr(s, name) for s in self.segments])[chosen]

    def vit(self) -> dict[str, NDArray[Any]]:
        """Encode every picture that a ViT segment names once, padded to the longest."""
        chosen, _, inside = self._cells(Kind.VIT)
        picture = self._field("picture", chosen)
        used, place = np.unique(picture, return_inverse=True)
        grids = [self.pictures.patch_grids[i] for i in used] if self.pictures is not None else []
        sizes = np.array([r * c for r, c in grids], np.int64)
        longest = int(sizes.max(initial=0))
        inner = np.broadcast_to(np.arange(longest), (len(used), longest))
        padding = inner >= sizes[:, None]
        safe = np.where(padding, 0, inner)
        shape = np.array(grids, np.int64).reshape(-1, 2)
        rows, columns = np.broadcast_to(shape[:, :1], inner.shape), np.broadcast_to(shape[:, 1:], inner.shape)
        starts = np.array(offsets(self.pictures.patch_grids) if self.pictures is not None else [0], np.int64)
        return {
            "vit_index": place * longest + inside,
            "vit_patches": starts[used][:, None] + safe if len(used) else safe,
            "vit_cells": np.stack([safe // np.maximum(columns, 1), safe % np.maximum(columns, 1), rows, columns], -1),
            "vit_padding": padding,
        }

    def views(self) -> tuple[View, ...]:
        """The views of noisy segments that occur; the full one is always listed."""
        present = {s.view for s in self.segments if s.kind == Kind.NOISY} | {View.FULL}
        return tuple(view for view in View if view in present)

    def latents(self) -> dict[str, Ints]:
        chosen, cells, inside = self._cells(Kind.CLEAN)
        starts = np.array(offsets(self.pictures.latent_grids) if self.pictures is not None else [0], np.int64)
        clean = starts[self._field("picture", chosen)] + inside
        return {"clean_index": clean, "clean_cells": cells, **self._noisy(starts)}

    def _noisy(self, starts: Ints) -> dict[str, Ints]:
        chosen, cells, inside = self._cells(Kind.NOISY)
        table, view = self._field("noisy", chosen), self._field("view", chosen)
        entries = {s.noisy: (i, s) for i, s in enumerate(self.segments) if s.kind == Kind.NOISY and s.view == View.FULL}
        if sorted(entries) != list(range(len(entries))):
            raise ValueError(f"the noisy table must be used row by row, each once; got rows {sorted(entries)}")
        listed = [entries[j] for j in range(len(entries))]
        begin = np.array(offsets([_grid(s, self.pictures) for _, s in listed]), np.int64)
        index = begin[table] + inside
        views = self.views()
        view_rows = np.zeros((len(views), int(begin[-1])), np.int64)
        for line, v in enumerate(views):
            here = np.flatnonzero(view == v)
            if not np.array_equal(np.sort(index[here]), np.arange(begin[-1])):
                raise ValueError(f"view {v.name} does not hold every row of the noisy table exactly once")
            view_rows[line, index[here]] = here
        full = view_rows[0]
        picture = self._field("picture", chosen)
        target = np.where(picture >= 0, starts[picture] + inside, -1)
        owners = np.array([i for i, _ in listed], np.int64)
        return {
            "noisy_index": index,
            "noisy_cells": cells,
            "noisy_start": begin[:-1],
            "view_rows": view_rows,
            "noisy_of_token": table[full],
            "noisy_target": target[full],
            "noisy_turn": np.array([s.turn for _, s in listed], np.int64),
            "noisy_session": self.session_of[owners] if len(owners) else owners,
        }

    def supervision(self) -> dict[str, Ints]:
        """Every place of a supervised text but its last predicts the next id; a forced eos is no target."""
        texts = [i for i, s in enumerate(self.segments) if s.kind == Kind.TEXT and s.supervised]
        ordinal = np.full(len(self.segments), -1, np.int64)
        ordinal[texts] = np.arange(len(texts))
        targets = self.spread([len(s.tokens) + 1 - s.truncated for s in self.segments])
        chosen = np.flatnonzero((self.spread(ordinal) >= 0) & (self.offset < targets))
        rank = np.empty(len(self.order), np.int64)
        rank[self.order] = np.arange(len(self.order))
        owners = np.array(texts, np.int64)
        return {
            "text_index": rank[chosen],
            "text_targets": self.ids()[np.minimum(chosen + 1, len(self.order) - 1)],
            "text_segment": self.spread(ordinal)[chosen],
            "text_turn": np.array([self.segments[i].turn for i in texts], np.int64),
            "text_session": self.session_of[owners],
        }
