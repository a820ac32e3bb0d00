"""EditPipeline: a picture and a list of instructions in, one picture and one intent trace per instruction out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data.errors import UserError
from model.bundle import Bundle, load
from model.config import SamplingConfig
from model.guidance import Guidance
from model.images import Pixels, for_vae, on_white
from model.rollout import walk
from model.trajectories import Script, Trajectory
from model.turn_sampler import Sampler

Picture = Image.Image | Pixels | str | Path


@dataclass(frozen=True)
class EditOutput:
    """images[i] is the picture after instruction i (PIL); traces[i] the intent written before it ("" when off)."""

    images: list[Image.Image]
    traces: list[str]


def as_pixels(picture: Picture) -> Pixels:
    """(H, W, 3) uint8 of a PIL picture, an array or a file; transparency goes on white. UserError for anything else."""
    if isinstance(picture, (str, Path)):
        try:
            with Image.open(picture) as opened:
                return np.asarray(on_white(opened))
        except OSError as error:
            raise UserError(f"{picture} is no readable picture: {error}", "Give a PNG or JPEG file") from error
    if isinstance(picture, Image.Image):
        return np.asarray(on_white(picture))
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise UserError(f"a picture of {picture.dtype} {picture.shape}", "Give uint8 of (height, width, 3)")
    return picture


class EditPipeline:
    """Edits over many turns, as diffusers pipelines are called. `points` time points make points - 1 steps."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    @classmethod
    def from_pretrained(cls, folder: str | Path, dtype: str | None = None, device: str = "cpu") -> EditPipeline:
        """Load this project's folder or the official one."""
        return cls(load(Path(folder), dtype, device))

    @torch.no_grad()
    def __call__(
        self,
        image: Picture,
        instructions: Sequence[str],
        *,
        points: int = 15,
        shift: float = 3.0,
        noise_scale: float = 1.0,
        guidance: Guidance | None = None,
        trace_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> EditOutput:
        """Apply the instructions one after the other; the same seed gives the same pictures and traces.

        `trace_tokens` is the budget of an intent trace (0 writes none); `noise_scale` is that of a picture's first
        noise, below 1 for what is likelier. UserError without instructions.
        """
        return self.batch(
            [image], [instructions], points=points, shift=shift, noise_scale=noise_scale, guidance=guidance,
            trace_tokens=trace_tokens, temperature=temperature, seeds=[seed],
        )[0]  # fmt: skip

    @torch.no_grad()
    def batch(
        self,
        images: Sequence[Picture],
        instructions: Sequence[Sequence[str]],
        *,
        points: int = 15,
        shift: float = 3.0,
        noise_scale: float = 1.0,
        guidance: Guidance | None = None,
        trace_tokens: int = 64,
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
    ) -> list[EditOutput]:
        """Several sessions at once, of any numbers of turns; pictures of one size share a batch."""
        if not images or len(images) != len(instructions) or not all(instructions):
            raise UserError("every picture needs at least one instruction", "Give one list of instructions per picture")
        pixels = [for_vae(as_pixels(image)[None], self.bundle.model.config)[0] for image in images]
        config = SamplingConfig(
            points=points,
            shift=shift,
            noise_scale=noise_scale,
            temperature=temperature,
            max_trace=trace_tokens,
            write_trace=trace_tokens > 0,
        )
        sampler = Sampler(self.bundle, config, 0, guidance=guidance or Guidance(), allowed=self.bundle.allowed)
        names = [str(seed) for seed in (seeds if seeds is not None else range(len(images)))]
        scripts = [Script(*parts) for parts in zip(names, [[p] for p in pixels], instructions, strict=True)]
        outputs: dict[int, EditOutput] = {}
        for size in dict.fromkeys(p.shape for p in pixels):
            chosen = [i for i, p in enumerate(pixels) if p.shape == size]
            done = walk(sampler, [scripts[i] for i in chosen])
            outputs |= {i: _output(trajectory) for i, trajectory in zip(chosen, done, strict=True)}
        return [outputs[i] for i in range(len(images))]


def _output(trajectory: Trajectory) -> EditOutput:
    made = [Image.fromarray(image) for image in trajectory.images[1:]]
    return EditOutput(made, [turn.trace_text for turn in trajectory.turns])
