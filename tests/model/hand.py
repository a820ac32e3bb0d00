"""Sessions by hand: every forward rebuilds the whole history through `tests.model.naive`, one session at a time.

Reads a folder in the official layout by itself; shares no rule with the package but the resizing of pictures for the
encoder, which is Pillow's.
"""

import json
import math
from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers.activations import ACT2FN

from tests.model.naive import Autoencoder, Naive

PATCHES = "vit_model.vision_model.embeddings.patch_embedding.weight"


@dataclass(frozen=True)
class Turn:
    """Picture (clean and vit: segments of `Naive.run`), instruction and trace of a turn, as plain ids."""

    clean: dict
    vit: dict
    text: list[int]
    trace: list[int] | None = None


def cut(x: Tensor, size: int) -> Tensor:
    """(C, H, W) -> one row per patch: row in patch, column in patch, channel."""
    corners = [(r, c) for r in range(0, x.shape[1], size) for c in range(0, x.shape[2], size)]
    return torch.stack([x[:, r : r + size, c : c + size].permute(1, 2, 0).flatten() for r, c in corners])


def paste(rows: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Inverse of `cut`."""
    lines = rows.view(*grid, size, size, -1)
    return torch.cat([torch.cat([patch.permute(2, 0, 1) for patch in line], 2) for line in lines], 1)


class Hand:
    """Model and autoencoder of a folder. `special`: bos, eos, soi, eoi."""

    def __init__(self, folder: Path, special: tuple[int, int, int, int]) -> None:
        llm, vit, vae, extra = (json.loads((folder / f"{n}_config.json").read_text()) for n in FILES)
        state = {name: tensor.float() for name, tensor in load_file(folder / "ema.safetensors").items()}
        state[PATCHES] = state[PATCHES].permute(0, 2, 3, 1).flatten(1) if state[PATCHES].dim() == 4 else state[PATCHES]
        sides = (isqrt(len(state[f"{n}_pos_embed.pos_embed"])) for n in ("latent", "vit"))
        named = extra["bagel"]
        other = {"act": ACT2FN[named["connector_act"]], "interpolate": named["interpolate_pos"], "special": special}
        stated = {**vit, "num_hidden_layers": vit["num_hidden_layers"] - 1}
        self.naive = Naive(state, llm, stated, tuple(sides), **other)
        self.vae = Autoencoder(vae["ch"], vae["ch_mult"], vae["num_res_blocks"], vae["z_channels"])
        self.vae.load_state_dict({n: t.float() for n, t in load_file(folder / "ae.safetensors").items()})
        self.vae.requires_grad_(False)
        self.scale, self.shift = vae["scale_factor"], vae["shift_factor"]
        self.eos, self.latent_patch, self.patch = special[1], named["latent_patch_size"], vit["patch_size"]

    # --- pictures ---------------------------------------------------------------------------------------------------

    def see(self, large: Tensor, small: Tensor, text: list[int]) -> Turn:
        """A turn's picture, uint8 (H, W, 3) at the autoencoder's and at the encoder's size."""
        x, y = ((p.permute(2, 0, 1).float() / 127.5 - 1) for p in (large, small))
        mean = self.vae.encoder(x[None])[0].chunk(2)[0]
        latents = cut(self.scale * (mean - self.shift), self.latent_patch)
        grid = tuple(side // self.latent_patch for side in mean.shape[1:])
        cells = tuple(side // self.patch for side in y.shape[1:])
        vit = {"kind": "vit", "patches": cut(y, self.patch), "grid": cells}
        return Turn({"kind": "clean", "latents": latents, "grid": grid}, vit, text)

    def draw(self, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        """(3, H, W) in [0, 1]."""
        z = paste(latents, grid, self.latent_patch)[None] / self.scale + self.shift
        return (self.vae.decoder(z)[0] / 2 + 0.5).clamp(0, 1)

    # --- one forward ------------------------------------------------------------------------------------------------

    def run(self, turns: list[Turn], view: str, noise: dict | None) -> list[Tensor]:
        """Hidden states of the last turn and its history, all traces included. view: full, no_text, no_image."""
        listed, rope = [], 0
        for number, turn in enumerate(turns, 1):
            if view != "no_image":
                listed += [turn.clean | {"rope": rope, "turn": number}, turn.vit | {"rope": rope + 1, "turn": number}]
                rope += 2
            if number == len(turns) and view == "no_text":
                break
            listed.append({"kind": "text", "ids": turn.text, "rope": rope, "turn": number})
            rope += len(turn.text) + 2
            if turn.trace is not None:
                listed.append({"kind": "text", "ids": turn.trace, "rope": rope, "turn": number})
                rope += len(turn.trace) + 2
        if noise is not None:
            listed.append(noise | {"kind": "noise", "rope": rope, "turn": len(turns)})
        return self.naive.run(listed)

    def velocity(self, turns: list[Turn], x: Tensor, t: float, grid: tuple[int, int], view: str = "full") -> Tensor:
        """(N, C) of latents x (N, C)."""
        hidden = self.run(turns, view, {"latents": x, "grid": grid, "t": t})[-1]
        return self.naive.linear("llm2vae", hidden[1:-1])

    def guided(
        self, turns: list[Turn], x: Tensor, t: float, grid: tuple[int, int], text: float, image: float, **mode
    ) -> Tensor:
        """Velocity of all three views, mixed; mode: renorm, renorm_min."""
        full, blind, unseen = (self.velocity(turns, x, t, grid, view) for view in ("full", "no_text", "no_image"))
        return mix(full, blind, unseen, text, image, **mode)

    def trace_logits(self, turns: list[Turn]) -> Tensor:
        """(S + 1, V): what follows bos and every id of the last turn's trace."""
        return self.naive.linear("language_model.lm_head", self.run(turns, "full", None)[-1][:-1])

    def write(self, turns: list[Turn], budget: int) -> tuple[list[int], list[float]]:
        """The likeliest trace of the last turn, without eos, and the log-probability of every decision."""
        ids: list[int] = []
        logprobs: list[float] = []
        while len(ids) < budget:
            told = self.trace_logits([*turns[:-1], replace(turns[-1], trace=ids)])[-1].log_softmax(-1)
            best = int(told.argmax())
            logprobs.append(float(told[best]))
            if best == self.eos:
                break
            ids.append(best)
        return ids, logprobs


FILES = ("llm", "vit", "vae", "bagel")


def mix(
    full: Tensor, blind: Tensor, unseen: Tensor, text: float, image: float, renorm: str = "text_channel",
    renorm_min: float = 0.0,
) -> Tensor:  # fmt: skip
    """Guidance of one picture: away from the view without text, then away from the one without pictures."""
    mixed = blind + text * (full - blind)
    if renorm != "text_channel":
        mixed = unseen + image * (mixed - unseen)
    axes = (0, 1) if renorm == "global" else 1
    sizes = [v.square().sum(axes, keepdim=True).sqrt() for v in (full, mixed)]
    mixed = mixed * (sizes[0] / (sizes[1] + 1e-8)).clamp(renorm_min, 1)
    return mixed if renorm != "text_channel" else unseen + image * (mixed - unseen)


def times_of(points: int, shift: float) -> list[float]:
    """From 1 to 0."""
    plain = [1 - k / (points - 1) for k in range(points)]
    return [shift * t / (1 + (shift - 1) * t) for t in plain]


def stochastic(kind: str, x: Tensor, v: Tensor, z: Tensor, t: float, then: float, level: float) -> dict[str, Tensor]:
    """One step of Flow-GRPO's (`flow`) or of coefficients-preserving sampling (`cps`), in double precision."""
    x, v, z = x.double(), v.double(), z.double()
    if kind == "flow":
        std = level * math.sqrt(t / (1 - (then if t == 1 else t)))
        mean = x + (v + std**2 / (2 * t) * (x + (1 - t) * v)) * (then - t)
        scale = std * math.sqrt(t - then)
        log = -(((scale * z) ** 2) / (2 * scale**2)).mean()
    else:
        std = scale = then * math.sin(level * math.pi / 2)
        mean = (x - t * v) * (1 - then) + (x + (1 - t) * v) * math.sqrt(then**2 - std**2)
        log = -((scale * z) ** 2).mean()
    found = {"next": mean + scale * z, "mean": mean, "std": torch.tensor(std), "logprob": log}
    return {name: value.float() for name, value in found.items()}
