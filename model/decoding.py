"""Sampling of texts on a cache, one token per row and step, with the log-probability of every decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from model.attention import BRANCH, COLUMN, KIND, ORDER, PADDING, SESSION, STREAM, TURN, additive, visible
from model.layers import Part, Rows, rotary
from model.segments import Segment

if TYPE_CHECKING:
    from model.context import Context


class TextSample(NamedTuple):
    """tokens (B, S) sampled ids with the final eos, padded on the right; lengths (B,) of decisions; logprobs (B, S),
    0 beyond; finished (B,) False where the text was cut (use Segment.truncated in the replay)."""

    tokens: Tensor
    lengths: Tensor
    logprobs: Tensor
    finished: Tensor

    def texts(self) -> list[list[int]]:
        """Plain ids per row, without eos."""
        plain = (self.lengths - self.finished.long()).tolist()
        return [row[:n] for row, n in zip(self.tokens.tolist(), plain, strict=True)]


Generators = torch.Generator | Sequence[torch.Generator] | None


def draw_uniform(rows: int, steps: int, generator: Generators, device: torch.device) -> Tensor:
    """(rows, steps) uniform numbers; with one generator per row a row's numbers do not depend on the batch."""
    if isinstance(generator, Sequence):
        drawn = [torch.rand(steps, generator=g, device=g.device) for g in generator]
        return torch.stack(drawn).to(device)
    where = generator.device if generator is not None else device
    return torch.rand(rows, steps, generator=generator, device=where).to(device)


def choose(logits: Tensor, temperature: float, uniform: Tensor, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
    """One id per row of logits (B, V), by inverse distribution function of uniform (B,), and its log-probability at
    `temperature` (1 where it is 0, which is greedy)."""
    scaled = logits.float() / (temperature or 1.0)
    if allowed is not None:
        scaled = scaled.masked_fill(~allowed, float("-inf"))
    logprobs = scaled.log_softmax(-1)
    if temperature == 0:
        chosen = logprobs.argmax(-1)
    else:
        reached = logprobs.exp().cumsum(-1)
        chosen = torch.searchsorted(reached, (uniform * reached[:, -1])[:, None], right=True).squeeze(1)
        chosen = chosen.clamp(max=logits.shape[-1] - 1)
    return chosen, logprobs.gather(1, chosen[:, None]).squeeze(1)


def _column(context: Context, query: Segment) -> Tensor:
    """Marks (8, B, 1) of the next text token, but for its column."""
    marks = torch.zeros((8, context.rows, 1), dtype=torch.int32, device=context.model.device)
    marks[ORDER] = torch.tensor([[s.order] for s in context.states], dtype=torch.int32)
    marks[KIND], marks[TURN], marks[BRANCH] = int(query.kind), query.turn, int(query.branch)
    marks[STREAM] = query.stream
    return marks


def sample_text(
    context: Context,
    query: Segment,
    max_tokens: int,
    temperature: float,
    generator: Generators,
    allowed: Tensor | None,
) -> TextSample:
    """Feed bos, then every sampled id, then eos, into the cache's main stream; stop when all rows have fed eos."""
    model, cache, eos = context.model, context.streams[0], context.special.eos
    limit, rows, device = max_tokens + 2, context.rows, context.model.device
    cache.reserve(limit)
    column = _column(context, query)
    seen = visible(column, cache.marks[:, :, : cache.length])
    positions = torch.tensor([s.rope[0] for s in context.states], device=device)
    steps = positions + torch.arange(limit, device=device)[:, None]
    cos, sin = (x.view(limit, rows, 1, -1) for x in rotary(model.rotary, steps.flatten(), model.dtype))
    single = torch.arange(rows, device=device)
    uniform = draw_uniform(rows, max_tokens, generator, device)
    fed = torch.full((rows,), context.special.bos, device=device)
    alive = torch.ones(rows, dtype=torch.bool, device=device)  # rows whose token of this step belongs to their text
    tokens, logprobs, counted = [], [], []
    for index in range(limit):
        column[COLUMN], column[SESSION] = cache.length, torch.where(alive, 0, PADDING)[:, None]
        seen = torch.cat((seen, alive[:, None, None]), -1)
        part = Part(rows, 1, 1, additive(seen, model.dtype), 0, cache.length)
        layout = Rows([part], single, single, single, cos[index], sin[index])
        und = model.get_input_embeddings()(fed)
        hidden, _ = model.decode(und, und[:0], layout, [cache.layers])
        cache.commit(column)
        alive = alive & (fed != eos)
        if not bool(alive.any()):
            break
        if index >= max_tokens:  # the budget is spent: whoever still speaks is closed by an eos
            fed = torch.full_like(fed, eos)
            continue
        chosen, logprob = choose(model.logits(hidden), temperature, uniform[:, index], allowed)
        tokens.append(torch.where(alive, chosen, context.special.pad))
        logprobs.append(torch.where(alive, logprob, 0.0))
        counted.append(alive)
        fed = torch.where(alive, chosen, eos)
    stacked = torch.stack(tokens, 1)
    finished = ((stacked == eos) & torch.stack(counted, 1)).any(1)
    return TextSample(stacked, torch.stack(counted, 1).sum(1), torch.stack(logprobs, 1), finished)
