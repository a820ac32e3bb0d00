"""EditModel: the mixture of transformers with its picture encoders and heads."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from transformers import PreTrainedModel

from model.configuration import EditConfig
from model.guidance import Guidance
from model.packing import PackedBatch, Pictures


class SessionOutput(NamedTuple):
    """text_logits (M, V) at supervised positions; text_targets (M,); text_segment (M,) ordinal of the supervised TEXT
    segment; velocity (ΣN, C) in the order of the noisy table (guided when the batch and `guidance` say so)."""

    text_logits: Tensor
    text_targets: Tensor
    text_segment: Tensor
    velocity: Tensor


class EditModel(PreTrainedModel):
    """See `forward`; `from_pretrained(folder)` reads this project's folder or the official BAGEL folder."""

    config_class = EditConfig

    def forward(
        self,
        batch: PackedBatch,
        pictures: Pictures,
        noisy: Tensor,
        timesteps: Tensor,
        guidance: Guidance | None = None,
    ) -> SessionOutput:
        """All turns of all sessions at once. noisy (ΣN, C); timesteps (ΣN,) in [0, 1] (shifted)."""
        raise NotImplementedError
