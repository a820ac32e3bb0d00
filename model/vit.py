"""SigLIP picture encoder over patch vectors, the connector, position tables and the time embedder (names: BAGEL)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import SiglipVisionConfig
from transformers.activations import ACT2FN
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from model.layers import run


def patch_side(config: SiglipVisionConfig) -> int:
    """Pixels per patch side; patches are square."""
    side: Any = config.patch_size
    return int(side)


class PatchEmbeddings(nn.Module):
    """Patch vectors (row in patch, column in patch, channel) through a linear layer, plus learned positions."""

    def __init__(self, config: SiglipVisionConfig, positions: int) -> None:
        super().__init__()
        self.patch_embedding = nn.Linear(config.num_channels * patch_side(config) ** 2, config.hidden_size)
        self.position_embedding = nn.Embedding(positions, config.hidden_size)

    def forward(self, patches: Tensor, ids: Tensor) -> Tensor:
        return self.patch_embedding(patches) + self.position_embedding(ids)


class VisionEncoder(nn.Module):
    """SigLIP's layers; pictures are the batch, so no attention crosses them."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SiglipEncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.recompute = False  # gradient checkpointing


class VisionTransformer(nn.Module):
    """Embeddings, encoder, final norm."""

    def __init__(self, config: SiglipVisionConfig, positions: int) -> None:
        super().__init__()
        self.embeddings = PatchEmbeddings(config, positions)
        self.encoder = VisionEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, patches: Tensor, ids: Tensor, mask: Tensor | None) -> Tensor:
        """patches (P, N, dim), ids (P, N), mask (P, 1, 1, N) additive for mixed sizes -> (P, N, width)."""
        hidden = self.embeddings(patches, ids)
        for layer in self.encoder.layers:
            hidden = run(self.encoder.recompute, layer, hidden, mask)
        return self.post_layernorm(hidden)


class VisionModel(nn.Module):
    """Holder that gives the checkpoint's names (`vit_model.vision_model.*`)."""

    def __init__(self, config: SiglipVisionConfig, positions: int) -> None:
        super().__init__()
        self.vision_model = VisionTransformer(config, positions)

    def forward(self, patches: Tensor, ids: Tensor, mask: Tensor | None) -> Tensor:
        return self.vision_model(patches, ids, mask)


class Connector(nn.Module):
    """Picture features to the decoder's width."""

    def __init__(self, vit_width: int, width: int, activation: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vit_width, width)
        self.act = ACT2FN[activation]
        self.fc2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


def sincos_table(side: int, width: int) -> Tensor:
    """(side*side, width) table: first half of the channels from the column, second from the row, each [sin | cos]."""
    omega = 1.0 / 10_000 ** (torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * omega
    line = torch.cat((angles.sin(), angles.cos()), 1)
    columns, rows = line[None].expand(side, -1, -1), line[:, None].expand(-1, side, -1)
    return torch.cat((columns, rows), -1).reshape(side * side, width).float()


class PositionTable(nn.Module):
    """Added positions; a frozen parameter, because checkpoints store it and the stored values count."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.side = side
        self.pos_embed = nn.Parameter(torch.empty(side * side, width), requires_grad=False)

    def reset(self) -> None:
        """Fill with the sin-cos table (random initialisation only)."""
        with torch.no_grad():
            self.pos_embed.copy_(sincos_table(self.side, self.pos_embed.shape[1]))

    def forward(self, ids: Tensor) -> Tensor:
        return self.pos_embed.index_select(0, ids)


class TimeEmbedder(nn.Module):
    """Sinusoids of t in [0, 1] (cosines first, no scaling of t), then Linear-SiLU-Linear."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.mlp = nn.Sequential(nn.Linear(channels, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        half = self.channels // 2
        rate = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
        angles = t.float()[:, None] * rate
        weight: Any = self.mlp[0].weight
        return self.mlp(torch.cat((angles.cos(), angles.sin()), -1).to(weight.dtype))
