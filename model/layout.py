"""Placed segments to index tensors. All work on tokens is vectorised in numpy; the forward only gathers.

Token order is text (with picture frames), ViT, clean, noisy: the understanding expert's tokens first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from model.attention import PADDING, SESSION
from model.batch import PackedBatch
from model.pictures import Pictures
from model.segments import Placed
from model.token_arrays import Ints, TokenArrays
from model.tokenizer import SpecialIds


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
    placed = [p for session in sessions for p in session]
    session_of = np.repeat(np.arange(len(sessions)), [len(s) for s in sessions])
    tokens = TokenArrays([p.segment for p in placed], session_of, pictures, special)
    slot_row = np.asarray(row, np.int64)[session_of][tokens.owner]
    slot_column = _starts(tokens.counts, session_of, np.asarray(column, np.int64))[tokens.owner] + tokens.offset
    rows, width = max(row) + 1, int(slot_column.max()) + 1
    marks = np.zeros((8, rows, width), np.int32)
    marks[SESSION] = PADDING
    marks[:, slot_row, slot_column] = tokens.marks([p.order for p in placed], slot_column)
    slots = (slot_row * width + slot_column)[tokens.order]
    gather = np.zeros(rows * width, np.int64)
    gather[slots] = np.arange(len(slots))
    arrays = {
        "scatter": slots,
        "gather": gather,
        "positions": tokens.positions([p.rope for p in placed])[tokens.order],
        "marks": marks,
        **tokens.text(),
        **tokens.vit(),
        **tokens.latents(),
        **tokens.supervision(),
    }
    tensors: dict[str, Any] = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}
    uniform = not bool(tensors["vit_padding"].any())
    return PackedBatch(rows=rows, width=width, views=tokens.views(), uniform_vit=uniform, **tensors)


def _starts(counts: Ints, session_of: Ints, column: Ints) -> Ints:
    """First column of every segment: its session's, plus the session's earlier segments."""
    before = np.cumsum(counts) - counts
    first = np.searchsorted(session_of, session_of)  # first segment of each segment's session
    return before - before[first] + column[session_of]
