"""Classifier-free guidance over three views of one context.

Views: full (everything), no_text (the current turn's texts hidden), no_image (all texts, no picture). Formula and
renormalisation modes follow BAGEL; `global` is taken per picture here, never across the pictures of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Renorm = Literal["text_channel", "channel", "global"]


@dataclass(frozen=True)
class Guidance:
    """Scales and renormalisation. Scales of 1 switch a branch off: `Guidance()` costs one forward of one branch."""

    text: float = 1.0
    image: float = 1.0
    renorm: Renorm = "text_channel"
    interval: tuple[float, float] = (0.0, 1.0)  # guidance acts when lower < t <= upper (shifted t)
    renorm_min: float = 0.0  # 1 switches the renormalisation off

    @property
    def uses_text(self) -> bool:
        """Whether the view without the current text is needed at all."""
        return self.text > 1.0

    @property
    def uses_image(self) -> bool:
        """Whether the view without pictures is needed; BAGEL ignores the image scale when the text scale is <= 1."""
        return self.uses_text and self.image > 1.0

    def acts(self, t: Tensor) -> Tensor:
        """Bool per time."""
        return (t > self.interval[0]) & (t <= self.interval[1])


def _token_norm(x: Tensor) -> Tensor:
    return x.norm(dim=-1, keepdim=True)


def _picture_norm(x: Tensor, group: Tensor) -> Tensor:
    """Norm over all tokens and channels of each token's picture (M, 1)."""
    sums = torch.zeros(int(group.max()) + 1, dtype=x.dtype, device=x.device).index_add(0, group, x.pow(2).sum(-1))
    return sums.sqrt()[group].unsqueeze(-1)


def combine(
    guidance: Guidance, cond: Tensor, no_text: Tensor | None, no_image: Tensor | None, t: Tensor, group: Tensor
) -> Tensor:
    """Guided velocity of flat tokens. cond, no_text, no_image (M, C); t (M,) shifted time; group (M,) picture ordinal.

    text_channel: m = no_text + s_t (cond - no_text), each token shrunk to cond's norm, then
    no_image + s_i (m - no_image). channel and global: both extrapolations first, then one shrinking.
    """
    if not guidance.uses_text or no_text is None:
        return cond
    mixed = no_text + guidance.text * (cond - no_text)
    images = no_image if guidance.uses_image else None
    if guidance.renorm != "text_channel" and images is not None:
        mixed = images + guidance.image * (mixed - images)
    if guidance.renorm == "global":
        ratio = _picture_norm(cond, group) / (_picture_norm(mixed, group) + 1e-8)
    else:
        ratio = _token_norm(cond) / (_token_norm(mixed) + 1e-8)
    mixed = mixed * ratio.clamp(guidance.renorm_min, 1.0)
    if guidance.renorm == "text_channel" and images is not None:
        mixed = images + guidance.image * (mixed - images)
    return torch.where(guidance.acts(t).unsqueeze(-1), mixed, cond)
