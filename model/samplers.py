"""Pure sampling kernels over the flow time grid (t = 1 is noise, t = 0 is data); the same function samples and replays."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

Kind = Literal["ode", "flow", "cps"]


class Step(NamedTuple):
    """One transition. next, mean (B, N, C); std, logprob (B,). For `ode` std is 0 and logprob is 0 (nothing was drawn)."""

    next: Tensor
    mean: Tensor
    std: Tensor
    logprob: Tensor


def schedule(points: int, shift: float) -> Tensor:
    """(points,) float32 from 1 to 0, shifted by s*t / (1 + (s-1)*t); `points` points make points - 1 steps."""
    raise NotImplementedError


def step(
    x: Tensor,
    v: Tensor,
    t: Tensor,
    t_next: Tensor,
    *,
    kind: Kind,
    noise_level: float = 0.0,
    noise: Tensor | None = None,
    next_x: Tensor | None = None,
    t_first: float | None = None,
) -> Step:
    """One step from t to t_next, in float32 whatever the inputs.

    x, v (B, N, C); t, t_next scalar or (B,). Give `noise` (B, N, C) to sample or `next_x` to replay. logprob is the
    MEAN over a sample's elements (Flow-GRPO without normaliser terms; CPS: negative mean square). `t_first`: the second
    grid point, which replaces t = 1 in Flow-GRPO's 1/(1-t); by default t_next, which is the same at the first step.
    """
    raise NotImplementedError
