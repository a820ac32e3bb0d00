"""The batch's table of pictures: clean latents for the generation expert, patches for the picture encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Grid = tuple[int, int]


def offsets(grids: Sequence[Grid]) -> list[int]:
    """First row of every picture in a flat table, and the table's length at the end."""
    ends = [0]
    for rows, columns in grids:
        ends.append(ends[-1] + rows * columns)
    return ends


def _rows(table: Tensor, grids: Sequence[Grid], chosen: Sequence[int]) -> Tensor:
    starts = offsets(grids)
    return torch.cat([table[starts[i] : starts[i + 1]] for i in chosen]) if chosen else table[:0]


@dataclass(frozen=True)
class Pictures:
    """P pictures of any sizes. latents (ΣN, C): clean, scaled, patchified (row, column, channel within a patch);
    patches (ΣN', p*p*3): normalised pixels in the same order; grids are (rows, columns) of tokens per picture."""

    latents: Tensor
    patches: Tensor
    latent_grids: tuple[Grid, ...]
    patch_grids: tuple[Grid, ...]

    def __len__(self) -> int:
        return len(self.latent_grids)

    @property
    def nbytes(self) -> int:
        """Memory of the table."""
        return self.latents.nbytes + self.patches.nbytes

    def select(self, rows: Sequence[int]) -> Pictures:
        """The named pictures in the named order (repeats allowed)."""
        return Pictures(
            _rows(self.latents, self.latent_grids, rows),
            _rows(self.patches, self.patch_grids, rows),
            tuple(self.latent_grids[i] for i in rows),
            tuple(self.patch_grids[i] for i in rows),
        )

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> Pictures:
        """The same table elsewhere or in another precision."""
        latents, patches = self.latents.to(device, dtype), self.patches.to(device, dtype)
        return Pictures(latents, patches, self.latent_grids, self.patch_grids)

    @staticmethod
    def concatenate(tables: Sequence[Pictures]) -> Pictures:
        """Tables one after the other."""
        return Pictures(
            torch.cat([t.latents for t in tables]),
            torch.cat([t.patches for t in tables]),
            tuple(grid for t in tables for grid in t.latent_grids),
            tuple(grid for t in tables for grid in t.patch_grids),
        )
