"""Configuration of EditModel."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class EditConfig(PretrainedConfig):
    """Nested llm / vit dictionaries and BAGEL's own numbers; see `small` and `from_official`."""

    model_type = "edit_r2"

    @classmethod
    def small(
        cls,
        *,
        vocab_size: int,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        kv_heads: int = 2,
        mlp: int | None = None,
        vit_width: int = 64,
        vit_layers: int = 2,
        vit_heads: int = 4,
        image_size: int = 48,
        vit_patch: int = 16,
        latent_channels: int = 4,
        latent_patch: int = 2,
        timestep_shift: float = 1.0,
        **other: Any,
    ) -> EditConfig:
        """A random-weight configuration for square pictures of `image_size` pixels (VAE ÷8)."""
        raise NotImplementedError
