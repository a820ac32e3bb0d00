"""Configuration of EditModel.

Every number comes from files: this project's config.json, or the official folder's json files and checkpoint shapes
(`model.loading`). `small` builds a random-weight configuration for the rendered worlds.
"""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig, Qwen2Config, SiglipVisionConfig


class EditConfig(PretrainedConfig):
    """BAGEL's numbers. `llm` and `vit` are the keyword arguments of Qwen2Config and SiglipVisionConfig.

    max_latent_size and vit_max_num_patch_per_side are the sides of the two position tables, vit_positions the rows
    of the encoder's own learned table; resize rules are (longest side, shortest side, stride) in pixels;
    vae_downsample is pixels per latent cell before patching.
    """

    model_type = "edit_r2"

    def __init__(
        self,
        llm: dict[str, Any] | None = None,
        vit: dict[str, Any] | None = None,
        *,
        latent_patch_size: int = 2,
        max_latent_size: int = 64,
        vit_max_num_patch_per_side: int = 70,
        vit_positions: int | None = None,
        connector_act: str = "gelu_pytorch_tanh",
        interpolate_pos: bool = False,
        timestep_shift: float = 1.0,
        timestep_channels: int = 256,
        latent_channels: int = 16,
        vae_downsample: int = 8,
        vae_resize: tuple[int, int, int] = (1024, 512, 16),
        vit_resize: tuple[int, int, int] = (980, 224, 14),
        max_pixels: int = 14 * 14 * 9 * 1024,
        **other: Any,
    ) -> None:
        self.llm = dict(llm or {})
        self.vit = dict(vit or {})
        self.latent_patch_size = latent_patch_size
        self.max_latent_size = max_latent_size
        self.vit_max_num_patch_per_side = vit_max_num_patch_per_side
        self.vit_positions = vit_positions or vit_max_num_patch_per_side**2
        self.connector_act = connector_act
        self.interpolate_pos = interpolate_pos
        self.timestep_shift = timestep_shift
        self.timestep_channels = timestep_channels
        self.latent_channels = latent_channels
        self.vae_downsample = vae_downsample
        self.vae_resize = list(vae_resize)
        self.vit_resize = list(vit_resize)
        self.max_pixels = max_pixels
        super().__init__(**{"tie_word_embeddings": False, **other})

    @property
    def latent_dim(self) -> int:
        """Channels of one latent token."""
        return self.latent_patch_size**2 * self.latent_channels

    @property
    def latent_stride(self) -> int:
        """Pixels per latent token, in each direction."""
        return self.vae_downsample * self.latent_patch_size

    def llm_config(self) -> Qwen2Config:
        """The language model's part. Embedding and head are never tied, whatever the file says."""
        return Qwen2Config(**{**self.llm, "tie_word_embeddings": False})

    def vit_config(self) -> SiglipVisionConfig:
        """The picture encoder's part; num_hidden_layers counts the layers that are run."""
        config = SiglipVisionConfig(**self.vit)
        config._attn_implementation = "sdpa"
        return config

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
        vae_downsample: int = 8,
        timestep_shift: float = 1.0,
        rope_theta: float = 10_000.0,
        **other: Any,
    ) -> EditConfig:
        """A random-weight configuration for square pictures of `image_size` pixels."""
        llm = {
            "vocab_size": vocab_size,
            "hidden_size": width,
            "intermediate_size": mlp or 3 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "rope_theta": rope_theta,
        }
        vit = {
            "hidden_size": vit_width,
            "intermediate_size": 3 * vit_width,
            "num_hidden_layers": vit_layers,
            "num_attention_heads": vit_heads,
            "image_size": image_size,
            "patch_size": vit_patch,
        }
        stride = vae_downsample * latent_patch
        return cls(
            llm,
            vit,
            latent_patch_size=latent_patch,
            latent_channels=latent_channels,
            vae_downsample=vae_downsample,
            max_latent_size=image_size // stride,
            vit_max_num_patch_per_side=image_size // vit_patch,
            timestep_shift=timestep_shift,
            vae_resize=(image_size, image_size, stride),
            vit_resize=(image_size, image_size, vit_patch),
            **other,
        )
