"""Learning from ground truth: cross-entropy on intent traces and flow matching on pictures, in one packed forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.loader import Example
from model.bundle import Bundle
from model.config import SupervisedConfig
from model.packing import PackedBatch, Pictures, pack, session_segments
from model.tokenizer import encode_texts
from model.trainer import Report, Trainer, generator

Batches = Callable[[int], tuple[Sequence[Example], Sequence[Pictures]]]


@dataclass(frozen=True)
class GroundTruth:
    """One packed batch with everything its loss needs. `noise`, `noisy` (N, C) and `timesteps` (N,) are per token."""

    batch: PackedBatch
    pictures: Pictures
    noise: Tensor
    noisy: Tensor
    timesteps: Tensor


def encode_examples(bundle: Bundle, examples: Sequence[Example]) -> list[Pictures]:
    """The encoded pictures of each example, from one pass over all of them."""
    table = bundle.encode(np.concatenate([example.images for example in examples]))
    ends = np.cumsum([len(example.images) for example in examples])
    return [table.select(range(end - len(e.images), end)) for e, end in zip(examples, ends.tolist(), strict=True)]


def draw_timesteps(count: int, shift: float, random: torch.Generator) -> Tensor:
    """(count,) times: logistic-normal, then shifted, as BAGEL trains."""
    t = torch.randn(count, generator=random).sigmoid()
    return shift * t / (1 + (shift - 1) * t)


def lay_out(
    bundle: Bundle,
    examples: Sequence[Example],
    tables: Sequence[Pictures],
    config: SupervisedConfig,
    random: torch.Generator,
) -> GroundTruth:
    """Pack sessions with their ground truth and draw their noise.

    Args:
        examples: sessions of any number of turns, each with all its pictures.
        tables: the encoded pictures of each session, source first.
    """
    sessions, first_picture, first_noisy = [], 0, 0
    for example, table in zip(examples, tables, strict=True):
        turns = example.session.turns
        sessions.append(
            session_segments(
                encode_texts(bundle.tokenizer, [turn.instruction for turn in turns]),
                range(first_picture, first_picture + len(table)),
                [
                    range(first_noisy + k * config.noise_draws, first_noisy + (k + 1) * config.noise_draws)
                    for k in range(len(turns))
                ],
                encode_texts(bundle.tokenizer, [turn.intent or turn.instruction for turn in turns])
                if config.write_trace
                else None,
            )
        )
        first_picture += len(table)
        first_noisy += len(turns) * config.noise_draws
    pictures = Pictures.concatenate(tables)
    batch = pack(sessions, pictures, bundle.special)
    t = draw_timesteps(first_noisy, config.timestep_shift, random)[batch.noisy_of_token]
    clean = pictures.latents[batch.noisy_target]
    noise = torch.randn(clean.shape, generator=random)
    return GroundTruth(batch, pictures, noise, torch.lerp(clean, noise, t[:, None]), t)


def supervised_loss(bundle: Bundle, truth: GroundTruth, trace_weight: float) -> tuple[Tensor, dict[str, float]]:
    """Flow matching, mean of (v - (noise - clean))^2, plus the weighted mean cross-entropy of the traces."""
    output = bundle.model(truth.batch, truth.pictures, truth.noisy, truth.timesteps)
    target = truth.noise - truth.pictures.latents[truth.batch.noisy_target]
    flow = F.mse_loss(output.velocity, target)
    if not len(output.text_targets):  # no traces are written
        return flow, {"flow_loss": flow.item()}
    trace = F.cross_entropy(output.text_logits, output.text_targets)
    exact = (output.text_logits.argmax(-1) == output.text_targets).float().mean()
    metrics = {"flow_loss": flow.item(), "trace_loss": trace.item(), "trace_accuracy": exact.item()}
    return flow + trace_weight * trace, metrics


def train_supervised(
    bundle: Bundle, config: SupervisedConfig, batches: Batches, work: Trainer, report: Report, name: str
) -> None:
    """Run (or go on with) a supervised training; ends with the averaged weights in place.

    Args:
        batches: step -> examples and their encoded pictures; depends on the step alone.
        work: the trainer of `bundle.model`.
        name: prefix of the reported metrics.
    """
    bundle.model.train()
    for step in work.steps():
        examples, tables = batches(step)
        truth = lay_out(bundle, examples, tables, config, generator(config.optimisation.seed, step, "noise"))
        loss, metrics = supervised_loss(bundle, truth, config.trace_weight)
        metrics |= work.update(loss)
        if step % 10 == 0 or step + 1 == config.optimisation.steps:
            named = {f"{name}/{key}": value for key, value in metrics.items()}
            report(step, {**named, "progress": (step + 1) / config.optimisation.steps})
    work.use_average()
    bundle.model.eval()
