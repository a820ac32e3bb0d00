"""Who may attend to whom, and the two kernels that obey it: SDPA with a mask (CPU) and FlexAttention (CUDA).

Every token carries eight integer marks; visibility is a function of a query's and a key's marks alone, so the packed
forward and the cached context share one rule.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

# Rows of a marks tensor (8, B, L), int32.
SESSION, ORDER, COLUMN, KIND, TURN, BRANCH, STREAM, HIDES_TEXT = range(8)
PADDING = -1  # session of an empty slot
LARGEST_SCORE = 60.0  # sums of exponentials of smaller scores stay far from what float32 can hold
ROOM = 2**18  # scores that are worked on together: about half of a core's cache
TEXT, NOISY = 0, 3  # values of model.packing.Kind that the rule speaks of


def _rule(q: list[Tensor], k: list[Tensor]) -> Tensor:
    """Visibility from broadcastable marks: the same session and stream, then either the own segment (text causally,
    else fully) or an earlier one that is neither noise, nor another turn's branch, nor one beside the own branch, nor a
    text that the query hides."""
    own = q[ORDER] == k[ORDER]
    inside = own & ((q[KIND] != TEXT) | (k[COLUMN] <= q[COLUMN]))
    same_turn = q[TURN] == k[TURN]
    hidden = (q[HIDES_TEXT] == 1) & (k[KIND] == TEXT) & same_turn
    followed = (k[BRANCH] == 0) | (same_turn & ((q[BRANCH] == 0) | (q[BRANCH] == k[BRANCH])))
    earlier = (k[ORDER] < q[ORDER]) & (k[KIND] != NOISY) & followed & ~hidden
    return (q[SESSION] == k[SESSION]) & (q[STREAM] == k[STREAM]) & (inside | earlier)


def visible(queries: Tensor, keys: Tensor) -> Tensor:
    """(B, Q, K) bool of marks (8, B, Q) and (8, B, K). Empty query slots see everything, so that no softmax is
    empty."""
    q = list(queries.unsqueeze(-1))
    k = list(keys.unsqueeze(-2))
    seen = _rule(q, k) & (k[SESSION] != PADDING)
    return seen | (q[SESSION] == PADDING)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 1, Q, K) bias, 0 or -inf: one conversion per forward instead of one per layer."""
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill_(~mask, float("-inf")).unsqueeze(1)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A part of FlexAttention as kernels that evaluate a rule where they need it; uncompiled, it writes out a value for
    every pair of tokens."""
    return torch.compile(function, dynamic=True)


def block_mask(marks: Tensor) -> Any:
    """FlexAttention's block mask of packed rows; the same rule, evaluated inside the kernel."""
    from torch.nn.attention.flex_attention import create_block_mask

    _, rows, width = marks.shape

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        of_q, of_k = [row[b, q] for row in marks], [row[b, k] for row in marks]
        return (_rule(of_q, of_k) & (of_k[SESSION] != PADDING)) | (of_q[SESSION] == PADDING)

    create = _compiled(create_block_mask) if marks.is_cuda else create_block_mask
    return create(mask_mod, rows, None, width, width, device=str(marks.device))


def attend_bounded(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention for scores that are known to be small: nothing needs to be subtracted before the exponential,
    which saves the search for the largest score. Shapes as in `attend`; mask (B, 1, 1, K) or None. CPU, no gradient."""
    rows, keys = q.shape[0] * k.shape[1], k.shape[2]
    bias = None if mask is None else mask.expand(-1, k.shape[1], 1, keys).reshape(rows, 1, keys)
    queries, k, v = q.reshape(rows, -1, q.shape[3]), k.flatten(0, 1).transpose(1, 2), v.flatten(0, 1)
    out = torch.empty_like(queries)
    step = max(1, ROOM // (queries.shape[1] * keys))
    room = q.new_empty(min(step, rows), queries.shape[1], keys)
    for part in (slice(i, min(i + step, rows)) for i in range(0, rows, step)):
        scores = room[: part.stop - part.start]
        start, share = (scores, 0) if bias is None else (bias[part], 1)
        torch.baddbmm(start, queries[part], k[part], beta=share, alpha=q.shape[3] ** -0.5, out=scores)
        torch.bmm(scores.exp_(), v[part], out=out[part])
        out[part] /= scores.sum(-1, keepdim=True)
    return out.view_as(q)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Any, bounded: bool = False) -> Tensor:
    """q (B, H, Q, D), k and v (B, Hkv, K, D) -> (B, H, Q, D). mask: additive bias, BlockMask, or None (see all).
    bounded: no score exceeds LARGEST_SCORE (CPU, no gradient)."""
    grouped = q.shape[1] != k.shape[1]
    if bounded and q.shape[2] > 1 and (mask is None or mask.shape[2] == 1):
        return attend_bounded(q, k, v, mask)
    if mask is None or isinstance(mask, Tensor):
        if grouped and q.shape[2] == 1:  # a new token: the heads that share keys ask as rows of one head
            shared = q.view(q.shape[0], k.shape[1], -1, q.shape[3])
            return scaled_dot_product_attention(shared, k, v, attn_mask=mask).reshape(q.shape)
        if grouped and q.is_cuda and mask is not None:  # no fast CUDA kernel takes both a mask and shared heads
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
            grouped = False
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)
    from torch.nn.attention.flex_attention import flex_attention

    return _compiled(flex_attention)(q, k, v, block_mask=mask, enable_gqa=grouped)
