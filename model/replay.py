"""Replay of sampled trajectories under the current weights: all turns of many sessions in one packed forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from data.loader import Example
from model import samplers
from model.bundle import Bundle
from model.config import SamplingConfig
from model.guidance import Guidance
from model.modeling import EditModel
from model.packing import PackedBatch, Pictures, pack, session_segments
from model.rollout import Exploration, Trajectory, Window
from model.tokenizer import encode_texts


class Replay(NamedTuple):
    """J stochastic picture steps (N tokens, C channels), M decisions of traces; each with its trajectory and turn."""

    step: samplers.Step  # next, mean (J, N, C); std, logprob (J,)
    velocity: Tensor  # (J, N, C)
    picture_row: Tensor  # (J,) trajectory
    picture_turn: Tensor  # (J,) from 0
    text_logprobs: Tensor  # (M,)
    text_entropy: Tensor  # (M,)
    text_row: Tensor  # (M,)
    text_turn: Tensor  # (M,)


class Stored(NamedTuple):
    """Trajectories laid out for replay: the forward's inputs, and what was sampled, in the forward's order."""

    batch: PackedBatch
    pictures: Pictures
    states: Tensor  # (J, N, C)
    following: Tensor  # (J, N, C)
    means: Tensor  # (J, N, C)
    logprobs: Tensor  # (J,)
    times: Tensor  # (J, 2) from, to
    text_logprobs: Tensor  # (M,)


def store(
    bundle: Bundle,
    examples: Sequence[Example],
    chosen: Sequence[Trajectory],
    config: SamplingConfig,
    window: Exploration,
) -> Stored:
    """Lay sampled trajectories out; a target picture only lends its grid, so the last one is never encoded."""
    sessions, tables, windows, first_picture, first_noisy = [], [], [], 0, 0
    for trajectory in chosen:
        turns = len(trajectory.turns)
        rows = [*range(first_picture, first_picture + turns), first_picture + turns - 1]
        noisy = [range(first_noisy + k * window.size, first_noisy + (k + 1) * window.size) for k in range(turns)]
        texts = [turn.instruction for turn in examples[trajectory.session].session.turns]
        traces = [turn.trace for turn in trajectory.turns] if config.write_trace else None
        truncated = [turn.truncated for turn in trajectory.turns] if config.write_trace else None
        instructions = encode_texts(bundle.tokenizer, texts)
        guided = config.text_guidance > 1
        sessions.append(session_segments(instructions, rows, noisy, traces, truncated=truncated, guided=guided))
        tables += trajectory.history
        windows += [_window(turn.window) for turn in trajectory.turns]
        first_picture, first_noisy = first_picture + turns, first_noisy + turns * window.size
    pictures = Pictures.concatenate(tables)
    grid = samplers.schedule(config.points, config.shift)
    span = torch.stack([grid[window.start : window.start + window.size], grid[window.start + 1 :][: window.size]], 1)
    old_text = [turn.trace_logprobs for trajectory in chosen for turn in trajectory.turns]
    return Stored(
        batch=pack(sessions, pictures, bundle.special),
        pictures=pictures,
        states=torch.cat([window.states for window in windows]),
        following=torch.cat([window.following for window in windows]),
        means=torch.cat([window.means for window in windows]),
        logprobs=torch.cat([window.logprobs for window in windows]),
        times=span.repeat(len(windows), 1),
        text_logprobs=torch.cat(old_text),
    )


def _window(window: Window | None) -> Window:
    if window is None:
        raise ValueError("A trajectory without stochastic steps cannot be replayed: sample it with an exploration")
    return window


def replay(model: EditModel, stored: Stored, config: SamplingConfig, window: Exploration) -> Replay:
    """Log-probabilities, under `model`, of what was sampled."""
    batch, shape = stored.batch, stored.states.shape
    times = stored.times[:, 0].repeat_interleave(shape[1])
    guidance = Guidance(text=config.text_guidance, image=config.image_guidance)
    output = model(batch, stored.pictures, stored.states.flatten(0, 1), times, guidance)
    velocity = output.velocity.view(shape)
    step = samplers.step(
        stored.states,
        velocity,
        stored.times[:, 0],
        stored.times[:, 1],
        kind=window.kind,
        noise_level=window.noise_level,
        next_x=stored.following,
    )
    logits = output.text_logits.float() / (config.temperature or 1.0)
    distribution = logits.log_softmax(-1)
    return Replay(
        step,
        velocity,
        batch.noisy_session,
        batch.noisy_turn - 1,
        distribution.gather(-1, output.text_targets[:, None])[:, 0],
        -(distribution.exp() * distribution).sum(-1),
        batch.text_session[output.text_segment],
        batch.text_turn[output.text_segment] - 1,
    )
