"""Decoder of the mixture of transformers: two experts per layer, one shared attention.

Tokens travel as two flat tensors, understanding (U, D) and generation (G, D), so that each expert computes its own
tokens only. Attention needs rows: one gather of q/k/v into (B, L) slots and one gather back per layer. Rules: BAGEL
(pre-norm; q/k RMS norm before rope; biases on q/k/v only).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP, Qwen2RotaryEmbedding

from model.attention import attend


@dataclass
class Rows:
    """How flat tokens (order: understanding, then generation) fill (rows, width) slots.

    gather (rows*width,): flat token of each slot (any token for empty slots), None when slots are the tokens in order.
    scatter (U+G,): slot of each flat token. cos, sin (U+G, 1, head_dim). mask: see `model.attention.attend`.
    """

    rows: int
    width: int
    gather: Tensor | None
    scatter: Tensor | None
    cos: Tensor
    sin: Tensor
    mask: Any


@dataclass
class LayerCache:
    """Keys and values (B, Hkv, capacity, D) of one layer; new columns are written at `start`."""

    keys: Tensor
    values: Tensor


class RMSNorm(nn.Module):
    """Root-mean-square norm: statistics in float32, result cast back, then times the weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float32:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return self.weight * F.rms_norm(x.float(), self.weight.shape, None, self.eps).to(x.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def rotary(module: Qwen2RotaryEmbedding, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin (T, 1, head_dim) of rope ids (T,)."""
    probe = torch.empty(0, dtype=dtype, device=positions.device)
    cos, sin = module(probe, positions[None])
    return cos[0].unsqueeze(1), sin[0].unsqueeze(1)


class MoTAttention(nn.Module):
    """Projections per expert (`*_moe_gen` is generation's), one softmax over all tokens."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads or self.heads
        self.head_dim = getattr(config, "head_dim", None) or width // self.heads
        for suffix in ("", "_moe_gen"):
            for name, heads in (("q", self.heads), ("k", self.kv_heads), ("v", self.kv_heads)):
                self.add_module(f"{name}_proj{suffix}", nn.Linear(width, heads * self.head_dim))
            self.add_module(f"o_proj{suffix}", nn.Linear(self.heads * self.head_dim, width, bias=False))
            self.add_module(f"q_norm{suffix}", RMSNorm(self.head_dim, config.rms_norm_eps))
            self.add_module(f"k_norm{suffix}", RMSNorm(self.head_dim, config.rms_norm_eps))

    def _project(self, x: Tensor, suffix: str) -> Tensor:
        """q, k, v of one expert's tokens, side by side: (T, H + 2*Hkv, head_dim); q and k are normed."""
        part = self._modules
        shape = (x.shape[0], -1, self.head_dim)
        q = part[f"q_norm{suffix}"](part[f"q_proj{suffix}"](x).view(shape))  # type: ignore[misc]
        k = part[f"k_norm{suffix}"](part[f"k_proj{suffix}"](x).view(shape))  # type: ignore[misc]
        return torch.cat((q, k, part[f"v_proj{suffix}"](x).view(shape)), 1)  # type: ignore[misc]

    def forward(
        self, und: Tensor, gen: Tensor, rows: Rows, cache: LayerCache | None, start: int
    ) -> tuple[Tensor, Tensor]:
        qkv = self._project(und, "")
        if gen.shape[0]:
            qkv = torch.cat((qkv, self._project(gen, "_moe_gen")))
        turned = self.heads + self.kv_heads
        qkv = torch.cat((_rotate(qkv[:, :turned], rows.cos, rows.sin), qkv[:, turned:]), 1)
        if rows.gather is not None:
            qkv = qkv.index_select(0, rows.gather)
        qkv = qkv.view(rows.rows, rows.width, -1, self.head_dim).transpose(1, 2)
        q, k, v = qkv.split((self.heads, self.kv_heads, self.kv_heads), 1)
        if cache is not None:
            end = start + rows.width
            cache.keys[:, :, start:end], cache.values[:, :, start:end] = k, v
            k, v = cache.keys[:, :, :end], cache.values[:, :, :end]
        out = attend(q, k, v, rows.mask).transpose(1, 2).reshape(rows.rows * rows.width, -1)
        if rows.scatter is not None:
            out = out.index_select(0, rows.scatter)
        split = und.shape[0]
        gen_out = self._modules["o_proj_moe_gen"](out[split:]) if gen.shape[0] else gen  # type: ignore[misc]
        return self._modules["o_proj"](out[:split]), gen_out  # type: ignore[misc]


class MoTLayer(nn.Module):
    """One decoder layer: norm, shared attention, norm, MLP, each with its expert's weights."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.self_attn = MoTAttention(config)
        self.mlp = Qwen2MLP(config)
        self.mlp_moe_gen = Qwen2MLP(config)
        width, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RMSNorm(width, eps)
        self.input_layernorm_moe_gen = RMSNorm(width, eps)
        self.post_attention_layernorm = RMSNorm(width, eps)
        self.post_attention_layernorm_moe_gen = RMSNorm(width, eps)

    def forward(
        self, und: Tensor, gen: Tensor, rows: Rows, cache: LayerCache | None = None, start: int = 0
    ) -> tuple[Tensor, Tensor]:
        normed_gen = self.input_layernorm_moe_gen(gen) if gen.shape[0] else gen
        und_out, gen_out = self.self_attn(self.input_layernorm(und), normed_gen, rows, cache, start)
        und = und + und_out
        und = und + self.mlp(self.post_attention_layernorm(und))
        if gen.shape[0]:
            gen = gen + gen_out
            gen = gen + self.mlp_moe_gen(self.post_attention_layernorm_moe_gen(gen))
        return und, gen


class MoTModel(nn.Module):
    """Embedding, layers and the two final norms."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(MoTLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.norm_moe_gen = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.recompute = False  # gradient checkpointing

    def forward(
        self, und: Tensor, gen: Tensor, rows: Rows, caches: list[LayerCache] | None = None, start: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Hidden states before the final norms (the heads norm only the rows that they need)."""
        for index, layer in enumerate(self.layers):
            cache = caches[index] if caches is not None else None
            if self.recompute and torch.is_grad_enabled():
                und, gen = checkpoint(layer, und, gen, rows, cache, start, use_reentrant=False)
            else:
                und, gen = layer(und, gen, rows, cache, start)
        return und, gen


class MoTForCausalLM(nn.Module):
    """Decoder and vocabulary head, named as the official checkpoint names them."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.model = MoTModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
