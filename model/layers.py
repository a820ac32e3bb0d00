"""Decoder of the mixture of transformers: two experts per layer, one shared attention.

Tokens travel as two flat tensors, understanding (U, D) and generation (G, D), so that each expert computes its own
tokens only. Attention needs rows: q/k/v are gathered into the parts of a `Rows` and gathered back, once per layer.
Rules: BAGEL (pre-norm; q/k RMS norm before rope; biases on q/k/v only).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP, Qwen2RotaryEmbedding

from model.attention import attend
from model.rows import LayerCache, Part, Rows


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last axis: statistics in float32, result cast back, then times the weight."""
    if x.dtype == torch.float32 and not x.is_cuda:  # where nothing fuses the norm, this walks the tensor less often
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        if torch.is_grad_enabled():
            return x * (size.square() / x.shape[-1] + eps).rsqrt() * weight
        return (x * size.square_().div_(x.shape[-1]).add_(eps).rsqrt_()).mul_(weight)
    normed = F.rms_norm(x.float(), x.shape[-1:], None, eps)
    return weight * normed.to(x.dtype)


def run(recompute: bool, layer: nn.Module, *inputs: Any) -> Any:
    """What a layer returns; with `recompute` the backward pass computes its activations again."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(layer, *inputs, use_reentrant=False)
    return layer(*inputs)


class RMSNorm(nn.Module):
    """See `rms_norm`."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float32 and x.is_cuda:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return rms_norm(x, self.weight, self.eps)


class MLP(Qwen2MLP):
    """Qwen's gated MLP; without a gradient to keep for it writes in place."""

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        if torch.is_grad_enabled():
            return self.down_proj(self.act_fn(gate) * up)
        return self.down_proj(self.act_fn(gate).mul_(up))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Qwen's rotation of halves; the sign of the swapped half sits in `sin`."""
    return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), sin)


def rotary(module: Qwen2RotaryEmbedding, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin (T, 1, head_dim) of rope ids (T,); the first half of sin is negated."""
    probe = torch.empty(0, dtype=dtype, device=positions.device)
    cos, sin = (table[0].unsqueeze(1) for table in module(probe, positions[None]))
    half = sin.shape[-1] // 2
    return cos, torch.cat((-sin[..., :half], sin[..., half:]), -1)


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

    @property
    def largest_score(self) -> float:
        """What no product of a query and a key, scaled, can exceed: both are normed, so only the weights count."""
        part: Any = self._modules
        of_q, of_k = (
            max(float(part[f"{name}_norm{suffix}"].weight.detach().abs().max()) for suffix in ("", "_moe_gen"))
            for name in "qk"
        )
        return of_q * of_k * self.head_dim**0.5

    def _project(self, x: Tensor, suffix: str) -> tuple[Tensor, Tensor]:
        """q and k of one expert's tokens, normed, side by side (T, H + Hkv, head_dim), and v (T, Hkv, head_dim)."""
        part: Any = self._modules
        q, k, v = (part[f"{name}_proj{suffix}"](x) for name in "qkv")
        of_q, of_k = part[f"q_norm{suffix}"], part[f"k_norm{suffix}"]
        weight = torch.cat((of_q.weight.expand(self.heads, -1), of_k.weight.expand(self.kv_heads, -1)))
        qk = torch.cat((q, k), 1).view(x.shape[0], -1, self.head_dim)
        return rms_norm(qk, weight, of_q.eps), v.view(x.shape[0], -1, self.head_dim)

    def _attend(self, qkv: Iterable[Tensor], part: Part, caches: list[LayerCache] | None) -> Tensor:
        """(rows, queries, H, D) of a part; q (rows, queries, H, D), k and v (rows, keys, Hkv, D)."""
        q, k, v = (x.transpose(1, 2) for x in qkv)
        if caches is None:
            return attend(q, k, v, part.mask).transpose(1, 2)
        cache, end = caches[part.stream], part.start + part.keys
        before = [x.clone() for x in cache.read(part.start, end)] if part.borrows else []
        cache.write(part.start, (k, v))
        out = attend(q, *cache.read(0, end), part.mask, cache.bounded)
        if before:
            cache.write(part.start, (before[0], before[1]))
        return out.transpose(1, 2)

    def _even(
        self, und: tuple[Tensor, Tensor], gen: tuple[Tensor, Tensor], rows: Rows, caches: list[LayerCache] | None
    ) -> tuple[Tensor, Tensor]:
        """Attention of rows that hold as many tokens of either expert: (U, H*D) and (G, H*D)."""
        assert rows.even is not None
        first, second = rows.even
        qk, v = (_beside(*pair, first, second) for pair in zip(und, gen, strict=True))
        q, k = _rotate(qk, rows.cos, rows.sin).split((self.heads, self.kv_heads), 2)
        sizes = [part.rows for part in rows.parts]
        listed = zip(*(x.split(sizes) for x in (q, k, v)), strict=True)
        outs = [self._attend(qkv, part, caches) for qkv, part in zip(listed, rows.parts, strict=True)]
        width = self.heads * self.head_dim
        out_und = torch.cat([out[:, :first] for out in outs]).view(-1, width)
        return out_und, torch.cat([out[:, first:] for out in outs]).view(-1, width) if second else out_und[:0]

    def _gathered(
        self, und: tuple[Tensor, Tensor], gen: tuple[Tensor, Tensor], rows: Rows, caches: list[LayerCache] | None
    ) -> tuple[Tensor, Tensor]:
        """Attention of any tokens: (U, H*D) and (G, H*D)."""
        qk, v = (torch.cat(pair) if pair[1].shape[0] else pair[0] for pair in zip(und, gen, strict=True))
        q, k = _rotate(qk, rows.cos, rows.sin).split((self.heads, self.kv_heads), 1)
        queries = q.index_select(0, rows.queries).split([part.rows * part.queries for part in rows.parts])
        keys = torch.cat((k, v), 1).index_select(0, rows.keys).split([part.rows * part.keys for part in rows.parts])
        outs = []
        for asking, asked, part in zip(queries, keys, rows.parts, strict=True):
            shaped = (x.unflatten(0, (part.rows, -1)) for x in (asking, *asked.chunk(2, 1)))
            outs.append(self._attend(shaped, part, caches).reshape(len(asking), -1))
        joined = outs[0] if len(outs) == 1 else torch.cat(outs)
        out = joined.index_select(0, rows.restore)
        return out[: len(und[0])], out[len(und[0]) :]

    def forward(self, und: Tensor, gen: Tensor, rows: Rows, caches: list[LayerCache] | None) -> tuple[Tensor, Tensor]:
        part: Any = self._modules
        of_und = self._project(und, "")
        empty = of_und[0][:0], of_und[1][:0]
        of_gen = self._project(gen, "_moe_gen") if gen.shape[0] else empty
        mix = self._gathered if rows.even is None else self._even
        out_und, out_gen = mix(of_und, of_gen, rows, caches)
        return part["o_proj"](out_und), part["o_proj_moe_gen"](out_gen) if gen.shape[0] else gen


def _beside(und: Tensor, gen: Tensor, first: int, second: int) -> Tensor:
    """Tokens of both experts in even rows: (rows, first + second, heads, D)."""
    rows = und.unflatten(0, (-1, first))
    return torch.cat((rows, gen.unflatten(0, (-1, second))), 1) if second else rows


class MoTLayer(nn.Module):
    """One decoder layer: norm, shared attention, norm, MLP, each with its expert's weights."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.self_attn = MoTAttention(config)
        self.mlp = MLP(config)
        self.mlp_moe_gen = MLP(config)
        width, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RMSNorm(width, eps)
        self.input_layernorm_moe_gen = RMSNorm(width, eps)
        self.post_attention_layernorm = RMSNorm(width, eps)
        self.post_attention_layernorm_moe_gen = RMSNorm(width, eps)

    def forward(
        self, und: Tensor, gen: Tensor, rows: Rows, caches: list[LayerCache] | None = None
    ) -> tuple[Tensor, Tensor]:
        normed_gen = self.input_layernorm_moe_gen(gen) if gen.shape[0] else gen
        und_out, gen_out = self.self_attn(self.input_layernorm(und), normed_gen, rows, caches)
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
        self, und: Tensor, gen: Tensor, rows: Rows, streams: Sequence[Sequence[LayerCache]] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Hidden states before the final norms (the heads norm only the rows that they need). streams[s][l]: cache of
        stream s and layer l."""
        for index, layer in enumerate(self.layers):
            caches = [stream[index] for stream in streams] if streams is not None else None
            und, gen = run(self.recompute, layer, und, gen, rows, caches)
        return und, gen


class MoTForCausalLM(nn.Module):
    """Decoder and vocabulary head, named as the official checkpoint names them."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.model = MoTModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
