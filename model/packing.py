"""Many sessions in one forward: sessions are placed, dealt into rows, and laid out as index tensors.

SFT, replay and the base model's training all go through `pack`; `model.context` lays out what it appends in the same
way.
"""

from __future__ import annotations

from collections.abc import Sequence

from model.batch import PackedBatch
from model.layout import lay_out
from model.pictures import Pictures
from model.segments import Kind, Segment, View, drop_conditions, picture_segments, place_all, session_segments
from model.token_arrays import token_count
from model.tokenizer import SpecialIds

__all__ = [
    "Kind", "PackedBatch", "Pictures", "Segment", "View", "drop_conditions", "pack", "picture_segments",
    "session_segments",
]  # fmt: skip


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


def pack(sessions: Sequence[Sequence[Segment]], pictures: Pictures, special: SpecialIds) -> PackedBatch:
    """Pack sessions by first fit into rows as long as the longest of them."""
    placed = [place_all(session)[0] for session in sessions]
    lengths = [sum(token_count(p.segment, pictures) for p in session) for session in placed]
    row, column = _bins(lengths, max(lengths))
    return lay_out(placed, pictures, special, row, column)
