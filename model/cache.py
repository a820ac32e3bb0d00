"""Keys, values and marks of a batch of trajectories: storage that grows, shrinks and follows its rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from model.attention import LARGEST_SCORE, PADDING, SESSION
from model.rows import LayerCache


class Cache:
    """`length` columns are filled. keys, values (B, Hkv, capacity, D) per layer; marks (8, B, capacity)."""

    def __init__(self, layers: list[LayerCache], marks: Tensor, length: int = 0) -> None:
        self.layers, self.marks, self.length = layers, marks, length

    @staticmethod
    def empty(rows: int, capacity: int, attention: list[Any], device: torch.device, dtype: torch.dtype) -> Cache:
        """Storage for the decoder's attention modules."""
        layers = []
        for module in attention:
            shape = (rows, module.kv_heads, capacity, module.head_dim)
            keys, values = (torch.zeros(shape, device=device, dtype=dtype) for _ in range(2))
            plain = device.type == "cpu" and dtype == torch.float32
            layers.append(LayerCache(keys, values, plain and module.largest_score <= LARGEST_SCORE))
        marks = torch.zeros((8, rows, capacity), dtype=torch.int32, device=device)
        marks[SESSION] = PADDING
        return Cache(layers, marks)

    @property
    def capacity(self) -> int:
        return self.marks.shape[2]

    def reserve(self, columns: int) -> None:
        """Room for `columns` more; capacity at least doubles, so that growth costs little in sum."""
        if self.length + columns <= self.capacity:
            return
        extra = max(self.length + columns, 2 * self.capacity) - self.capacity
        for layer in self.layers:
            layer.keys = torch.nn.functional.pad(layer.keys, (0, 0, 0, extra))
            layer.values = torch.nn.functional.pad(layer.values, (0, 0, 0, extra))
        self.marks = torch.nn.functional.pad(self.marks, (0, extra), value=PADDING)

    def commit(self, marks: Tensor) -> None:
        """Keep the columns just written at `length`."""
        end = self.length + marks.shape[2]
        self.marks[:, :, self.length : end] = marks
        self.length = end

    def truncate(self, length: int) -> None:
        """Forget the columns from `length` on."""
        self.marks[SESSION, :, length:] = PADDING
        self.length = length

    def select(self, rows: Tensor, tail: Tensor | None = None) -> Cache:
        """The named rows (repeats allowed), copied. tail (N, S): columns that are put behind the filled ones of each
        new row, to be committed."""
        layers = [
            LayerCache(self._taken(x.keys, rows, tail), self._taken(x.values, rows, tail), x.bounded)
            for x in self.layers
        ]
        return Cache(layers, self.marks.index_select(1, rows), self.length)

    def _taken(self, stored: Tensor, rows: Tensor, tail: Tensor | None) -> Tensor:
        """Rows of keys or values; what lies beyond their columns is left as it comes, since nothing reads it."""
        taken = stored.new_empty(len(rows), *stored.shape[1:])
        torch.index_select(stored[:, :, : self.length], 0, rows, out=taken[:, :, : self.length])
        if tail is not None:
            taken[:, :, self.length : self.length + tail.shape[1]] = stored[rows[:, None], :, tail].transpose(1, 2)
        return taken
