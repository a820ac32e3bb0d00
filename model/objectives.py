"""The losses and advantages of multi-turn RL: pure functions on tensors, float32.

Sources: Flow-GRPO (arXiv 2505.05470), GRPO-Guard (arXiv 2510.22319), DiffusionNFT (arXiv 2509.16117), Edit-R2 (arXiv
2606.05950). `b` counts sessions (groups), `g` trajectories of a group, `t` turns. Absent rewards are NaN on the way in
and never reach a statistic. A member of a group may have gone on from a sibling's picture: `before` (b, g, t) names,
per turn, the member whose turn before it started from.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

EPSILON = 1e-4  # keeps a group of equal rewards from dividing by zero


def combine_rewards(metrics: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Weighted mean of the metrics that are present.

    Args:
        metrics: name -> (b, g, t), NaN where the judge returned an absence.
        weights: name -> weight; the weights of absent metrics are shared by the others.

    Returns:
        (b, g, t); NaN where no metric is present.
    """
    values = torch.stack([metrics[name] for name in weights])
    share = torch.tensor(list(weights.values()), dtype=values.dtype).view(-1, 1, 1, 1) * ~values.isnan()
    return (values.nan_to_num() * share).sum(0) / share.sum(0)


def healthy_turns(following: Tensor, exists: Tensor, before: Tensor | None = None, *, threshold: float = 0.0) -> Tensor:
    """The trajectory filter as released: a failed turn still teaches, its successors do not.

    Args:
        following: (b, g, t) instruction following, NaN where absent; an absence is no failure.
        exists: (b, g, t) bool, False beyond a session's last turn.
        before: None where every member went on from its own pictures.

    Returns:
        (b, g, t) bool, True where the turn may teach.
    """
    sound = ~((following <= threshold) & exists)
    turns = [torch.ones_like(sound[..., 0])]
    for turn in range(1, exists.shape[-1]):
        unbroken = turns[-1] & sound[..., turn - 1]
        turns.append(unbroken if before is None else unbroken.gather(1, before[..., turn]))
    return exists & torch.stack(turns, -1)


def advantages(
    rewards: Tensor,
    learns: Tensor,
    before: Tensor | None = None,
    *,
    grouping: Literal["turn", "session", "improvement"],
    scale: Literal["deviation", "none"] = "deviation",
    minimum_spread: float = 0.0,
    bound: float = 5.0,
) -> Tensor:
    """Group-relative advantages over the turns that may teach.

    `turn` compares a turn with the same turn of the group; `session` is the released grouping, where all turns of a
    session share mean and deviation; `improvement` compares what a turn adds to the reward of the turn before it.

    Args:
        rewards: (b, g, t), NaN where absent.
        learns: (b, g, t) bool.
        before: as in `healthy_turns`.
        scale: `deviation` divides by the group's deviation; `none` leaves differences of reward as they are, so that
            small ones teach little (Dr. GRPO, arXiv 2503.20783).
        minimum_spread: a group whose standard deviation is not above it gets advantage 0.
        bound: advantages are clamped to [-bound, bound].

    Returns:
        (b, g, t), 0 where a turn does not teach.
    """
    if grouping == "improvement":
        started = rewards[..., :-1] if before is None else rewards[..., :-1].gather(1, before[..., 1:])
        rewards = torch.cat([rewards[..., :1], rewards[..., 1:] - started], dim=-1)
    learns = learns & ~rewards.isnan()
    over = (-2, -1) if grouping == "session" else (-2,)
    mean, deviation = _mean(rewards, learns, over), spread(rewards, learns, over)
    scaled = (rewards.nan_to_num() - mean) / (deviation + EPSILON if scale == "deviation" else 1.0)
    return (scaled * (learns & (deviation > minimum_spread))).clamp(-bound, bound)


def spread(values: Tensor, counted: Tensor, over: tuple[int, ...]) -> Tensor:
    """Standard deviation (of the population) over some dimensions, which stay, of those values that are counted."""
    return _mean((values - _mean(values, counted, over)) ** 2, counted, over).sqrt()


def _mean(values: Tensor, counted: Tensor, over: tuple[int, ...]) -> Tensor:
    return torch.where(counted, values, 0.0).sum(over, keepdim=True) / counted.sum(over, keepdim=True).clamp(min=1)


def best_alone(advantages: Tensor) -> Tensor:
    """Advantages (b, g, t) of each turn's best member, 0 of all others: best-of-n distillation (RAFT, arXiv
    2304.06767), where a group teaches the more the rarer its best is."""
    best = torch.zeros_like(advantages).scatter(1, advantages.argmax(1, keepdim=True), 1.0)
    return (advantages * best).clamp(min=0)


def clipped_policy_loss(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """PPO's pessimistic surrogate, elementwise: max(-A r, -A clip(r, 1 - clip, 1 + clip)) with r = exp(log_ratio)."""
    ratio = log_ratio.exp()
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip))


def guarded_log_ratio(following: Tensor, mean: Tensor, old_mean: Tensor, deviation: Tensor) -> Tensor:
    """GRPO-Guard's ratio normalisation (arXiv 2510.22319): log r = (log p - log p_old + |mu - mu_old|^2 / (2 c^2)) c.

    With Gaussian steps this is (x' - mu_old) (mu - mu_old) / c, which needs no log-probability: it is the same whether
    a sampler's leaves out its factors, as that of `cps` does, or not. Its mean under the old policy is 0.

    Args:
        following, mean, old_mean: (n, tokens, channels) what the sampler went on to, and the transition means.
        deviation: (n,) standard deviation c of the whole step.

    Returns:
        (n,), the mean over a picture's elements.
    """
    return ((following - old_mean) * (mean - old_mean)).flatten(1).mean(1) / deviation


def forward_process_loss(
    velocity: Tensor,
    old: Tensor,
    target: Tensor,
    times: Tensor,
    advantage: Tensor,
    *,
    strength: float = 1.0,
    bound: float = 5.0,
) -> Tensor:
    """DiffusionNFT: flow matching towards good samples, and away from bad ones, on the line through the old policy.

    With r = clip(A / (2 bound) + 1/2, 0, 1), v+ = s v + (1 - s) v_old and v- = (1 + s) v_old - s v, the loss is
    bound (r E(v+) + (1 - r) E(v-)) / s, where E is the squared error of the predicted clean picture over its mean
    absolute error. At v = v_old its gradient is A times that of flow matching on the sample.

    Args:
        velocity, old: (n, tokens, channels) at the noisy pictures, of the policy and of the one that sampled.
        target: (n, tokens, channels) true velocity, noise minus sample.
        times: (n,) of the noisy pictures.
        advantage: (n,); 0 means that the sample teaches nothing, and its loss is 0.

    Returns:
        (n,).
    """
    share = (advantage / (2 * bound) + 0.5).clamp(0, 1)
    change = strength * (velocity - old.detach())
    near, far = (_clean_error(old.detach() + side * change - target, times) for side in (1, -1))
    return (advantage != 0) * bound * (share * near + (1 - share) * far) / strength


def _clean_error(error: Tensor, times: Tensor) -> Tensor:
    """(n,) of velocity errors (n, tokens, channels): the predicted clean picture is off by t times the error."""
    off = (error * times.view(-1, 1, 1)).flatten(1)
    return (off**2).mean(1) / off.detach().abs().mean(1).clamp_min(1e-5)


def matching_loss(velocity: Tensor, target: Tensor, advantage: Tensor) -> Tensor:
    """(n,) flow matching on samples, each as much as its advantage (n,); shapes as in `forward_process_loss`."""
    return advantage * ((velocity - target) ** 2).flatten(1).mean(1)


def sampled_kl(log_ratio: Tensor) -> Tensor:
    """KL of the policy that sampled from the current one, estimated elementwise on the samples: r - 1 - log r with
    r = exp(log_ratio), current over sampling.

    It is unbiased and never negative: k3 of Schulman, "Approximating KL Divergence" (joschu.net/blog/kl-approx.html).
    """
    return log_ratio.expm1() - log_ratio


def velocity_kl(velocity: Tensor, reference: Tensor) -> Tensor:
    """(n,) mean squared difference of velocities (n, tokens, channels): the KL that does not blow up at small noise."""
    return ((velocity - reference) ** 2).flatten(1).mean(1)


def latent_kl(mean: Tensor, reference_mean: Tensor, std: Tensor) -> Tensor:
    """(n,) KL of two Gaussians of equal deviation, mean over elements: |mu - mu_ref|^2 / (2 std^2)."""
    return ((mean - reference_mean) ** 2).flatten(1).mean(1) / (2 * std**2)
