"""Per-token arrays of a list of segments: ids, marks, and where every kind of token takes its features from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.pictures import Grid, Pictures, offsets
from model.segments import Kind, Segment, View
from model.tokenizer import SpecialIds

Ints = NDArray[np.int64]


def token_count(segment: Segment, pictures: Pictures | None) -> int:
    """Tokens of a segment with its frame."""
    if segment.kind == Kind.TEXT:
        return len(segment.tokens) + 2
    rows, columns = grid_of(segment, pictures)
    return rows * columns + 2


def grid_of(segment: Segment, pictures: Pictures | None) -> Grid:
    """Tokens of a picture segment, as (rows, columns); ValueError when it names no picture of the table."""
    if segment.grid is not None:
        return segment.grid
    if pictures is None or not 0 <= segment.picture < len(pictures):
        raise ValueError(f"segment {segment.kind.name} of turn {segment.turn} names picture {segment.picture}")
    grids = pictures.patch_grids if segment.kind == Kind.VIT else pictures.latent_grids
    return grids[segment.picture]


class TokenArrays:
    """Per-token arrays of a list of segments, in the segments' order; `order` sorts them into expert order."""

    def __init__(
        self,
        segments: Sequence[Segment],
        session_of: Ints,
        pictures: Pictures | None,
        special: SpecialIds,
    ) -> None:
        self.segments, self.session_of = segments, session_of
        self.pictures, self.special = pictures, special
        self.counts = counts = np.array([token_count(s, pictures) for s in segments], np.int64)
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

    def positions(self, ropes: Sequence[int]) -> Ints:
        """Rope ids: one per token in texts, one per segment elsewhere."""
        return self.spread(ropes) + np.where(self.kind == Kind.TEXT, self.offset, 0)

    def marks(self, orders: Sequence[int], columns: Ints) -> Ints:
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
        size = [grid_of(s, self.pictures) if s.kind == kind else (1, 1) for s in self.segments]
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
        grids = self.pictures.patch_grids if self.pictures is not None else ()
        shape = np.array([grids[i] for i in used], np.int64).reshape(-1, 2)
        sizes = shape.prod(1)
        longest = int(sizes.max(initial=0))
        inner = np.broadcast_to(np.arange(longest), (len(used), longest))
        padding = inner >= sizes[:, None]
        safe = np.where(padding, 0, inner)
        rows, columns = (np.broadcast_to(shape[:, i : i + 1], inner.shape) for i in (0, 1))
        return {
            "vit_index": place * longest + inside,
            "vit_patches": np.array(offsets(grids), np.int64)[used][:, None] + safe,
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

    def _noisy_entries(self) -> list[int]:
        """Segment of every row of the noisy table."""
        full = {s.noisy: i for i, s in enumerate(self.segments) if s.kind == Kind.NOISY and s.view == View.FULL}
        if sorted(full) != list(range(len(full))):
            raise ValueError(f"the noisy table must be used row by row, each once; got rows {sorted(full)}")
        return [full[j] for j in range(len(full))]

    def _view_rows(self, index: Ints, view: Ints, size: int) -> Ints:
        """(views, ΣN) place among the noisy tokens of every token of the noisy table."""
        views = self.views()
        view_rows = np.zeros((len(views), size), np.int64)
        for line, v in enumerate(views):
            here = np.flatnonzero(view == v)
            if not np.array_equal(np.sort(index[here]), np.arange(size)):
                raise ValueError(f"view {v.name} does not hold every row of the noisy table exactly once")
            view_rows[line, index[here]] = here
        return view_rows

    def _noisy(self, starts: Ints) -> dict[str, Ints]:
        chosen, cells, inside = self._cells(Kind.NOISY)
        entries = np.array(self._noisy_entries(), np.int64)
        begin = np.array(offsets([grid_of(self.segments[i], self.pictures) for i in entries]), np.int64)
        table, picture = self._field("noisy", chosen), self._field("picture", chosen)
        index = begin[table] + inside
        view_rows = self._view_rows(index, self._field("view", chosen), int(begin[-1]))
        return {
            "noisy_index": index,
            "noisy_cells": cells,
            "noisy_start": begin[:-1],
            "view_rows": view_rows,
            "noisy_of_token": table[view_rows[0]],
            "noisy_target": np.where(picture >= 0, starts[picture] + inside, -1)[view_rows[0]],
            "noisy_turn": np.array([self.segments[i].turn for i in entries], np.int64),
            "noisy_session": self.session_of[entries],
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
        return {
            "text_index": rank[chosen],
            "text_targets": self.ids()[np.minimum(chosen + 1, len(self.order) - 1)],
            "text_segment": self.spread(ordinal)[chosen],
            "text_turn": np.array([self.segments[i].turn for i in texts], np.int64),
        }
