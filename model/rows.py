"""What attention is told of its tokens: the calls, the rows they fill, and the keys and values that it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Part:
    """A call of attention: `rows` rows of `queries` and `keys` tokens. With a cache the keys are written at `start`
    of stream `stream` and follow what is there; parts that share columns overwrite each other, in order. A part that
    `borrows` its columns puts back what was there. mask: see `model.attention.attend`."""

    rows: int
    queries: int
    keys: int
    mask: Any
    stream: int = 0
    start: int = 0
    borrows: bool = False


@dataclass(frozen=True)
class Rows:
    """How flat tokens (order: understanding, then generation) attend.

    queries, keys: flat tokens of the parts' rows, laid end to end; restore (U+G,): place of each token among the
    queries. cos, sin (U+G, 1, head_dim), the first half of sin negated.
    `even`: every row holds as many tokens of either expert, (understanding, generation), in this order. Rows are cut
    and joined without an index then; cos and sin are (rows, tokens or 1, heads or 1, head_dim).
    """

    parts: Sequence[Part]
    queries: Tensor
    keys: Tensor
    restore: Tensor
    cos: Tensor
    sin: Tensor
    even: tuple[int, int] | None = None


@dataclass
class LayerCache:
    """Keys and values (B, Hkv, capacity, D) of one layer; bounded: see `model.attention.attend`."""

    keys: Tensor
    values: Tensor
    bounded: bool = False

    def read(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Views of the columns [start, end)."""
        return self.keys[:, :, start:end], self.values[:, :, start:end]

    def write(self, start: int, columns: tuple[Tensor, Tensor]) -> None:
        """Overwrite the columns from `start` on."""
        for old, new in zip(self.read(start, start + columns[0].shape[2]), columns, strict=True):
            old.copy_(new)


def evened(rows: Rows, understanding: int, generation: int, heads: int) -> Rows:
    """The rows without indices: each holds its understanding tokens and then those of generation, and all of them share
    one rope id. The tables are spread over the heads, which keeps the rotation's inner loops long."""
    first = slice(0, understanding * sum(part.rows for part in rows.parts), understanding)
    cos, sin = (x[first].unsqueeze(1).expand(-1, -1, heads, -1).contiguous() for x in (rows.cos, rows.sin))
    return replace(rows, cos=cos, sin=sin, even=(understanding, generation))
