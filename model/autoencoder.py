"""Forward of diffusers' autoencoder with fewer passes over its large maps; equal to diffusers' own but for rounding.

Activations and residuals are written in place, nothing is divided by a scale of 1, and on a CPU a doubling of the
picture is folded into the convolution behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

CPU_PIXELS = 2**15  # of the maps that a level works on together
# What the four rows (or columns) of a doubling kernel take from the three of a plain one.
_FOLD = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))


def encoded(vae: AutoencoderKL, x: Tensor) -> Tensor:
    """Moments (N, 2z, h, w) of normalised pictures (N, 3, H, W)."""
    encoder: Any = vae.encoder

    def level(index: int, x: Tensor) -> Tensor:
        block = encoder.down_blocks[index]
        x = encoder.conv_in(x) if index == 0 else x
        for resnet in block.resnets:
            x = _resnet(resnet, x)
        return block.downsamplers[0](x) if block.downsamplers else x

    for index in range(len(encoder.down_blocks)):
        x = _in_pieces(partial(level, index), x, x.shape[2] * x.shape[3])
    return encoder.conv_out(_activated(encoder.conv_norm_out, _middle(encoder.mid_block, x)))


def decoded(vae: AutoencoderKL, z: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) of unscaled latents (N, z, h, w)."""
    decoder: Any = vae.decoder
    blocks = decoder.up_blocks

    def level(index: int, x: Tensor) -> Tensor:
        x = doubled(blocks[index - 1].upsamplers[0].conv, x) if index else x
        for resnet in blocks[index].resnets:
            x = _resnet(resnet, x)
        last = index == len(blocks) - 1
        return decoder.conv_out(_activated(decoder.conv_norm_out, x)) if last else x

    x = _middle(decoder.mid_block, decoder.conv_in(z))
    for index in range(len(blocks)):
        x = _in_pieces(partial(level, index), x, x.shape[2] * x.shape[3] * (4 if index else 1))
    return x


def _in_pieces(level: Callable[[Tensor], Tensor], x: Tensor, area: int) -> Tensor:
    """A level, with maps of `area` pixels, on as many pictures at a time as a CPU's caches hold: the fine levels want
    few, the coarse ones many."""
    size = len(x) if x.is_cuda else max(1, CPU_PIXELS // area)
    return level(x) if len(x) <= size else torch.cat([level(piece) for piece in x.split(size)])


def _activated(norm: nn.Module, x: Tensor) -> Tensor:
    return F.silu(norm(x), inplace=True)


def _resnet(block: Any, x: Tensor) -> Tensor:
    hidden = block.conv2(_activated(block.norm2, block.conv1(_activated(block.norm1, x))))
    return hidden.add_(x if block.conv_shortcut is None else block.conv_shortcut(x))


def _middle(block: Any, x: Tensor) -> Tensor:
    x = _resnet(block.resnets[0], x)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        x = _resnet(resnet, x if attention is None else attention(x))
    return x


def doubled(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 3 x 3 convolution of x doubled to its nearest neighbours, (N, C', 2H, 2W).

    Every output sees two input rows (and columns), one of them twice: a transposed convolution with a 4 x 4 kernel of
    summed weights, 4/9 of the work.
    """
    if x.is_cuda:
        return conv(F.interpolate(x, scale_factor=2.0))
    fold = torch.tensor(_FOLD, dtype=x.dtype, device=x.device)
    kernel = (conv.weight.flatten(2) @ torch.kron(fold, fold).T).unflatten(2, (4, 4))
    return F.conv_transpose2d(x, kernel.transpose(0, 1), conv.bias, stride=2, padding=1)
