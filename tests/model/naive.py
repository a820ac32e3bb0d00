"""The rules once more, slowly: token by token, every expert computed for every token, one dense mask.

Written from the description of the released model, sharing no code with the package; it works on a state dict with the
official names. `Autoencoder` is the released autoencoder's architecture under its own names.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Naive:
    """Velocity and text logits of one session, given as a list of dicts (see `run`)."""

    def __init__(self, state: dict[str, Tensor], llm: dict, vit: dict, sides: tuple[int, int], **other) -> None:
        self.w, self.llm, self.vit = state, llm, vit
        self.latent_side, self.vit_side = sides
        self.act, self.interpolate, self.special = other["act"], other["interpolate"], other["special"]

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def rms(self, name: str, x: Tensor) -> Tensor:
        return self.w[f"{name}.weight"] * x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.llm["rms_norm_eps"])

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias, self.vit["layer_norm_eps"])

    def table_id(self, row: int, column: int, rows: int, columns: int, side: int) -> int:
        if not self.interpolate:
            return row * side + column
        return math.floor(row / rows * side + 1e-9) * side + math.floor(column / columns * side + 1e-9)

    def ids(self, grid: tuple[int, int], side: int) -> Tensor:
        rows, columns = grid
        cells = [(r, c) for r in range(rows) for c in range(columns)]
        return torch.tensor([self.table_id(r, c, rows, columns, side) for r, c in cells])

    def vit_tokens(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        ids, start = self.ids(grid, self.vit_side), "vit_model.vision_model"
        x = self.linear(f"{start}.embeddings.patch_embedding", patches)
        x = x + self.w[f"{start}.embeddings.position_embedding.weight"][ids]
        heads = self.vit["num_attention_heads"]
        for index in range(self.vit["num_hidden_layers"]):
            layer = f"{start}.encoder.layers.{index}"
            y = self.layer_norm(f"{layer}.layer_norm1", x)
            parts = (self.linear(f"{layer}.self_attn.{n}_proj", y) for n in "qkv")
            q, k, v = (part.view(len(x), heads, -1).transpose(0, 1) for part in parts)
            mixed = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
            x = x + self.linear(f"{layer}.self_attn.out_proj", mixed.transpose(0, 1).flatten(1))
            y = self.linear(f"{layer}.mlp.fc1", self.layer_norm(f"{layer}.layer_norm2", x))
            x = x + self.linear(f"{layer}.mlp.fc2", F.gelu(y, approximate="tanh"))
        x = self.layer_norm(f"{start}.post_layernorm", x)
        x = self.linear("connector.fc2", self.act(self.linear("connector.fc1", x)))
        return x + self.w["vit_pos_embed.pos_embed"][ids]

    def latent_tokens(self, latents: Tensor, grid: tuple[int, int], t: float) -> Tensor:
        channels = self.w["time_embedder.mlp.0.weight"].shape[1]
        angles = [t * math.exp(-math.log(1e4) * k / (channels // 2)) for k in range(channels // 2)]
        wave = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
        time = self.linear("time_embedder.mlp.2", F.silu(self.linear("time_embedder.mlp.0", wave)))
        return (
            self.linear("vae2llm", latents)
            + time
            + self.w["latent_pos_embed.pos_embed"][self.ids(grid, self.latent_side)]
        )

    def embed(self, segment: dict) -> Tensor:
        table = self.w["language_model.model.embed_tokens.weight"]
        bos, eos, soi, eoi = self.special
        if segment["kind"] == "text":
            return table[torch.tensor([bos, *segment["ids"], eos])]
        if segment["kind"] == "vit":
            inner = self.vit_tokens(segment["patches"], segment["grid"])
        else:
            inner = self.latent_tokens(segment["latents"], segment["grid"], segment.get("t", 0.0))
        return torch.cat((table[soi][None], inner, table[eoi][None]))

    def run(self, segments: list[dict]) -> list[Tensor]:
        """Hidden states of every segment after its expert's final norm. A segment: kind (text, vit, clean, noise), its
        content, rope, turn, branch."""
        embedded = [self.embed(s) for s in segments]
        owner = [i for i, e in enumerate(embedded) for _ in range(len(e))]
        place = [p for e in embedded for p in range(len(e))]
        x = torch.cat(embedded)
        gen = torch.tensor(
            [self.generates(segments[o], p, len(embedded[o])) for o, p in zip(owner, place, strict=True)]
        )
        rope = [
            segments[o]["rope"] + (p if segments[o]["kind"] == "text" else 0) for o, p in zip(owner, place, strict=True)
        ]
        seen = torch.tensor([[sees(segments, owner, i, j) for j in range(len(x))] for i in range(len(x))])
        for index in range(self.llm["num_hidden_layers"]):
            x = self.layer(f"language_model.model.layers.{index}", x, gen, torch.tensor(rope), seen)
        x = self.either("language_model.model.norm", x, gen, self.rms)
        return list(x.split([len(e) for e in embedded]))

    @staticmethod
    def generates(segment: dict, place: int, length: int) -> bool:
        return segment["kind"] in ("clean", "noise") and 0 < place < length - 1

    def either(self, name: str, x: Tensor, gen: Tensor, rule) -> Tensor:
        shape = (-1, *[1] * (x.dim() - 1))
        und, other = rule(name, x), rule(f"{name}_moe_gen", x)
        return torch.where(gen.view(shape[: und.dim()]), other, und)

    def rotate(self, x: Tensor, rope: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        turn = rope[:, None, None] * self.llm["rope_theta"] ** (-torch.arange(half) / half)
        a, b = x[..., :half], x[..., half:]
        return torch.cat((a * turn.cos() - b * turn.sin(), b * turn.cos() + a * turn.sin()), -1)

    def layer(self, name: str, x: Tensor, gen: Tensor, rope: Tensor, seen: Tensor) -> Tensor:
        heads, kv = self.llm["num_attention_heads"], self.llm["num_key_value_heads"]
        y = self.either(f"{name}.input_layernorm", x, gen, self.rms)
        attention = f"{name}.self_attn"
        q = self.either(f"{attention}.q_proj", y, gen, self.linear).view(len(x), heads, -1)
        k = self.either(f"{attention}.k_proj", y, gen, self.linear).view(len(x), kv, -1)
        v = self.either(f"{attention}.v_proj", y, gen, self.linear).view(len(x), kv, -1)
        q = self.rotate(self.either(f"{attention}.q_norm", q, gen, self.rms), rope)
        k = self.rotate(self.either(f"{attention}.k_norm", k, gen, self.rms), rope)
        out = torch.empty_like(q)
        for head in range(heads):
            shared = head * kv // heads
            score = (q[:, head] @ k[:, shared].T / math.sqrt(q.shape[-1])).masked_fill(~seen, -math.inf)
            out[:, head] = score.softmax(-1) @ v[:, shared]
        x = x + self.either(f"{attention}.o_proj", out.flatten(1), gen, self.linear)
        y = self.either(f"{name}.post_attention_layernorm", x, gen, self.rms)
        mlps = []
        for mlp in ("mlp", "mlp_moe_gen"):
            gate = F.silu(self.linear(f"{name}.{mlp}.gate_proj", y))
            mlps.append(self.linear(f"{name}.{mlp}.down_proj", gate * self.linear(f"{name}.{mlp}.up_proj", y)))
        return x + torch.where(gen[:, None], mlps[1], mlps[0])


def sees(segments: list[dict], owner: list[int], i: int, j: int) -> bool:
    """Whether token i may attend to token j."""
    a, b = owner[i], owner[j]
    if a == b:
        return segments[a]["kind"] != "text" or j <= i
    if b > a or segments[b]["kind"] == "noise":
        return False
    return not segments[b].get("branch") or segments[a]["turn"] == segments[b]["turn"]


class Block(nn.Module):
    """Residual block."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.GroupNorm(32, n, eps=1e-6) for n in (before, after))
        self.conv1, self.conv2 = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
        if before != after:
            self.nin_shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Middle(nn.Module):
    """Attention over all pixels, one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (layer(y).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        return x + self.proj_out(mixed.transpose(1, 2).reshape(x.shape))


def _level(blocks: list[Block], name: str | None = None, resample: nn.Module | None = None) -> nn.Module:
    level = nn.Module()
    level.block = nn.ModuleList(blocks)
    if name is not None:
        holder = nn.Module()
        holder.conv = resample
        setattr(level, name, holder)
    return level


class Half(nn.Module):
    """Encoder or decoder; `decodes` picks the order of its parts."""

    def __init__(self, ch: int, mult: list[int], blocks: int, z: int, decodes: bool) -> None:
        super().__init__()
        self.decodes, widths = decodes, [ch * m for m in mult]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(z if decodes else 3, widths[-1] if decodes else ch, 3, padding=1)
        levels: dict[int, nn.Module] = {}
        before = widths[-1] if decodes else ch
        for index in range(last, -1, -1) if decodes else range(last + 1):
            stack = []
            for _ in range(blocks + decodes):
                stack.append(Block(before, widths[index]))
                before = widths[index]
            resample = index > 0 if decodes else index < last
            conv = nn.Conv2d(before, before, 3, padding=1) if decodes else nn.Conv2d(before, before, 3, stride=2)
            levels[index] = _level(stack, ("upsample" if decodes else "downsample") if resample else None, conv)
        setattr(self, "up" if decodes else "down", nn.ModuleList(levels[i] for i in range(last + 1)))
        width = widths[-1]
        self.mid = nn.Module()
        self.mid.block_1, self.mid.attn_1, self.mid.block_2 = Block(width, width), Middle(width), Block(width, width)
        self.norm_out = nn.GroupNorm(32, before, eps=1e-6)
        self.conv_out = nn.Conv2d(before, 3 if decodes else 2 * z, 3, padding=1)

    def middle(self, x: Tensor) -> Tensor:
        return self.mid.block_2(self.mid.attn_1(self.mid.block_1(x)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        if self.decodes:
            x = self.middle(x)
        for level in reversed(self.up) if self.decodes else self.down:
            for block in level.block:
                x = block(x)
            if hasattr(level, "upsample"):
                x = level.upsample.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
            if hasattr(level, "downsample"):
                x = level.downsample.conv(F.pad(x, (0, 1, 0, 1)))
        if not self.decodes:
            x = self.middle(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Autoencoder(nn.Module):
    """Encoder and decoder under the released names."""

    def __init__(self, ch: int, mult: list[int], blocks: int, z: int) -> None:
        super().__init__()
        self.encoder, self.decoder = Half(ch, mult, blocks, z, False), Half(ch, mult, blocks, z, True)
