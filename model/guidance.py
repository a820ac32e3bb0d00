"""Classifier-free guidance over three views of one context.

Views: `full` (everything), `no_text` (the current turn's texts hidden), `no_image` (all texts, no picture). Formula and
renormalisation modes follow BAGEL; `global` is computed per picture here, never across the pictures of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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


def combine(
    guidance: Guidance, cond: Tensor, no_text: Tensor | None, no_image: Tensor | None, t: Tensor, group: Tensor
) -> Tensor:
    """Guided velocity of flat tokens. cond/no_text/no_image (M, C); t (M,) shifted time; group (M,) picture ordinal."""
    raise NotImplementedError
