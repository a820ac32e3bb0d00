"""The losses of an RL update on what is replayed in one forward, and what to watch of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model import distributed, objectives
from model.config import RlConfig
from model.excerpts import Excerpt
from model.experience import Experience
from model.replay import Replay, Stored, Transitions, transition
from model.tallies import Tally, Watched, tally


@dataclass
class Chunk:
    """Lessons that are replayed in one forward, with all that does not change between the iteration's updates."""

    excerpts: Sequence[Excerpt]
    stored: Stored
    done: Transitions | None  # the sampler's own steps
    target: Tensor | None  # (J, N, C) true velocities of fresh noise
    reference: Tensor | None = None  # (J, N, C) velocities of the reference policy
    old: Tensor | None = None  # (J, N, C) velocities of the policy that sampled
    idle: bool = False  # only keeps this rank in step with those that have more to replay


def pays_kl(config: RlConfig) -> bool:
    """Whether the distance to the reference policy is part of the loss."""
    return config.kl != "none" and config.kl_weight > 0


def learned(config: RlConfig) -> dict[str, str]:
    """Parts of the loss, each with its name among what is watched: a 0 that nothing pays would look like a result."""
    paid = {"kl": "kl"} if pays_kl(config) else {}
    return {policy: f"{policy}_loss" for policy in config.policies} | paid


def joint_loss(parts: dict[str, Tensor], config: RlConfig) -> Tensor:
    """Weighted sum of what learns."""
    weights = {"image": config.image_weight, "text": config.text_weight, "kl": config.kl_weight}
    learning = learned(config)
    return sum((weights[name] * parts[name] for name in parts if name in learning), torch.zeros(()).to(parts["text"]))


def policy_losses(
    result: Replay, chunk: Chunk, experience: Experience, config: RlConfig
) -> tuple[dict[str, Tensor], Watched]:
    """Losses of a chunk by name (`image`, `text`, `kl`) and what to watch.

    Every turn weighs the same, whatever its trace's length; a chunk's sum is divided by a minibatch's share of the
    turns of the iteration on all ranks.
    """
    turns = distributed.total(experience.exists.sum().item()) / config.minibatches
    device, draws = result.velocity.device, chunk.stored.draws
    image_advantage = experience.image_advantages.flatten(0, 1).to(device)[result.picture_row, result.picture_turn]
    text_advantage = experience.text_advantages.flatten(0, 1).to(device)[result.text_row, result.text_turn]
    image, image_metrics = _image_loss(result, chunk, image_advantage, experience, config)
    text, text_metrics = _text_loss(result, chunk, text_advantage, config)
    kl = _kl(result, chunk, experience, config)
    parts = {"image": image.sum() / (turns * draws), "text": text.sum() / turns, "kl": kl.sum() / (turns * draws)}
    values = {shown: Tally(parts[name].item()) for name, shown in learned(config).items()}
    return parts, {**values, **image_metrics, **text_metrics}


def _image_loss(
    result: Replay, chunk: Chunk, advantage: Tensor, experience: Experience, config: RlConfig
) -> tuple[Tensor, Watched]:
    """(J,) losses of noisy pictures."""
    if chunk.done is None or experience.window is None:
        if chunk.target is None or "image" not in config.policies:
            return result.velocity.new_zeros(1), {}
        if config.objective == "best":
            return objectives.matching_loss(result.velocity, chunk.target, advantage), {}
        old = chunk.old if chunk.old is not None else result.velocity
        options = {"strength": config.nft_strength, "bound": config.advantage_clip}
        loss = objectives.forward_process_loss(
            result.velocity, old, chunk.target, chunk.stored.times, advantage, **options
        )
        return loss, {}
    step = transition(chunk.stored, chunk.done, result.velocity, experience.window)
    log_ratio = step.logprob - chunk.done.logprobs
    if config.ratio_guard:
        log_ratio = objectives.guarded_log_ratio(step.next, step.mean, chunk.done.means, step.deviation)
    return objectives.clipped_policy_loss(log_ratio, advantage, config.clip), _ratio("image", log_ratio, config.clip)


def _text_loss(result: Replay, chunk: Chunk, advantage: Tensor, config: RlConfig) -> tuple[Tensor, Watched]:
    """(M,) losses of decisions, each divided by the length of its trace."""
    log_ratio = result.text_logprobs - chunk.stored.text_logprobs
    loss = objectives.clipped_policy_loss(log_ratio, advantage, config.text_clip) * share_of_trace(result)
    if not len(log_ratio):
        return loss, {}
    watched = {"text_kl": tally(objectives.sampled_kl(log_ratio.detach())), "entropy": tally(result.text_entropy)}
    return loss, {**_ratio("text", log_ratio, config.text_clip), **watched}


def _ratio(policy: str, log_ratio: Tensor, clip: float) -> Watched:
    if not len(log_ratio):
        return {}
    ratio = log_ratio.detach().exp()
    outside = (ratio - 1).abs() > clip
    return {f"{policy}_ratio": tally(ratio), f"{policy}_clip_share": tally(outside)}


def share_of_trace(result: Replay) -> Tensor:
    """(M,) one over the length of the trace that a decision belongs to."""
    return 1.0 / torch.bincount(result.text_trace)[result.text_trace]


def _kl(result: Replay, chunk: Chunk, experience: Experience, config: RlConfig) -> Tensor:
    """(J,) distances to the reference policy."""
    if chunk.reference is None:
        return result.velocity.new_zeros(1)
    if config.kl == "velocity" or chunk.done is None or experience.window is None:
        return objectives.velocity_kl(result.velocity, chunk.reference)
    step, other = (
        transition(chunk.stored, chunk.done, velocity, experience.window)
        for velocity in (result.velocity, chunk.reference)
    )
    return objectives.latent_kl(step.mean, other.mean, step.std)
