"""Learning from ground truth: cross-entropy on intent traces and flow matching on pictures, in one packed forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.loader import Lesson
from model import distributed
from model.bundle import Bundle
from model.config import SupervisedConfig
from model.packing import PackedBatch, Pictures, Segment, pack, session_segments
from model.tokenizer import encode_texts
from model.trainer import Report, Trainer, generator

if TYPE_CHECKING:
    from model.corruption import Corruption
    from model.validation import Validation

Batches = Callable[[int], tuple[Sequence[Lesson], Sequence[Pictures]]]


@dataclass(frozen=True)
class GroundTruth:
    """One packed batch with what its loss needs; per noisy token `clean`, `noise`, `noisy` (N, C), `timesteps`,
    `weights` (N,)."""

    batch: PackedBatch
    pictures: Pictures
    clean: Tensor
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
    randoms: Sequence[torch.Generator],
    histories: Sequence[Pictures | None] | None = None,
) -> GroundTruth:
    """Pack sessions with their ground truth and draw their noise.

    Args:
        lessons: sessions of any number of turns, each with all its pictures, all of one size.
        tables: the encoded pictures of each session, source first.
        randoms: one per session, so that its noise does not depend on its company.
        histories: pictures 1 to T - 1 of a session as its later turns shall see them; the targets stay true.
    """
    sessions, shown, first_noisy, first = [], [], 0, 0
    for lesson, table, history in zip(lessons, tables, histories or [None] * len(lessons), strict=True):
        end = first + len(table)
        rows = range(first, end) if history is None else [first, *range(end, end + len(history)), end - 1]
        sessions.append(_segments(bundle, lesson, rows, first_noisy, config))
        shown += [table] if history is None else [table, history]
        first = end + (len(history) if history is not None else 0)
        first_noisy += lesson.drawn * config.noise_draws
    pictures = Pictures.concatenate(shown)
    batch = pack(sessions, pictures, bundle.special).to(bundle.model.device)
    told = zip(lessons, tables, randoms, strict=True)
    drawn = [_draw(table, lesson.drawn, config, random) for lesson, table, random in told]
    clean, noise, times, weights = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    return GroundTruth(batch, pictures, clean, noise, torch.lerp(clean, noise, times[:, None]), times, weights)


def _segments(
    bundle: Bundle, lesson: Lesson, pictures: Sequence[int], first_noisy: int, config: SupervisedConfig
) -> list[Segment]:
    """A session whose picture k is row `pictures[k]`, every drawn turn with its `noise_draws` noisy pictures."""
    draws = config.noise_draws
    noisy = [range(first_noisy + k * draws, first_noisy + (k + 1) * draws) for k in range(lesson.drawn)]
    noisy += [range(0)] * lesson.asks
    intents = encode_texts(bundle.tokenizer, list(lesson.intents)) if config.write_trace else None
    return session_segments(encode_texts(bundle.tokenizer, list(lesson.instructions)), pictures, noisy, intents)


def _draw(
    table: Pictures, turns: int, config: SupervisedConfig, random: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`clean`, `noise`, `timesteps` and `weights` of a session's first `turns` turns, in the order of its noisy
    pictures."""

    def of_targets(values: Tensor) -> Tensor:
        """(turns * draws * tokens, ...) of what each token of the table has."""
        of_pictures = values.view(len(table), -1, *values.shape[1:])
        return of_pictures[1 : turns + 1].repeat_interleave(config.noise_draws, 0).flatten(0, 1)

    clean, device = of_targets(table.latents), table.latents.device
    weights = of_targets(1.0 + config.edited_weight * edited(table))
    times = draw_timesteps(turns * config.noise_draws, config.timestep_shift, random)
    noise = torch.randn(clean.shape, generator=random)
    per_token = times.repeat_interleave(len(clean) // max(1, len(times)))
    return clean, noise.to(device), per_token.to(device), weights


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


def train_supervised(
    bundle: Bundle,
    config: SupervisedConfig,
    batches: Batches,
    work: Trainer,
    report: Report,
    name: str,
    corruption: Corruption | None = None,
    validation: Validation | None = None,
) -> None:
    """Run (or go on with) a supervised training; ends with the averaged weights in place, or with the best of those
    that were validated.

    Args:
        batches: step -> this rank's share (`distributed.shard`) of the step's lessons, and their encoded pictures;
            depends on the step alone.
        work: the trainer of `bundle.model`.
        name: prefix of the reported metrics.
    """
    bundle.model.train()
    for step in work.steps():
        lessons, tables = batches(step)
        shown = corruption.histories(step, lessons, tables) if corruption else None
        truth = lay_out(bundle, lessons, tables, config, noise_of(config, step, len(lessons)), shown)
        loss, metrics = supervised_loss(bundle, truth, config.trace_weight)
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


def noise_of(config: SupervisedConfig, step: int, count: int) -> list[torch.Generator]:
    """A generator per session of this rank, by its place in the whole batch."""
    return [generator(config.optimisation.seed, step, f"noise/{place}") for place in distributed.places(count)]
