"""Learning from an RL iteration's experience: what is replayed, the joint loss, and the checks on it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.errors import UserError
from model import distributed, objectives
from model.bundle import Bundle
from model.config import RlConfig
from model.experience import Experience
from model.modeling import EditModel
from model.replay import Excerpt, Replay, Stored, Transitions, explored, renoised, replay, store, transition
from model.taught import Anchor
from model.trainer import Trainer

ON_POLICY_TOLERANCE = 1e-4  # of the ratio before the first update
LOW_PRECISION_TOLERANCE = 0.1  # the same where two orders of summation round apart
Metrics = dict[str, float]


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


def excerpts(experience: Experience, config: RlConfig) -> list[Excerpt]:
    """What teaches: turns with an advantage, and, where a KL is paid, the pictures that the filter leaves."""
    image, text = (a.flatten(0, 1) != 0 for a in (experience.image_advantages, experience.text_advantages))
    learns = experience.learns.flatten(0, 1)
    found = []
    for row, piece in experience.pieces():
        own = range(piece.own, len(piece.turns))
        pictures = [
            turn
            for turn in own
            if ("image" in config.policies and image[row, turn]) or (pays_kl(config) and learns[row, turn])
        ]
        traces = [turn for turn in own if "text" in config.policies and text[row, turn]]
        if pictures or traces:
            found.append(Excerpt(row, piece, tuple(pictures), tuple(traces)))
    return found


def pays_kl(config: RlConfig) -> bool:
    """Whether the distance to the reference policy is part of the loss."""
    return config.kl != "none" and config.kl_weight > 0


def prepare(
    bundle: Bundle,
    reference: EditModel | None,
    experience: Experience,
    listed: Sequence[Excerpt],
    config: RlConfig,
    step: int,
) -> Iterator[Chunk]:
    """Excerpts in chunks of `replay_batch`, the reference's velocities computed; as many chunks on every rank."""
    firsts = range(0, len(listed), config.replay_batch)
    for number in range(max(distributed.gather(len(firsts)))):
        idle = number >= len(firsts)
        chosen = [_spare(experience)] if idle else listed[firsts[number] :][: config.replay_batch]
        chunk = _lay_out(bundle, experience, chosen, config, step)
        chunk.idle = idle
        if reference is not None:
            with torch.no_grad():
                chunk.reference = replay(reference, chunk.stored, config.sampling).velocity
        yield chunk


def _spare(experience: Experience) -> Excerpt:
    """Any turn that was sampled."""
    row, piece = next(experience.pieces())
    return Excerpt(row, piece, (piece.own,), (piece.own,))


def _lay_out(bundle: Bundle, experience: Experience, chosen: Sequence[Excerpt], config: RlConfig, step: int) -> Chunk:
    if experience.window is not None:
        noisy, done = explored(chosen, config.sampling, experience.window)
        guided = config.sampling.text_guidance > 1
        stored = store(bundle, experience.examples, chosen, config.sampling, noisy, guided=guided)
        return Chunk(chosen, stored, done, None)
    shift, seed = config.sampling.shift, config.optimisation.seed
    noisy, target = renoised(chosen, experience.examples, config.nft_draws, shift, seed, step)
    stored = store(bundle, experience.examples, chosen, config.sampling, noisy)
    return Chunk(chosen, stored, None, target.to(stored.states.device))


def improve(
    bundle: Bundle,
    reference: EditModel | None,
    trainer: Trainer,
    experience: Experience,
    config: RlConfig,
    step: int,
    anchor: Anchor | None = None,
) -> Metrics:
    """The iteration's optimiser steps; the numbers are those of the last one, ratios before the first are checked."""
    chunks: list[Chunk] = []
    listed = excerpts(experience, config)
    metrics: Metrics = {}
    for update in range(config.updates):
        watched: list[Metrics] = []
        source = prepare(bundle, reference, experience, listed, config, step) if update == 0 else iter(chunks)
        losses = _losses(bundle.model, source, chunks, watched, experience, config, update == 0)
        held = anchor.losses(step, update, watched) if anchor else ()
        metrics = trainer.update(itertools.chain(losses, held))
        names = dict.fromkeys(name for found in watched for name in found)
        metrics |= {name: float(np.mean([found[name] for found in watched if name in found])) for name in names}
    return metrics


def _losses(
    model: EditModel,
    source: Iterator[Chunk],
    chunks: list[Chunk],
    watched: list[Metrics],
    experience: Experience,
    config: RlConfig,
    on_policy: bool,
) -> Iterator[Tensor]:
    """The loss of every chunk, in turn; chunks of the first update are kept for the others."""
    for chunk in source:
        result = replay(model, chunk.stored, config.sampling)
        if on_policy:
            exact = model.dtype == torch.float32
            check_on_policy(result, chunk, experience, ON_POLICY_TOLERANCE if exact else LOW_PRECISION_TOLERANCE)
            if not exact:
                _adopt(result, chunk, experience)
            chunk.old = result.velocity.detach()
            chunks += [chunk] if config.updates > 1 else []
        parts, metrics = policy_losses(result, chunk, experience, config)
        watched += [] if chunk.idle else [metrics]
        yield joint_loss(parts, config) * (not chunk.idle)


def _adopt(result: Replay, chunk: Chunk, experience: Experience) -> None:
    """Measure ratios against the first replay: a rollout in low precision rounds otherwise than a packed forward."""
    chunk.stored = chunk.stored._replace(text_logprobs=result.text_logprobs.detach())
    if chunk.done is not None and experience.window is not None:
        step = transition(chunk.stored, chunk.done, result.velocity.detach(), experience.window)
        chunk.done = chunk.done._replace(logprobs=step.logprob, means=step.mean)


def check_on_policy(result: Replay, chunk: Chunk, experience: Experience, tolerance: float) -> None:
    """Before the first update the replay must give the rollout's own log-probabilities."""
    off = [result.text_logprobs - chunk.stored.text_logprobs]
    if chunk.done is not None and experience.window is not None:
        step = transition(chunk.stored, chunk.done, result.velocity, experience.window)
        off.append(step.logprob - chunk.done.logprobs)
    worst = max((part.detach().exp().sub(1).abs().max().item() for part in off if part.numel()), default=0.0)
    if not worst < tolerance:
        raise UserError(
            f"The replay does not reproduce the rollout: a ratio is off 1 by {worst:.2g} before the first update",
            "Sample and replay with the same precision, guidance and temperature",
        )


def joint_loss(parts: dict[str, Tensor], config: RlConfig) -> Tensor:
    """Weighted sum of what learns."""
    weights = {"image": config.image_weight, "text": config.text_weight, "kl": config.kl_weight}
    learning = [name for name in parts if name in config.policies or (name == "kl" and pays_kl(config))]
    return sum((weights[name] * parts[name] for name in learning), torch.zeros(()).to(parts["text"]))


def policy_losses(
    result: Replay, chunk: Chunk, experience: Experience, config: RlConfig
) -> tuple[dict[str, Tensor], Metrics]:
    """Losses of a chunk by name (`image`, `text`, `kl`) and what to watch.

    Every turn weighs the same, whatever its trace's length; a chunk's sum is divided by the turns of the iteration on
    all ranks.
    """
    turns = distributed.total(experience.exists.sum().item())
    device, draws = result.velocity.device, chunk.stored.draws
    rows = torch.tensor([excerpt.row for excerpt in chunk.excerpts], device=device)
    image_advantage = experience.image_advantages.flatten(0, 1).to(device)[
        rows[result.picture_excerpt], result.picture_turn
    ]
    text_advantage = experience.text_advantages.flatten(0, 1).to(device)[rows[result.text_excerpt], result.text_turn]
    image, image_metrics = _image_loss(result, chunk, image_advantage, experience, config)
    text, text_metrics = _text_loss(result, chunk, text_advantage, config)
    kl = _kl(result, chunk, experience, config)
    parts = {"image": image.sum() / (turns * draws), "text": text.sum() / turns, "kl": kl.sum() / (turns * draws)}
    values = {"image_loss": parts["image"].item(), "text_loss": parts["text"].item(), "kl": parts["kl"].item()}
    return parts, {**values, **image_metrics, **text_metrics}


def _image_loss(
    result: Replay, chunk: Chunk, advantage: Tensor, experience: Experience, config: RlConfig
) -> tuple[Tensor, Metrics]:
    """(J,) losses of noisy pictures."""
    if chunk.done is None or experience.window is None:
        if chunk.target is None or "image" not in config.policies:
            return result.velocity.new_zeros(1), {}
        old = chunk.old if chunk.old is not None else result.velocity
        options = {"strength": config.nft_strength, "bound": config.advantage_clip}
        loss = objectives.forward_process_loss(
            result.velocity, old, chunk.target, chunk.stored.times, advantage, **options
        )
        return loss, {}
    step = transition(chunk.stored, chunk.done, result.velocity, experience.window)
    log_ratio = step.logprob - chunk.done.logprobs
    if config.ratio_guard:
        log_ratio = objectives.guarded_log_ratio(
            step.logprob, chunk.done.logprobs, step.mean, chunk.done.means, step.std
        )
    return objectives.clipped_policy_loss(log_ratio, advantage, config.clip), _ratio("image", log_ratio, config.clip)


def _text_loss(result: Replay, chunk: Chunk, advantage: Tensor, config: RlConfig) -> tuple[Tensor, Metrics]:
    """(M,) losses of decisions, each divided by the length of its trace."""
    log_ratio = result.text_logprobs - chunk.stored.text_logprobs
    loss = objectives.clipped_policy_loss(log_ratio, advantage, config.text_clip) * share_of_trace(result)
    if not len(log_ratio):
        return loss, {}
    return loss, {**_ratio("text", log_ratio, config.text_clip), "entropy": result.text_entropy.mean().item()}


def _ratio(policy: str, log_ratio: Tensor, clip: float) -> Metrics:
    if not len(log_ratio):
        return {}
    ratio = log_ratio.detach().exp()
    outside = (ratio - 1).abs() > clip
    return {f"{policy}_ratio": ratio.mean().item(), f"{policy}_clip_share": outside.float().mean().item()}


def share_of_trace(result: Replay) -> Tensor:
    """(M,) one over the length of the trace that a decision belongs to."""
    if not len(result.text_excerpt):
        return result.text_logprobs.new_zeros(0)
    trace = result.text_excerpt * (result.text_turn.max() + 1) + result.text_turn
    return 1.0 / torch.bincount(trace)[trace]


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
