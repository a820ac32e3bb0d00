"""Pure sampling kernels over the flow time grid (t = 1 is noise, t = 0 is data); one function samples and replays.

`ode`: Euler. `flow`: the stochastic step of Flow-GRPO. `cps`: coefficients-preserving sampling (Flow-CPS).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Kind = Literal["ode", "flow", "cps"]


class Step(NamedTuple):
    """One transition. next, mean (B, N, C); std, deviation, logprob (B,). For `ode` these are 0: nothing is drawn.

    `std` is the sampler's own term, per square root of time for `flow`; `deviation` is that of `next` from `mean`.
    """

    next: Tensor
    mean: Tensor
    std: Tensor
    deviation: Tensor
    logprob: Tensor


def schedule(points: int, shift: float) -> Tensor:
    """(points,) float32 from 1 to 0, shifted by s*t / (1 + (s-1)*t); `points` points make points - 1 steps."""
    t = torch.linspace(1, 0, points)
    return shift * t / (1 + (shift - 1) * t)


def _flow(x: Tensor, v: Tensor, t: Tensor, t_next: Tensor, level: float, t_first: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std_t = level * sqrt(t / (1 - t')); t' is the grid's second point where t is 1."""
    dt = t_next - t
    std = level * torch.sqrt(t / (1 - torch.where(t == 1, t_first, t)))
    drift = std**2 / (2 * t)
    return x * (1 + drift * dt) + v * (1 + drift * (1 - t)) * dt, std


def _cps(x: Tensor, v: Tensor, t: Tensor, t_next: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Mean from the predicted ends x0 = x - t v and x1 = x + (1 - t) v; std = t_next sin(level pi / 2)."""
    std = t_next * math.sin(level * math.pi / 2)
    data, ends = x - t * v, x + (1 - t) * v
    return data * (1 - t_next) + ends * torch.sqrt((t_next**2 - std**2).clamp_min(0)), std


def step(
    x: Tensor,
    v: Tensor,
    t: Tensor | float,
    t_next: Tensor | float,
    *,
    kind: Kind,
    noise_level: float = 0.0,
    noise: Tensor | None = None,
    next_x: Tensor | None = None,
    t_first: Tensor | float | None = None,
) -> Step:
    """One step from t to t_next, in float32 whatever the inputs.

    x, v (B, N, C); t, t_next scalar or (B,). Give `noise` (B, N, C) to sample or `next_x` to replay (ValueError without
    either, unless `ode`). logprob is the MEAN over a sample's elements of -(next - mean)^2 / (2 std^2 (-dt)), without
    normaliser; for cps of -(next - mean)^2. `t_first`: second grid point, used where t = 1 (default: t_next).
    """
    x, v = x.float(), v.float()

    def times(value: Tensor | float) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float32, device=x.device).expand(x.shape[0]).view(-1, 1, 1)

    now, then = times(t), times(t_next)
    if kind == "ode":
        mean = x - v * (now - then)
        zero = torch.zeros(x.shape[0], device=x.device)
        return Step(mean, mean, zero, zero, zero)
    if kind == "flow":
        mean, std = _flow(x, v, now, then, noise_level, then if t_first is None else times(t_first))
        scale = std * torch.sqrt(now - then)
    else:
        mean, std = _cps(x, v, now, then, noise_level)
        scale = std
    if next_x is None:
        if noise is None:
            raise ValueError("a stochastic step needs `noise` to sample or `next_x` to replay")
        next_x = mean + scale * noise.float()
    square = (next_x.float() - mean) ** 2
    logprob = -(square / (2 * scale**2) if kind == "flow" else square).flatten(1).mean(1)
    return Step(next_x.float(), mean, std.flatten(), scale.flatten(), logprob)
