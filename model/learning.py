"""Learning from an RL iteration's experience: what is replayed, and the checks on it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from data.errors import UserError
from model import distributed
from model.bundle import Bundle
from model.config import RlConfig
from model.excerpts import Excerpt, chained, together
from model.experience import Experience
from model.modeling import EditModel
from model.policy_losses import Chunk, joint_loss, pays_kl, policy_losses
from model.replay import Replay, Transitions, explored, renoised, replay, store, transition
from model.tallies import Tally, Watched, means
from model.taught import Anchor
from model.trainer import Trainer, numpy_generator

ON_POLICY_TOLERANCE = 1e-4  # of every ratio before the first update
# Of the mean |log ratio| in low precision, where two orders of summation round single decisions far apart. Small models
# in bfloat16 stay at 1e-3 (traces) and 4e-4 (pictures); a temperature off by a tenth gives 0.05, other guidance 2e-3.
LOW_PRECISION_TOLERANCES = {"text": 0.03, "image": 2e-3}


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
    if "text" not in config.policies:
        return chained(found)
    return found if "image" in config.policies or pays_kl(config) else together(found)


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
        done = Transitions(*(part.to(stored.states.device) for part in done))  # of no picture they know no device
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
) -> dict[str, float]:
    """The iteration's optimiser steps: `epochs` passes over the experience, each in `minibatches` parts.

    Returns:
        Means over these steps, the same on all ranks; ratios are checked before the first.
    """
    parts = deal(excerpts(experience, config), config, step, len(experience.examples))
    sources = (prepare(bundle, reference, experience, part, config, step) for part in parts)
    # Of one part the first pass with gradients shows what the policy was that sampled; of several, one without them.
    several = len(parts) > 1
    kept = [_recalled(bundle.model, source, experience, config) for source in sources] if several else []
    watched: list[Watched] = []
    updates = config.epochs * len(parts)
    for update in range(updates):
        if kept:
            losses = _losses(bundle.model, kept[update % len(parts)], watched, experience, config)
        else:
            kept = [[]]
            losses = _losses(bundle.model, next(sources), watched, experience, config, kept[0])
        held = anchor.losses(step, update, watched) if anchor else ()
        done = trainer.update(itertools.chain(losses, held))
        watched.append({name: Tally(value, 1) for name, value in done.items()})
    return means(watched, updates)


def deal(listed: Sequence[Excerpt], config: RlConfig, step: int, groups: int) -> list[list[Excerpt]]:
    """This rank's excerpts by minibatch, each group in one of them: the same ones on any number of ranks."""
    places, random = distributed.places(groups), numpy_generator(config.optimisation.seed, step, "rl minibatches")
    order = random.permutation(int(distributed.total(groups)))  # ranks may have unequal shares
    return [
        [excerpt for excerpt in listed if order[places[excerpt.trajectory.session]] % config.minibatches == part]
        for part in range(config.minibatches)
    ]


def _recalled(model: EditModel, source: Iterable[Chunk], experience: Experience, config: RlConfig) -> list[Chunk]:
    """Chunks that remember what the policy was that sampled them."""
    chunks = list(source)
    off = []
    for chunk in chunks:
        with torch.no_grad():
            off.append(_remember(model, replay(model, chunk.stored, config.sampling), chunk, experience))
    check_on_policy(off, exact=model.dtype == torch.float32)
    return chunks


def _losses(
    model: EditModel,
    source: Iterable[Chunk],
    watched: list[Watched],
    experience: Experience,
    config: RlConfig,
    kept: list[Chunk] | None = None,
) -> Iterator[Tensor]:
    """The loss of every chunk, in turn. With `kept` the weights are those that sampled: chunks remember them, and are
    kept for further passes."""
    off = []
    for chunk in source:
        result = replay(model, chunk.stored, config.sampling)
        if kept is not None:
            off.append(_remember(model, result, chunk, experience))
            kept += [chunk] if config.epochs > 1 else []
        parts, metrics = policy_losses(result, chunk, experience, config)
        watched += [] if chunk.idle else [metrics]
        yield joint_loss(parts, config) * (not chunk.idle)
    check_on_policy(off, exact=model.dtype == torch.float32)


def _remember(model: EditModel, result: Replay, chunk: Chunk, experience: Experience) -> dict[str, Tensor]:
    """Note a chunk's velocities and log-probabilities under the policy that sampled it.

    In low precision a rollout rounds otherwise than a packed forward: there ratios are measured against this replay.

    Returns:
        Per policy, how far the replay's log-probabilities are off the rollout's: text (M,), image (J,).
    """
    low, logprobs = model.dtype != torch.float32, result.text_logprobs.detach()
    chunk.old = result.velocity.detach()
    off = {"text": logprobs - chunk.stored.text_logprobs}
    if low:
        chunk.stored = chunk.stored._replace(text_logprobs=logprobs)
    if chunk.done is not None and experience.window is not None:
        step = transition(chunk.stored, chunk.done, chunk.old, experience.window)
        off["image"] = step.logprob - chunk.done.logprobs
        if low:
            chunk.done = chunk.done._replace(logprobs=step.logprob, means=step.mean)
    return off


def check_on_policy(off: Sequence[Mapping[str, Tensor]], *, exact: bool) -> None:
    """Before the first update the replay must give the rollout's own log-probabilities, from which it is `off`, chunk
    by chunk: each of them where `exact`, in the mean otherwise.

    Raises:
        UserError: it does not.
    """
    for policy, tolerance in LOW_PRECISION_TOLERANCES.items():
        found = torch.cat([chunk[policy] for chunk in off if policy in chunk] or [torch.zeros(0)])
        if not len(found):
            continue
        apart = found.exp().sub(1).abs().max() if exact else found.abs().mean()
        if not apart.item() < (ON_POLICY_TOLERANCE if exact else tolerance):
            what = "a ratio is off 1" if exact else f"log-probabilities ({policy}) are off in the mean"
            raise UserError(
                f"The replay does not reproduce the rollout: {what} by {apart.item():.2g} before the first update",
                "Sample and replay with the same precision, guidance and temperature",
            )
