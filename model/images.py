"""Pixels to network inputs: resize rules, normalisation, patch vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.configuration import EditConfig

Pixels = NDArray[np.uint8]


def _stretch(size: tuple[int, int], scale: float, stride: int) -> tuple[int, int]:
    """Both sides scaled, rounded, then rounded to a multiple of the stride (at least one)."""
    width, height = (max(stride, round(round(side * scale) / stride) * stride) for side in size)
    return width, height


def resized(size: tuple[int, int], rule: Sequence[int], max_pixels: int) -> tuple[int, int]:
    """(width, height) after BAGEL's rule (longest side, shortest side, stride). An area above `max_pixels` shrinks BOTH
    sides by the ratio of areas, as the official code does, and the longest side has the last word."""
    longest, shortest, stride = rule
    scale = max(min(longest / max(size), 1.0), shortest / min(size))
    new = _stretch(size, scale, stride)
    if new[0] * new[1] > max_pixels:
        new = _stretch(new, max_pixels / (new[0] * new[1]), stride)
    if max(new) > longest:
        new = _stretch(new, longest / max(new), stride)
    return new


def on_white(image: Image.Image) -> Image.Image:
    """RGB, with transparency put on white."""
    if image.mode == "RGBA" or image.info.get("transparency") is not None:
        layer = image.convert("RGBA")
        background = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(background, layer).convert("RGB")
    return image.convert("RGB")


def at_size(images: Pixels, size: tuple[int, int]) -> Pixels:
    """(N, H, W, 3) pictures of one size at (width, height); untouched where they have it."""
    if (images.shape[2], images.shape[1]) == size:
        return images
    resample = Image.Resampling.BICUBIC
    return np.stack([np.asarray(Image.fromarray(image).resize(size, resample)) for image in images])


def resize_all(images: Pixels, rule: Sequence[int], max_pixels: int) -> Pixels:
    """(N, H, W, 3) pictures of one size under a rule; untouched where the rule keeps the size."""
    return at_size(images, resized((images.shape[2], images.shape[1]), rule, max_pixels))


def normalised(images: Pixels, device: torch.device | str = "cpu") -> Tensor:
    """(N, 3, H, W) float32 in [-1, 1]."""
    pixels = torch.tensor(images, device=device).permute(0, 3, 1, 2)
    pixels = pixels.contiguous()  # channels-last convolutions round less well
    return (pixels.float() / 255 - 0.5) / 0.5


def patchify(x: Tensor, size: int) -> Tensor:
    """(N, C, H, W) -> (N, rows*columns, size*size*C); vector order (row in patch, column in patch, channel)."""
    n, channels, height, width = x.shape
    x = x.reshape(n, channels, height // size, size, width // size, size)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(n, -1, size * size * channels)


def unpatchify(x: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Inverse of `patchify` for a grid of (rows, columns)."""
    rows, columns = grid
    x = x.reshape(x.shape[0], rows, columns, size, size, -1)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(x.shape[0], -1, rows * size, columns * size)


def for_vae(images: Pixels, config: EditConfig) -> Pixels:
    """Pictures at the autoencoder's size."""
    return resize_all(images, config.vae_resize, config.max_pixels)


def for_vit(images: Pixels, config: EditConfig) -> Pixels:
    """Pictures at the encoder's size; `images` are those that `for_vae` returned (the order matters)."""
    return resize_all(images, config.vit_resize, config.max_pixels)
