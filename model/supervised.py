"""Learning from ground truth: cross-entropy on intent traces and flow matching on pictures, in one packed forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.loader import Lesson
from model.bundle import Bundle
from model.config import SupervisedConfig
from model.packing import PackedBatch, Pictures, pack, session_segments
from model.tokenizer import encode_texts
from model.trainer import Report, Trainer, generator

Batches = Callable[[int], tuple[Sequence[Lesson], Sequence[Pictures]]]


@dataclass(frozen=True)
class GroundTruth:
    """One packed batch with what its loss needs; per token `noise`, `noisy` (N, C), `timesteps`, `weights` (N,)."""

    batch: PackedBatch
    pictures: Pictures
    noise: Tensor
    noisy: Tensor
    timesteps: Tensor
    weights: Tensor


def encode_lessons(bundle: Bundle, lessons: Sequence[Lesson]) -> list[Pictures]:
    """The encoded pictures of each lesson, from one pass over all of them."""
    table = bundle.encode(np.concatenate([lesson.images for lesson in lessons]))
    ends = np.cumsum([len(lesson.images) for lesson in lessons])
    return [table.select(range(end - len(e.images), end)) for e, end in zip(lessons, ends.tolist(), strict=True)]


def edited(table: Pictures) -> Tensor:
    """(tokens,) in [0, 1]: how far each latent token of a session is from the picture before; 0 in the source.

    All pictures of a session lie on one grid. Latents are whitened, so a root mean square of 1 is a full change.
    """
    latents = table.latents.view(len(table), -1, table.latents.shape[-1])
    change = (latents[1:] - latents[:-1]).square().mean(-1).sqrt().clamp(max=1.0)
    return torch.cat((torch.zeros_like(change[:1]), change)).flatten()


def draw_timesteps(count: int, shift: float, random: torch.Generator) -> Tensor:
    """(count,) times: logistic-normal, then shifted, as BAGEL trains."""
    t = torch.randn(count, generator=random).sigmoid()
    return shift * t / (1 + (shift - 1) * t)


def lay_out(
    bundle: Bundle,
    lessons: Sequence[Lesson],
    tables: Sequence[Pictures],
    config: SupervisedConfig,
    random: torch.Generator,
) -> GroundTruth:
    """Pack sessions with their ground truth and draw their noise.

    Args:
        lessons: sessions of any number of turns, each with all its pictures.
        tables: the encoded pictures of each session, source first.
    """
    sessions, first_picture, first_noisy = [], 0, 0
    for lesson, table in zip(lessons, tables, strict=True):
        turns = len(lesson.instructions)
        sessions.append(
            session_segments(
                encode_texts(bundle.tokenizer, list(lesson.instructions)),
                range(first_picture, first_picture + len(table)),
                [
                    range(first_noisy + k * config.noise_draws, first_noisy + (k + 1) * config.noise_draws)
                    for k in range(turns)
                ],
                encode_texts(bundle.tokenizer, list(lesson.intents)) if config.write_trace else None,
            )
        )
        first_picture += len(table)
        first_noisy += turns * config.noise_draws
    pictures = Pictures.concatenate(tables)
    batch = pack(sessions, pictures, bundle.special)
    t = draw_timesteps(first_noisy, config.timestep_shift, random)[batch.noisy_of_token]
    clean = pictures.latents[batch.noisy_target]
    noise = torch.randn(clean.shape, generator=random)
    weights = 1.0 + config.edited_weight * torch.cat([edited(table) for table in tables])[batch.noisy_target]
    return GroundTruth(batch, pictures, noise, torch.lerp(clean, noise, t[:, None]), t, weights / weights.mean())


def supervised_loss(bundle: Bundle, truth: GroundTruth, trace_weight: float) -> tuple[Tensor, dict[str, float]]:
    """Flow matching, weighted mean of (v - (noise - clean))^2, plus the mean cross-entropy of the traces."""
    output = bundle.model(truth.batch, truth.pictures, truth.noisy, truth.timesteps)
    target = truth.noise - truth.pictures.latents[truth.batch.noisy_target]
    flow = ((output.velocity - target).square().mean(-1) * truth.weights).mean()
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
        batches: step -> lessons and their encoded pictures; depends on the step alone.
        work: the trainer of `bundle.model`.
        name: prefix of the reported metrics.
    """
    bundle.model.train()
    for step in work.steps():
        lessons, tables = batches(step)
        truth = lay_out(bundle, lessons, tables, config, generator(config.optimisation.seed, step, "noise"))
        loss, metrics = supervised_loss(bundle, truth, config.trace_weight)
        metrics |= work.update(loss)
        if step % 10 == 0 or step + 1 == config.optimisation.steps:
            named = {f"{name}/{key}": value for key, value in metrics.items()}
            report(step, {**named, "progress": (step + 1) / config.optimisation.steps})
    work.use_average()
    bundle.model.eval()
