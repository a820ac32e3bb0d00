"""Incremental path: one KV cache for a batch of trajectories of different lengths (inference only, no gradient).

DEVIATION from the contract: there is no `Contexts` triple. One `Context` serves the three guidance views: the view without the
current text is a mask over the same cache, the pictureless view is a second stream of columns in the same rows
(`guided=True`), so every velocity is one batched call with no duplicated cache.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from model.guidance import Guidance
from model.modeling import EditModel
from model.packing import Pictures
from model.tokenizer import SpecialIds


class TextSample(NamedTuple):
    """tokens (B, S) sampled ids incl. the final eos, right-padded; lengths (B,) of decisions; logprobs (B, S), 0 beyond;
    finished (B,) False where max_tokens cut the text (the context then closes it with an eos that is no decision:
    use Segment.truncated in the replay)."""

    tokens: Tensor
    lengths: Tensor
    logprobs: Tensor
    finished: Tensor

    def texts(self) -> list[list[int]]:
        """Plain ids per row, without eos."""
        raise NotImplementedError


class Context:
    """KV cache of `rows` trajectories."""

    def __init__(
        self, model: EditModel, special: SpecialIds, rows: int = 1, *, guided: bool = False, capacity: int = 256
    ) -> None:
        raise NotImplementedError

    def append_text(
        self, ids: list[list[int]], branch: bool = False, want_logits: bool = False
    ) -> Tensor | None:
        """One framed text per row (plain ids). DEVIATION: lists instead of a padded tensor with lengths."""
        raise NotImplementedError

    def append_pictures(self, pictures: Pictures, use_vit: bool = True) -> None:
        """Picture i of the table goes to row i: clean latents, then ViT."""
        raise NotImplementedError

    def repeat_interleave(self, times: int) -> Context:
        """Every row `times` times (a group that shares its prefix)."""
        raise NotImplementedError

    def select(self, rows: Tensor | list[int]) -> Context:
        """A context of the named rows."""
        raise NotImplementedError

    def drop_branch(self) -> None:
        """Forget all branch texts; rope goes back to where it was before them."""
        raise NotImplementedError

    def generate_text(
        self,
        max_tokens: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        branch: bool = True,
        allowed: Tensor | None = None,
    ) -> TextSample:
        """Sample one text per row. temperature 0 is greedy (log-probabilities at temperature 1). `allowed` (V,) bool
        restricts the vocabulary (log-probabilities are normalised over it)."""
        raise NotImplementedError

    def velocity(self, x: Tensor, t: Tensor, grid: tuple[int, int], guidance: Guidance | None = None) -> Tensor:
        """Velocity (B, N, C) of latents x (B, N, C) at time t (B,); the cache is untouched."""
        raise NotImplementedError
