"""Histories for supervised learning that are not the ground truth, so that a model learns to live with its mistakes.

A free-running model sees its own pictures, and carries on what went wrong in them. Here some sessions see pictures 1 to
T - 1 replaced by samples of the model itself, with a foreign object pasted in, or with noisy latents; what they are to
draw stays true. Everything depends on the step and a session's place in the batch alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from data.loader import Lesson
from data.render import Pixels
from model import distributed
from model.atomic import replacing
from model.bundle import Bundle
from model.config import SupervisedConfig
from model.images import for_vae
from model.packing import Pictures
from model.rollout import walk
from model.supervised import Batches
from model.trainer import generator, numpy_generator
from model.trajectories import Script
from model.turn_sampler import Sampler

ROLLED = 64  # sessions sampled at once


class Corruption:
    """Makes the histories of each step's sessions.

    Args:
        batches: asked for the steps to come, too.
        donor: draws a lesson to take foreign objects from.
        folder: keeps the samples of a rollout, for a run that is cut off before they have served.
    """

    def __init__(
        self,
        bundle: Bundle,
        config: SupervisedConfig,
        batches: Batches,
        donor: Callable[[np.random.Generator], Lesson],
        folder: Path,
    ) -> None:
        self.bundle, self.config, self.batches, self.donor, self.folder = bundle, config, batches, donor, folder
        self.samples: dict[str, Tensor] = {}
        self.block: int | None = None

    def histories(self, step: int, lessons: Sequence[Lesson], tables: Sequence[Pictures]) -> list[Pictures | None]:
        """Pictures 1 to T - 1 as each session of this rank shall see them; None leaves them true."""
        corruption, seed = self.config.corruption, self.config.optimisation.seed
        if not corruption.share:
            return [None] * len(lessons)
        if corruption.kind == "samples":
            self._sample(step)
        result: list[Pictures | None] = []
        for place, lesson, table in zip(distributed.places(len(lessons)), lessons, tables, strict=True):
            random = numpy_generator(seed, step, f"history/{place}")
            if not self._struck(step, place, lesson):
                result.append(None)
            elif corruption.kind == "samples":
                result.append(self.bundle.encode(self.samples[f"{step}/{place}"].numpy()))
            elif corruption.kind == "pasted":
                result.append(self.bundle.encode(self._pasted(lesson.images[1:-1], random)))
            else:
                result.append(self._noisy(table, generator(seed, step, f"history/{place}")))
        return result

    def _struck(self, step: int, place: int, lesson: Lesson) -> bool:
        """Whether a session's history is replaced; a single turn has no history but its source."""
        random = numpy_generator(self.config.optimisation.seed, step, f"corruption/{place}")
        return len(lesson.instructions) > 1 and bool(random.random() < self.config.corruption.share)

    def _pasted(self, images: Pixels, random: np.random.Generator) -> Pixels:
        """The same pictures, each with one cell of a foreign picture at a place of its own."""
        side = self.bundle.model.config.latent_stride
        rows, columns = (size // side for size in images.shape[1:3])
        images, foreign = images.copy(), self.donor(random).images
        for image in images:
            taken = foreign[random.integers(len(foreign))]
            (top, left), (y, x) = (side * random.integers((rows, columns)) for _ in range(2))
            image[y : y + side, x : x + side] = taken[top : top + side, left : left + side]
        return images

    def _noisy(self, table: Pictures, random: torch.Generator) -> Pictures:
        """Clean latents with noise; the picture encoder sees true pixels."""
        history = table.select(range(1, len(table) - 1))
        noise = torch.randn(history.latents.shape, generator=random).to(history.latents)
        latents = history.latents + self.config.corruption.noise * noise
        return Pictures(latents, history.patches, history.latent_grids, history.patch_grids)

    # --- the model's own samples --------------------------------------------------------------------------------------

    def _sample(self, step: int) -> None:
        """Have the samples of the block of steps that this step lies in: in memory, on disk, or sampled now."""
        block = step - step % self.config.corruption.refresh
        if self.block == block:
            return
        scripts = self._scripts(block)
        self.block, self.samples = block, self._stored(block)
        if distributed.anyone(any(script.name not in self.samples for script in scripts)):
            self.samples = self._rolled_out(block, scripts)
            self._store(block)

    def _scripts(self, block: int) -> list[Script]:
        """The sessions of the block's steps whose history will be replaced, named by step and place."""
        end = min(block + self.config.corruption.refresh, self.config.optimisation.steps)
        config = self.bundle.model.config  # samples keep the size that the model draws at: they are its next history
        return [
            Script(f"{step}/{place}", list(for_vae(lesson.images[:1], config)), lesson.instructions[:-1])
            for step in range(block, end)
            for place, lesson in _placed(self.batches(step)[0])
            if self._struck(step, place, lesson)
        ]

    @torch.no_grad()
    def _rolled_out(self, block: int, scripts: Sequence[Script]) -> dict[str, Tensor]:
        model = self.bundle.model
        sampler = Sampler(self.bundle, self.config.corruption.sampling, self.config.optimisation.seed, block)
        found: dict[str, Tensor] = {}
        model.eval()
        with distributed.whole(model):
            for first in range(0, len(scripts), ROLLED):
                chosen = scripts[first : first + ROLLED]
                for script, walked in zip(chosen, walk(sampler, chosen), strict=True):
                    found[script.name] = torch.from_numpy(np.stack(walked.images[1:]))
        model.train()
        return found

    def _stored(self, block: int) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for path in self.folder.glob(f"samples-{block}.*.safetensors"):
            found |= load_file(path)
        return found

    def _store(self, block: int) -> None:
        """Keep the samples, and forget those that no checkpoint can ask for any more."""
        name = f"samples-{block}.{distributed.rank()}-{distributed.world()}.safetensors"
        with replacing(self.folder / name) as temporary:
            save_file(self.samples, temporary)
        oldest = block - self.config.optimisation.checkpoint_every - self.config.corruption.refresh
        for path in self.folder.glob(f"samples-*.{distributed.rank()}-*.safetensors"):
            if int(path.name.split("-")[1].split(".")[0]) < oldest:
                path.unlink()


def _placed(lessons: Sequence[Lesson]) -> list[tuple[int, Lesson]]:
    return list(zip(distributed.places(len(lessons)), lessons, strict=True))
