"""Sampling of texts on a cache, one token per row and step, with the log-probability of every decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from model.attention import BRANCH, COLUMN, KIND, ORDER, PADDING, SESSION, STREAM, TURN, additive, visible
from model.rows import Part, Rows
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
    marks[KIND], marks[TURN], marks[BRANCH] = int(query.kind), query.turn, query.branch
    marks[STREAM] = query.stream
    return marks


class _Decoder:
    """Feeds one token per row and step into the main stream of a context."""

    def __init__(self, context: Context, query: Segment, limit: int) -> None:
        self.model, self.cache, self.rows = context.model, context.streams[0], context.rows
        self.cache.reserve(limit)
        self.column = _column(context, query)
        self.seen = visible(self.column, self.cache.marks[:, :, : self.cache.length])
        self.flat = torch.arange(self.rows, device=self.model.device)
        first = torch.tensor([s.rope[0] for s in context.states], device=self.model.device)
        steps = first + torch.arange(limit, device=self.model.device)[:, None]
        tables = self.model.rope(steps.flatten())
        self.cos, self.sin = (table.view(limit, self.rows, 1, 1, -1) for table in tables)
        self.step = 0

    def feed(self, ids: Tensor, alive: Tensor) -> Tensor:
        """Hidden states (B, D) of ids (B,); rows that are not alive leave an empty column."""
        self.column[COLUMN] = self.cache.length
        self.column[SESSION] = torch.where(alive, 0, PADDING)[:, None]
        self.seen = torch.cat((self.seen, alive[:, None, None]), -1)
        part = Part(self.rows, 1, 1, additive(self.seen, self.model.dtype), 0, self.cache.length)
        rows = Rows([part], self.flat, self.flat, self.flat, self.cos[self.step], self.sin[self.step], (1, 0))
        und = self.model.get_input_embeddings()(ids)
        hidden, _ = self.model.decode(und, und[:0], rows, [self.cache.layers])
        self.cache.commit(self.column)
        self.step += 1
        return hidden


def sample_text(
    context: Context,
    query: Segment,
    max_tokens: int,
    temperature: float,
    generator: Generators,
    allowed: Tensor | None,
) -> TextSample:
    """Feed bos, then every sampled id, then eos, into the cache's main stream; stop when all rows have fed eos.
    ValueError without a budget."""
    if max_tokens < 1:
        raise ValueError("a text needs a budget of at least one token")
    decoder, eos, device = _Decoder(context, query, max_tokens + 2), context.special.eos, context.model.device
    uniform = draw_uniform(context.rows, max_tokens, generator, device)
    fed = torch.full((context.rows,), context.special.bos, device=device)
    alive = torch.ones(context.rows, dtype=torch.bool, device=device)  # whose token of this step is part of a text
    tokens, logprobs, decided = [], [], []
    for index in range(max_tokens + 2):
        hidden = decoder.feed(fed, alive)
        alive = alive & (fed != eos)
        if not bool(alive.any()):
            break
        if index >= max_tokens:  # the budget is spent: whoever still speaks is closed by an eos
            fed = torch.full_like(fed, eos)
            continue
        chosen, logprob = choose(context.model.logits(hidden), temperature, uniform[:, index], allowed)
        tokens.append(torch.where(alive, chosen, context.special.pad))
        logprobs.append(torch.where(alive, logprob, 0.0))
        decided.append(alive)
        fed = torch.where(alive, chosen, eos)
    ids, counted = torch.stack(tokens, 1), torch.stack(decided, 1)
    finished = ((ids == eos) & counted).any(1)
    return TextSample(ids, counted.sum(1), torch.stack(logprobs, 1), finished)
