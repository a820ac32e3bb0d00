"""EditPipeline: a picture and a list of instructions in, one picture and one intent trace per instruction out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.errors import UserError
from model.bundle import Bundle, load
from model.context import Context
from model.guidance import Guidance
from model.images import Pixels, for_vae, on_white
from model.samplers import schedule, step
from model.tokenizer import decode_texts, encode_texts

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
        guidance: Guidance | None = None,
        trace_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> EditOutput:
        """Apply the instructions one after the other; the same seed gives the same pictures and traces.

        `trace_tokens` is the budget of an intent trace (0 writes none). UserError without instructions.
        """
        return self.batch(
            [image], [instructions], points=points, shift=shift, guidance=guidance, trace_tokens=trace_tokens,
            temperature=temperature, seeds=[seed],
        )[0]  # fmt: skip

    @torch.no_grad()
    def batch(
        self,
        images: Sequence[Picture],
        instructions: Sequence[Sequence[str]],
        *,
        points: int = 15,
        shift: float = 3.0,
        guidance: Guidance | None = None,
        trace_tokens: int = 64,
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
    ) -> list[EditOutput]:
        """Several sessions at once, of any numbers of turns; pictures of one size share a batch."""
        if not images or len(images) != len(instructions) or not all(instructions):
            raise UserError("every picture needs at least one instruction", "Give one list of instructions per picture")
        pixels = [for_vae(as_pixels(image)[None], self.bundle.model.config)[0] for image in images]
        run = _Run(self.bundle, schedule(points, shift), guidance or Guidance(), trace_tokens, temperature)
        outputs: dict[int, EditOutput] = {}
        numbers = list(seeds if seeds is not None else range(len(images)))
        for size in dict.fromkeys(p.shape for p in pixels):
            chosen = [i for i, p in enumerate(pixels) if p.shape == size]
            texts, chosen_seeds = [instructions[i] for i in chosen], [numbers[i] for i in chosen]
            done = run.sessions([pixels[i] for i in chosen], texts, chosen_seeds)
            outputs |= dict(zip(chosen, done, strict=True))
        return [outputs[i] for i in range(len(images))]


@dataclass(frozen=True)
class _Run:
    """One call's settings, and its loop over turns."""

    bundle: Bundle
    times: Tensor
    guidance: Guidance
    trace_tokens: int
    temperature: float

    def sessions(
        self, sources: Sequence[Pixels], instructions: Sequence[Sequence[str]], seeds: Sequence[int]
    ) -> list[EditOutput]:
        """Sessions whose pictures have one size. A session that is over leaves the batch."""
        outputs = [EditOutput([], []) for _ in sources]
        context = Context(self.bundle.model, self.bundle.special, len(sources), guided=self.guidance.uses_image)
        rows, images = list(range(len(sources))), np.stack(sources)
        for turn in range(max(len(listed) for listed in instructions)):
            staying = [i for i, row in enumerate(rows) if len(instructions[row]) > turn]
            if len(staying) < len(rows):
                context, rows, images = context.select(staying), [rows[i] for i in staying], images[staying]
            pictures = self.bundle.encode(images)
            context.append_pictures(pictures)
            context.append_text(encode_texts(self.bundle.tokenizer, [instructions[row][turn] for row in rows]))
            traces = self._traces(context, [seeds[row] for row in rows], turn)
            latents = self._latents(context, [seeds[row] for row in rows], turn, pictures.latent_grids[0])
            images = self.bundle.decode(latents, pictures.latent_grids[0])
            for row, image, trace in zip(rows, images, traces, strict=True):
                outputs[row].images.append(Image.fromarray(image))
                outputs[row].traces.append(trace)
        return outputs

    def _traces(self, context: Context, seeds: Sequence[int], turn: int) -> list[str]:
        if self.trace_tokens == 0:
            return [""] * context.rows
        random = [generator(seed, turn, "trace", "cpu") for seed in seeds]
        sample = context.generate_text(self.trace_tokens, self.temperature, random, allowed=self.bundle.allowed)
        return decode_texts(self.bundle.tokenizer, sample.texts())

    def _latents(self, context: Context, seeds: Sequence[int], turn: int, grid: tuple[int, int]) -> Tensor:
        """Deterministic flow from noise that depends on a session's seed and turn alone."""
        shape = (grid[0] * grid[1], self.bundle.model.config.latent_dim)
        noise = [torch.randn(shape, generator=generator(seed, turn, "noise", "cpu")) for seed in seeds]
        x = torch.stack(noise).to(self.bundle.model.device)
        for now, then in zip(self.times[:-1], self.times[1:], strict=True):
            x = step(x, context.velocity(x, now, grid, self.guidance), now, then, kind="ode").next
        return x


def generator(seed: int, turn: int, purpose: str, device: str) -> torch.Generator:
    """A random stream of its own for every seed, turn and purpose."""
    digest = hashlib.sha256(f"{seed}/{turn}/{purpose}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))
