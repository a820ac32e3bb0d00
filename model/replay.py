"""Replay of sampled trajectories under the current weights: all turns of many sessions in one packed forward.

A forward needs noisy pictures. `explored` gives those that the sampler itself stepped from (Flow-GRPO), `renoised`
draws new ones from what the sampler ended with (DiffusionNFT, and a KL without either). Turns that teach nothing have
none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from data.loader import Example
from model import samplers
from model.bundle import Bundle
from model.config import SamplingConfig
from model.excerpts import Excerpt
from model.guidance import Guidance
from model.modeling import EditModel
from model.packing import Kind, PackedBatch, Pictures, Segment, pack, session_segments
from model.tokenizer import encode_texts
from model.trainer import generator
from model.trajectories import Exploration, Window


class Noisy(NamedTuple):
    """K noisy pictures of each of T turns, by excerpt, then by turn. N tokens, C channels."""

    states: Tensor  # (T, K, N, C)
    times: Tensor  # (T, K)


class Transitions(NamedTuple):
    """What the sampler did from J noisy pictures."""

    following: Tensor  # (J, N, C)
    means: Tensor  # (J, N, C)
    logprobs: Tensor  # (J,)
    times: Tensor  # (J,) of `following`


class Stored(NamedTuple):
    """Trajectories laid out for replay: the forward's inputs, and the log-probabilities of what was written."""

    batch: PackedBatch
    pictures: Pictures
    states: Tensor  # (J, N, C)
    times: Tensor  # (J,)
    text_logprobs: Tensor  # (M,)
    picture_rows: Tensor  # (J,) of the iteration's trajectories
    text_rows: Tensor  # (K,) the same, for each of K traces
    draws: int  # noisy pictures of a turn


class Replay(NamedTuple):
    """J noisy pictures (N tokens, C channels), M decisions of traces; each with who made it (row of the iteration's
    trajectories) and its turn (from 0)."""

    velocity: Tensor  # (J, N, C)
    picture_row: Tensor  # (J,)
    picture_turn: Tensor  # (J,)
    text_logprobs: Tensor  # (M,)
    text_entropy: Tensor  # (M,)
    text_row: Tensor  # (M,)
    text_turn: Tensor  # (M,)
    text_trace: Tensor  # (M,) ordinal of the trace


def explored(excerpts: Sequence[Excerpt], config: SamplingConfig, window: Exploration) -> tuple[Noisy, Transitions]:
    """The stochastic steps that the sampler took; ValueError where it took none."""
    found = [_window(excerpt.trajectory.turns[turn].window) for excerpt in excerpts for turn in excerpt.pictures]
    grid = samplers.schedule(config.points, config.shift)
    span = grid[window.start : window.start + window.size + 1].repeat(len(found), 1)
    states, following, means, logprobs = (
        _stack([getattr(one, name) for one in found]) for name in ("states", "following", "means", "logprobs")
    )
    done = Transitions(following.flatten(0, 1), means.flatten(0, 1), logprobs.flatten(), span[:, 1:].flatten())
    return Noisy(states, span[:, :-1]), done


def _window(window: Window | None) -> Window:
    if window is None:
        raise ValueError("A trajectory without stochastic steps cannot be replayed: sample it with an exploration")
    return window


def _stack(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts) if parts else torch.zeros(0, 0, 0, 0)


def renoised(
    excerpts: Sequence[Excerpt], examples: Sequence[Example], draws: int, shift: float, seed: int, step: int
) -> tuple[Noisy, Tensor]:
    """Sampled pictures with fresh noise x_t = (1 - t) x_0 + t e at `draws` times, one in each equal part of (0, 1).

    Returns:
        The noisy pictures and their true velocities e - x_0 (J, N, C).
    """
    states, times, targets = [], [], []
    for excerpt in excerpts:
        done = excerpt.trajectory
        for turn in excerpt.pictures:
            name = f"renoise/{examples[done.session].session.id}/{turn}/{excerpt.member(turn)}"
            random, clean = generator(seed, step, name), done.turns[turn].latents
            t = (torch.arange(draws) + torch.rand(draws, generator=random)) / max(1, draws)
            t = shift * t / (1 + (shift - 1) * t)
            noise = torch.randn((draws, *clean.shape), generator=random).to(clean.device)
            times.append(t)
            targets.append(noise - clean)
            states.append(clean + t.to(clean.device)[:, None, None] * targets[-1])
    target = _stack(targets)
    return Noisy(_stack(states), torch.stack(times) if times else torch.zeros(0, 0)), target.flatten(0, 1)


def store(
    bundle: Bundle,
    examples: Sequence[Example],
    excerpts: Sequence[Excerpt],
    config: SamplingConfig,
    noisy: Noisy,
    *,
    guided: bool = False,
) -> Stored:
    """Lay excerpts out; a target picture only lends its grid, so the last one is never encoded."""
    draws = noisy.states.shape[1]
    sessions, tables, first_picture, first_noisy = [], [], 0, 0
    for excerpt in excerpts:
        rows = [*range(first_picture, first_picture + excerpt.length), first_picture + excerpt.length - 1]
        numbers = _numbers(excerpt, first_noisy, draws)
        sessions.append(_segments(bundle, examples, excerpt, config, rows, numbers, guided))
        tables += excerpt.trajectory.history[: excerpt.length]
        first_picture += excerpt.length
        first_noisy += draws * len(excerpt.pictures)
    pictures, device = Pictures.concatenate(tables), bundle.model.device
    written = [one for excerpt in excerpts for one in excerpt.written()]
    logprobs = [one.sample.trace_logprobs for one in written]
    return Stored(
        batch=pack(sessions, pictures, bundle.special).to(device),
        pictures=pictures,
        states=noisy.states.flatten(0, 1).to(device),
        times=noisy.times.flatten().to(device),
        text_logprobs=(torch.cat(logprobs) if logprobs else torch.zeros(0)).to(device),
        picture_rows=torch.tensor(
            [excerpt.row_of(turn) for excerpt in excerpts for turn in excerpt.pictures for _ in range(draws)],
            dtype=torch.long,
            device=device,
        ),
        text_rows=torch.tensor([one.row for one in written], dtype=torch.long, device=device),
        draws=max(1, draws),
    )


def _numbers(excerpt: Excerpt, first: int, draws: int) -> list[range]:
    """Rows of the table of noisy pictures, per turn; none for a turn whose picture is not replayed."""
    before = [sum(other < turn for other in excerpt.pictures) for turn in range(excerpt.length)]
    starts = [first + draws * count for count in before]
    return [range(s, s + draws * (turn in excerpt.pictures)) for turn, s in enumerate(starts)]


def _segments(
    bundle: Bundle,
    examples: Sequence[Example],
    excerpt: Excerpt,
    config: SamplingConfig,
    rows: list[int],
    numbers: list[range],
    guided: bool,
) -> list[Segment]:
    """One excerpt: picture k is row `rows[k]`, the noisy pictures of a turn are `numbers` of it."""
    done, turns = excerpt.trajectory, range(excerpt.length)
    instructions = [turn.instruction for turn in examples[done.session].session.turns[: excerpt.length]]
    written = [[one.sample for one in excerpt.written() if one.turn == k] for k in turns]
    own = [samples[0] if samples else done.turns[k] for k, samples in enumerate(written)]
    traces = [one.trace for one in own] if config.write_trace else None
    truncated = [one.truncated for one in own]
    learned = [k for k, samples in enumerate(written) if samples]
    beside = [
        [
            Segment(Kind.TEXT, k + 1, tuple(one.trace), branch=n, supervised=True, truncated=one.truncated)
            for n, one in enumerate(written[k][1:], 2)
        ]
        for k in turns
    ]
    encoded = encode_texts(bundle.tokenizer, instructions)
    return session_segments(
        encoded, rows, numbers, traces, truncated=truncated, beside=beside, learned=learned, guided=guided
    )


def replay(model: EditModel, stored: Stored, config: SamplingConfig) -> Replay:
    """Velocities at the noisy pictures and log-probabilities of the traces, under `model`."""
    batch, shape = stored.batch, stored.states.shape
    guidance = Guidance(text=config.text_guidance, image=config.image_guidance) if batch.guided else None
    output = model(batch, stored.pictures, stored.states.flatten(0, 1), stored.times, guidance)
    distribution = (output.text_logits.float() / (config.temperature or 1.0)).log_softmax(-1)
    return Replay(
        output.velocity.view(shape),
        stored.picture_rows,
        batch.noisy_turn - 1,
        distribution.gather(-1, output.text_targets[:, None])[:, 0],
        -(distribution.exp() * distribution).sum(-1),
        stored.text_rows[output.text_segment],
        batch.text_turn[output.text_segment] - 1,
        output.text_segment,
    )


def transition(stored: Stored, done: Transitions, velocity: Tensor, window: Exploration) -> samplers.Step:
    """The sampler's own steps under the velocities (J, N, C) of a replay."""
    return samplers.step(
        stored.states,
        velocity,
        stored.times,
        done.times,
        kind=window.kind,
        noise_level=window.noise_level,
        next_x=done.following,
    )
