"""Pictures to latents and back. The autoencoder is diffusers' AutoencoderKL without quant convolutions.

Latents are scale * (mean - shift): deterministic. Every size of picture is encoded by itself, never padded: group norm
and the middle attention would see the padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from model.autoencoder import decoded, encoded
from model.configuration import EditConfig
from model.images import Pixels, for_vae, for_vit, normalised, patchify, unpatchify
from model.pictures import Grid, Pictures
from model.vit import patch_side

CPU_PIXELS = 2**18  # of the pictures that go through the autoencoder together
VALUES = 2**28  # the same elsewhere: of a map at the size of the pictures, 1 GB in float32


def new_vae(channels: Sequence[int] = (16, 32, 64, 64), latent_channels: int = 4, blocks: int = 1) -> AutoencoderKL:
    """A random autoencoder with one level per entry of `channels` (four levels: ÷8); scale 1, shift 0."""
    levels = len(channels)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(channels),
        layers_per_block=blocks,
        latent_channels=latent_channels,
        norm_num_groups=max(1, min(channels) // 4),  # as FLUX: four channels at the narrowest level
        scaling_factor=1.0,
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def stride_of(channels: Sequence[int]) -> int:
    """Pixels along the side of a latent: a level halves what the one before it gave."""
    return 1 << (len(channels) - 1)


def scale_of(vae: AutoencoderKL) -> tuple[float, float]:
    """(scale, shift) of the latents."""
    return float(vae.config["scaling_factor"]), float(vae.config["shift_factor"] or 0.0)


def set_scale(vae: AutoencoderKL, scale: float, shift: float) -> None:
    """Store (scale, shift) in the autoencoder's configuration; saved with it."""
    vae.register_to_config(scaling_factor=float(scale), shift_factor=float(shift))


def moments(vae: AutoencoderKL, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance (N, z, h, w) of normalised pictures (N, 3, H, W)."""
    mean, logvar = encoded(vae, x).chunk(2, 1)
    return mean, logvar


def to_latents(vae: AutoencoderKL, x: Tensor) -> Tensor:
    """(N, z, h, w) scaled latents of normalised pictures; differentiable."""
    scale, shift = scale_of(vae)
    return scale * (moments(vae, x)[0] - shift)


def to_pixels(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """(N, 3, H, W) pictures, about [-1, 1], of scaled latents (N, z, h, w); differentiable."""
    scale, shift = scale_of(vae)
    return decoded(vae, latents / scale + shift)


def _chunks(vae: AutoencoderKL, n: int, pixels: int) -> list[slice]:
    """Pictures of so many pixels that go through together, as many as their maps leave memory for."""
    most = CPU_PIXELS if vae.device.type == "cpu" else VALUES // vae.config["block_out_channels"][0]
    size = max(1, most // pixels)
    return [slice(i, i + size) for i in range(0, n, size)]


@torch.no_grad()
def encode_latents(vae: AutoencoderKL, images: Pixels, config: EditConfig) -> tuple[Tensor, Grid]:
    """(N, rows*columns, C) patchified latents of pictures that have the autoencoder's size already, and their grid."""
    parts = []
    for part in _chunks(vae, len(images), images.shape[1] * images.shape[2]):
        x = normalised(images[part], vae.device).to(vae.dtype)
        parts.append(patchify(to_latents(vae, x), config.latent_patch_size).float())
    stride = config.latent_stride
    return torch.cat(parts), (images.shape[1] // stride, images.shape[2] // stride)


def encode(vae: AutoencoderKL, images: Pixels, config: EditConfig) -> Pictures:
    """Table of uint8 pictures (N, H, W, 3) of one size, resized by the configuration's rules where these ask for it.

    Patch sizes come from `config`. Tensors lie on the autoencoder's device, in float32.
    """
    images = for_vae(images, config)
    latents, grid = encode_latents(vae, images, config)
    patch = patch_side(config.vit_config())
    small = for_vit(images, config)
    patches = patchify(normalised(small, vae.device), patch)
    patch_grid = (small.shape[1] // patch, small.shape[2] // patch)
    return Pictures(latents.flatten(0, 1), patches.flatten(0, 1), (grid,) * len(images), (patch_grid,) * len(images))


@torch.no_grad()
def decode_float(vae: AutoencoderKL, latents: Tensor, grid: Grid, config: EditConfig) -> NDArray[np.float32]:
    """(N, H, W, 3) in [0, 1] of latents (N, rows*columns, C)."""
    parts = []
    for part in _chunks(vae, latents.shape[0], grid[0] * grid[1] * config.latent_stride**2):
        z = unpatchify(latents[part].to(vae.device, vae.dtype), grid, config.latent_patch_size)
        z = z.contiguous(memory_format=torch.channels_last)
        parts.append(_seen(to_pixels(vae, z)))
    return np.concatenate(parts)


def decode(vae: AutoencoderKL, latents: Tensor, grid: Grid, config: EditConfig) -> Pixels:
    """uint8 (N, H, W, 3), truncated as the official code does, of latents (N, rows*columns, C)."""
    return _truncated(decode_float(vae, latents, grid, config))


@torch.no_grad()
def round_trip(vae: AutoencoderKL, images: Pixels) -> Pixels:
    """Pictures (N, H, W, 3) of the autoencoder's size as they are after encoding and decoding."""
    parts = []
    for part in _chunks(vae, len(images), images.shape[1] * images.shape[2]):
        x = normalised(images[part], vae.device).to(vae.dtype)
        parts.append(_seen(to_pixels(vae, to_latents(vae, x))))
    return _truncated(np.concatenate(parts))


def _seen(x: Tensor) -> NDArray[np.float32]:
    """(N, H, W, 3) in [0, 1] of what the decoder gave, (N, 3, H, W)."""
    return np.ascontiguousarray((x.float() * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy())


def _truncated(shown: NDArray[np.float32]) -> Pixels:
    return (shown * 255).astype(np.uint8)
