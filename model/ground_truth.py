"""Ground truth laid out for one packed forward: sessions with the noise of every picture that they draw.

`lay_out` needs no picture's content, so other processes may do it ahead; `fill` then takes the latents from the table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from data.loader import Lesson
from model.bundle import Bundle
from model.config import SupervisedConfig
from model.packing import PackedBatch, Pictures, drop_conditions, pack, session_segments
from model.pictures import Grid
from model.tokenizer import SpecialIds, encode_texts
from model.vit import patch_side


class Format(NamedTuple):
    """What laying out must know of a model and of its pictures, all of one size."""

    tokenizer: PreTrainedTokenizerBase
    special: SpecialIds
    latent_grid: Grid
    patch_grid: Grid
    channels: int  # of a latent token

    @property
    def tokens(self) -> int:
        """Latent tokens of a picture."""
        return self.latent_grid[0] * self.latent_grid[1]


@dataclass(frozen=True)
class Layout:
    """One packed batch and the noise of its N noisy tokens: `targets` (N,) rows of the latents that they lead to,
    `noise` (N, C), `timesteps` (N,)."""

    batch: PackedBatch
    targets: Tensor
    noise: Tensor
    timesteps: Tensor


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


def format_of(bundle: Bundle, size: tuple[int, int]) -> Format:
    """The format of pictures of a size (height, width) that need no resizing."""
    config = bundle.model.config
    patch, stride = patch_side(config.vit_config()), config.latent_stride
    grids = [(size[0] // side, size[1] // side) for side in (stride, patch)]
    return Format(bundle.tokenizer, bundle.special, grids[0], grids[1], config.latent_dim)


def ground_truth(
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
    of_model = format_of(bundle, (0, 0))
    form = of_model._replace(latent_grid=tables[0].latent_grids[0], patch_grid=tables[0].patch_grids[0])
    shown = histories or [None] * len(lessons)
    layout = lay_out(form, lessons, config, randoms, [history is not None for history in shown])
    pairs = zip(tables, shown, strict=True)
    listed = [table for pair in pairs for table in pair if table is not None]
    return fill(layout, Pictures.concatenate(listed), form, config)


def lay_out(
    form: Format,
    lessons: Sequence[Lesson],
    config: SupervisedConfig,
    randoms: Sequence[torch.Generator],
    retold: Sequence[bool] | None = None,
) -> Layout:
    """Lay sessions out over a table that holds the pictures of each, one after the other, and draw their noise.

    Args:
        retold: whether the T + 1 true pictures of a session are followed by T - 1 others, which its later turns see in
            place of pictures 1 to T - 1.
    """
    spoken = (text for lesson in lessons for text in (*lesson.instructions, *lesson.intents))
    texts = iter(encode_texts(form.tokenizer, list(spoken)))
    sessions, targets, first, first_noisy, draws = [], [], 0, 0, config.noise_draws
    hidden = dataclasses.asdict(config.dropout)
    for lesson, other, random in zip(lessons, retold or [False] * len(lessons), randoms, strict=True):
        count = len(lesson.images)
        end = first + count
        rows = [first, *range(end, end + count - 2), end - 1] if other else range(first, end)
        instructions, intents = ([next(texts) for _ in said] for said in (lesson.instructions, lesson.intents))
        noisy = [range(first_noisy + k * draws, first_noisy + (k + 1) * draws) for k in range(lesson.drawn)]
        noisy += [range(0)] * lesson.asks
        segments = session_segments(instructions, rows, noisy, intents if config.write_trace else None)
        sessions.append(drop_conditions(segments, random, **hidden) if any(hidden.values()) else segments)
        targets += [first + 1 + turn for turn in range(lesson.drawn) for _ in range(draws)]
        first = end + (count - 2 if other else 0)
        first_noisy += lesson.drawn * draws
    empty = torch.zeros(0)
    grids = Pictures(empty, empty, (form.latent_grid,) * first, (form.patch_grid,) * first)
    tokens = np.array(targets, np.int64)[:, None] * form.tokens + np.arange(form.tokens)
    pairs = zip(lessons, randoms, strict=True)
    drawn = [_noise(form, lesson.drawn * draws, config, random) for lesson, random in pairs]
    noise, times = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    return Layout(pack(sessions, grids, form.special), torch.from_numpy(tokens.flatten()), noise, times)


def fill(layout: Layout, pictures: Pictures, form: Format, config: SupervisedConfig) -> GroundTruth:
    """A layout on the device of its pictures, with their latents."""
    device = pictures.latents.device
    targets, noise, times = (x.to(device) for x in (layout.targets, layout.noise, layout.timesteps))
    clean = pictures.latents[targets]
    weights = 1.0 + config.edited_weight * edited(clean, pictures.latents[targets - form.tokens])
    noisy = torch.lerp(clean, noise, times[:, None])
    return GroundTruth(layout.batch.to(device), pictures, clean, noise, noisy, times, weights)


def edited(after: Tensor, before: Tensor) -> Tensor:
    """(N,) in [0, 1]: how far latent tokens (N, C) are from those of the picture before.

    Latents are whitened, so a root mean square of 1 is a full change.
    """
    return (after - before).square().mean(-1).sqrt().clamp(max=1.0)


def draw_timesteps(count: int, shift: float, random: torch.Generator) -> Tensor:
    """(count,) times: logistic-normal, then shifted, as BAGEL trains."""
    t = torch.randn(count, generator=random).sigmoid()
    return shift * t / (1 + (shift - 1) * t)


def _noise(form: Format, pictures: int, config: SupervisedConfig, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise (N, C) and times (N,) of a session's noisy pictures, one time in each."""
    times = draw_timesteps(pictures, config.timestep_shift, random)
    noise = torch.randn((pictures * form.tokens, form.channels), generator=random)
    return noise, times.repeat_interleave(form.tokens)
