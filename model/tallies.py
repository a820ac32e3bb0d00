"""What is watched of an RL iteration, over all its updates and all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from model import distributed


class Tally(NamedTuple):
    """A sum and how many it is of; with a number of 0 it is a part of what an update adds up."""

    total: float
    number: int = 0


Watched = dict[str, Tally]


def tally(values: Tensor) -> Tally:
    """Of all elements, so that each weighs the same in a mean, whichever chunk, rank or update it is in."""
    return Tally(values.sum().item(), values.numel())


def means(watched: Sequence[Watched], updates: int) -> dict[str, float]:
    """Means over an iteration: of what is counted per element, of what an update adds up per update."""
    everywhere = _added(distributed.gather(_added(watched)))
    return {name: total / (count or updates) for name, (total, count) in everywhere.items()}


def _added(watched: Sequence[Watched]) -> Watched:
    names = dict.fromkeys(name for found in watched for name in found)
    of = {name: [found[name] for found in watched if name in found] for name in names}
    return {name: Tally(sum(t for t, _ in found), sum(n for _, n in found)) for name, found in of.items()}
