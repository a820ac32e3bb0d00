"""Pictures to latents and back. The autoencoder is diffusers' AutoencoderKL (÷8, no quant convolutions)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from diffusers import AutoencoderKL
from torch import Tensor

from model.configuration import EditConfig
from model.packing import Pictures


def new_vae(channels: Sequence[int] = (16, 32, 64, 64), latent_channels: int = 4, blocks: int = 1) -> AutoencoderKL:
    """A random autoencoder with one level per entry of `channels` (four levels = ÷8); scale 1, shift 0."""
    raise NotImplementedError


def set_scale(vae: AutoencoderKL, scale: float, shift: float) -> None:
    """latent = scale * (mean - shift); stored in the VAE's config."""
    raise NotImplementedError


def encode(vae: AutoencoderKL, images: np.ndarray, config: EditConfig, chunk: int = 64) -> Pictures:
    """Table of uint8 pictures (N, H, W, 3) of one size, resized by the configuration's rules when they ask for it.

    Deterministic (posterior mean). DEVIATION from the contract: `config` gives the patch sizes of the table."""
    raise NotImplementedError


def decode(
    vae: AutoencoderKL, latents: Tensor, grid: tuple[int, int], config: EditConfig, chunk: int = 64
) -> np.ndarray:
    """uint8 (N, H, W, 3), truncated as the official code does, of latents (N, rows*columns, C)."""
    raise NotImplementedError
