"""Sampling of texts on a cache, one token per text and step, with the log-probability of every decision.

Texts that stand on one row of the cache and have the same tokens so far are one: the step's token is decoded once for
all of them. Where they part, each goes on in columns of its own of the row that they share, so that keys and values of
what came before the texts are neither copied nor read more than once.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
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
    0 beyond; finished (B,) False where the text was cut (use Segment.truncated in the replay); rows: the row of the
    context in which each text stands."""

    tokens: Tensor
    lengths: Tensor
    logprobs: Tensor
    finished: Tensor
    rows: list[int]

    def texts(self) -> list[list[int]]:
        """Plain ids per row, without eos."""
        plain = (self.lengths - self.finished.long()).tolist()
        return [row[:n] for row, n in zip(self.tokens.tolist(), plain, strict=True)]


def distinct(values: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """Where each different value comes first, and for every value its number among them."""
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return [values.index(value) for value in numbers], [numbers[value] for value in values]


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


def _marks(context: Context, query: Segment) -> Tensor:
    """Marks (8, B, 1) of a text's token that stands in no column yet."""
    marks = torch.zeros((8, context.rows, 1), dtype=torch.int32, device=context.model.device)
    marks[ORDER] = torch.tensor([[s.order] for s in context.states], dtype=torch.int32)
    marks[KIND], marks[TURN], marks[BRANCH] = int(query.kind), query.turn, query.branch
    marks[STREAM] = query.stream
    return marks


def text_marks(context: Context, query: Segment, lengths: Sequence[int], columns: int) -> Tensor:
    """Marks (8, B, columns) of texts of these framed lengths behind the main stream of a context."""
    marks = _marks(context, query).repeat(1, 1, columns)
    steps = torch.arange(columns, dtype=torch.int32, device=marks.device)
    marks[COLUMN] = context.streams[0].length + steps
    marks[SESSION] = torch.where(steps < torch.tensor(lengths, device=marks.device)[:, None], 0, PADDING)
    return marks


class _Decoder:
    """Feeds tokens into columns behind the main stream of a context, one per step and distinct text.

    The nodes of a step are the distinct texts so far that go on, ordered by the row that they stand on. `node` (B,) is
    each text's node, 0 where it is over; `columns` holds per step the column (B,) of each text's token.
    """

    def __init__(self, context: Context, query: Segment, limit: int, stands: Tensor) -> None:
        self.model, self.cache, self.device = context.model, context.streams[0], context.model.device
        self.end = self.cache.length
        self.cache.reserve(limit)
        self.seen = visible(_marks(context, query), self.cache.marks[:, :, : self.end])[:, 0]  # (nodes, columns)
        self.rows = torch.arange(context.rows, device=self.device)  # of the nodes
        self.node, self.count = stands, context.rows
        first = torch.tensor([s.rope[0] for s in context.states], device=self.device)
        steps = first + torch.arange(limit, device=self.device)[:, None]
        self.cos, self.sin = (table.view(limit, self.count, 1, -1) for table in self.model.rope(steps.flatten()))
        self.columns: list[Tensor] = []

    def feed(self, ids: Tensor, alive: Tensor) -> Tensor:
        """Hidden states (nodes, D) of ids (B,); texts that are not alive feed nothing."""
        vocabulary = self.model.get_input_embeddings().num_embeddings
        nodes, of = torch.unique(self.node[alive] * vocabulary + ids[alive], return_inverse=True)
        before, ids = nodes // vocabulary, nodes % vocabulary
        self.rows, self.node = self.rows[before], torch.zeros_like(self.node).masked_scatter(alive, of)
        beside = self.rows.bincount(minlength=self.count)
        width = int(beside.max())
        place = torch.arange(len(nodes), device=self.device) - (beside.cumsum(0) - beside)[self.rows]
        self.columns.append(self.end + place[self.node])
        self.seen = torch.cat((self.seen[before], place[:, None] == torch.arange(width, device=self.device)), -1)
        hidden, _ = self._decode(self.model.get_input_embeddings()(ids), self.rows * width + place, width)
        self.end += width
        return hidden

    def _decode(self, und: Tensor, slots: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """The decoder's layers on nodes in slots of (rows, width); an empty slot repeats a node and nothing sees it."""
        step, size = len(self.columns) - 1, self.count * width
        self.cache.reserve(self.end + width - self.cache.length)
        tokens = torch.zeros(size, dtype=torch.long, device=self.device)
        tokens[slots] = torch.arange(len(slots), device=self.device)
        mask = additive(self.seen[tokens].view(self.count, width, -1), self.model.dtype)
        cos, sin = self.cos[step, self.rows], self.sin[step, self.rows]
        even = None
        if len(slots) == size:
            even, cos, sin = (width, 0), cos.view(self.count, width, 1, -1), sin.view(self.count, width, 1, -1)
        part = Part(self.count, width, width, mask, 0, self.end)
        return self.model.decode(und, und[:0], Rows([part], tokens, tokens, slots, cos, sin, even), [self.cache.layers])


def sample_text(
    context: Context,
    query: Segment,
    max_tokens: int,
    temperature: float,
    generator: Generators,
    allowed: Tensor | None,
    stands: Tensor,
) -> tuple[TextSample, Tensor]:
    """Feed bos, then every sampled id, then eos, behind the cache's main stream; stop when all texts have fed eos.
    stands (B,): row that each text follows. Also returns the columns (B, steps) of the framed texts, which mean nothing
    beyond them. ValueError without a budget."""
    if max_tokens < 1:
        raise ValueError("a text needs a budget of at least one token")
    decoder, eos = _Decoder(context, query, max_tokens + 2, stands), context.special.eos
    uniform = draw_uniform(len(stands), max_tokens, generator, stands.device)
    fed = torch.full_like(stands, context.special.bos)
    alive = torch.ones_like(stands, dtype=torch.bool)  # whose token of this step is part of a text
    tokens, logprobs, decided = [], [], []
    for index in range(max_tokens + 2):
        hidden = decoder.feed(fed, alive)
        alive = alive & (fed != eos)
        if not bool(alive.any()):
            break
        if index >= max_tokens:  # the budget is spent: whoever still speaks is closed by an eos
            fed = torch.full_like(fed, eos)
            continue
        logits = context.model.logits(hidden)[decoder.node]
        chosen, logprob = choose(logits, temperature, uniform[:, index], allowed)
        tokens.append(torch.where(alive, chosen, context.special.pad))
        logprobs.append(torch.where(alive, logprob, 0.0))
        decided.append(alive)
        fed = torch.where(alive, chosen, eos)
    ids, counted = torch.stack(tokens, 1), torch.stack(decided, 1)
    finished = ((ids == eos) & counted).any(1)
    sample = TextSample(ids, counted.sum(1), torch.stack(logprobs, 1), finished, stands.tolist())
    return sample, torch.stack(decoder.columns, 1)
