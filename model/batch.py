"""The index tensors of one forward, and its attention calls."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from model.attention import PADDING, additive, block_mask, visible
from model.partition import Dense, dense
from model.rows import Part
from model.segments import View

MASKED = 2**30  # entries of the largest mask that is written out
KEPT = 2**26  # entries of the largest mask that outlives its forward: an iteration's batches hold theirs all at once
ALIGNED = 16  # slots of a row


def _part(call: Dense, dtype: torch.dtype) -> Part:
    rows, queries, keys = call.seen.shape
    return Part(rows, queries, keys, additive(call.seen, dtype))


class Calls(NamedTuple):
    """Attention calls of a forward, and their tokens: see `model.rows.Rows`."""

    parts: list[Part]
    queries: Tensor
    keys: Tensor
    restore: Tensor


@dataclass(frozen=True)
class PackedBatch:
    """Index tensors of one forward over T tokens in (rows, width) slots; J noisy pictures with ΣN tokens.

    Trainers use noisy_of_token (ΣN,): row of the noisy table of every noisy token, in table order; noisy_target (ΣN,):
    row of `Pictures.latents` that is its clean target (-1 without one); noisy_turn, noisy_session (J,);
    text_turn (K,) of the K supervised texts, by session, then by place.
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
        """Attention of the packed forward: whole rows on CUDA, under a mask or, where that would fill the memory, under
        rules that the kernel evaluates; dense problems elsewhere. Kept unless large, since replay asks for it again."""
        if dtype in self.kept:
            return self.kept[dtype]
        calls = self._whole(dtype) if self.marks.is_cuda else self._dense(dtype)
        if sum(part.mask.numel() for part in calls.parts if isinstance(part.mask, Tensor)) <= KEPT:
            self.kept[dtype] = calls
        return calls

    def _whole(self, dtype: torch.dtype) -> Calls:
        """Rows as they are, but for empty slots at their ends: attention under a mask is several times slower on a GPU
        where rows have no round number of slots."""
        more = -self.width % ALIGNED
        width = self.width + more
        marks = F.pad(self.marks, (0, more), value=PADDING)
        small = self.rows * width**2 <= MASKED
        mask = additive(visible(marks, marks), dtype) if small else block_mask(marks)
        gather = F.pad(self.gather.view(self.rows, -1), (0, more)).flatten()
        restore = self.scatter + self.scatter // self.width * more
        return Calls([Part(self.rows, width, width, mask)], gather, gather, restore)

    def _dense(self, dtype: torch.dtype) -> Calls:
        listed, restore = dense(self.marks.flatten(1)[:, self.scatter])
        parts = [_part(call, dtype) for call in listed]
        queries, keys = (torch.cat([getattr(c, n).flatten() for c in listed]) for n in ("queries", "keys"))
        return Calls(parts, queries, keys, restore)
