"""Learning from ground truth: cross-entropy on intent traces and flow matching on pictures, in one packed forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.loader import Lesson
from model import distributed
from model.bundle import Bundle
from model.config import SupervisedConfig
from model.ground_truth import GroundTruth, ground_truth
from model.packing import Pictures
from model.trainer import Report, Trainer, generator

if TYPE_CHECKING:
    from model.corruption import Corruption
    from model.validation import Validation

Batches = Callable[[int], tuple[Sequence[Lesson], Sequence[Pictures]]]
"""Step -> this rank's share (`distributed.shard`) of the step's lessons, and their encoded pictures."""
Truths = Callable[[int], GroundTruth]
"""Step -> this rank's share of the step, laid out; depends on the step alone and is asked for every step in turn."""


def encode_lessons(bundle: Bundle, lessons: Sequence[Lesson]) -> list[Pictures]:
    """The encoded pictures of each lesson, from one pass over all of them."""
    table = bundle.encode(np.concatenate([lesson.images for lesson in lessons]))
    ends = np.cumsum([len(lesson.images) for lesson in lessons])
    return [table.select(range(end - len(e.images), end)) for e, end in zip(lessons, ends.tolist(), strict=True)]


def supervised_loss(bundle: Bundle, truth: GroundTruth, trace_weight: float) -> tuple[Tensor, dict[str, float]]:
    """Flow matching, weighted mean of (v - (noise - clean))^2, plus the mean cross-entropy of the traces.

    The means are over the sessions of all ranks; loss and metrics are this rank's part of the sum.
    """
    output = bundle.model(truth.batch, truth.pictures, truth.noisy, truth.timesteps)
    error = (output.velocity - (truth.noise - truth.clean)).square().mean(-1)
    flow = (error * truth.weights).sum() / (distributed.total(truth.weights.sum().item()) or 1.0)  # 0 draws nothing
    words = distributed.total(len(output.text_targets))
    if not words:  # no traces are written
        return flow, {"flow_loss": flow.item()}
    trace = F.cross_entropy(output.text_logits, output.text_targets, reduction="sum") / words
    exact = (output.text_logits.argmax(-1) == output.text_targets).sum() / words
    metrics = {"flow_loss": flow.item(), "trace_loss": trace.item(), "trace_accuracy": exact.item()}
    return flow + trace_weight * trace, metrics


def told(bundle: Bundle, config: SupervisedConfig, batches: Batches, corruption: Corruption | None = None) -> Truths:
    """The steps of batches, some of whose sessions see a corrupted history."""

    def of_step(step: int) -> GroundTruth:
        lessons, tables = batches(step)
        shown = corruption.histories(step, lessons, tables) if corruption else None
        return ground_truth(bundle, lessons, tables, config, noise_of(config, step, len(lessons)), shown)

    return of_step


def train_supervised(
    bundle: Bundle,
    config: SupervisedConfig,
    truths: Truths,
    work: Trainer,
    report: Report,
    name: str,
    validation: Validation | None = None,
) -> None:
    """Run (or go on with) a supervised training; ends with the averaged weights in place, or with the best of those
    that were validated.

    Args:
        work: the trainer of `bundle.model`.
        name: prefix of the reported metrics.
    """
    bundle.model.train()
    for step in work.steps():
        shown = truths(step)
        with _precision(config, bundle.model.device):
            loss, metrics = supervised_loss(bundle, shown, config.trace_weight)
        learned = work.update(loss)
        seen = validation.look(step) if validation else {}
        if step % 10 == 0 or step + 1 == config.optimisation.steps or seen:
            whole = {key: distributed.total(value) for key, value in metrics.items()}
            named = {f"{name}/{key}": value for key, value in (whole | learned | seen).items()}
            report(step, {**named, "progress": (step + 1) / config.optimisation.steps})
        if validation and validation.exhausted:
            break
    if validation:
        validation.finish()
    else:
        work.use_average()
    bundle.model.eval()


def _precision(config: SupervisedConfig, device: torch.device) -> AbstractContextManager[object]:
    """Where products of matrices are computed in bfloat16; weights, norms and losses stay as they are."""
    if config.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def noise_of(config: SupervisedConfig, step: int, count: int) -> list[torch.Generator]:
    """A generator per session of this rank, by its place in the whole batch."""
    return [generator(config.optimisation.seed, step, f"noise/{place}") for place in distributed.places(count)]
