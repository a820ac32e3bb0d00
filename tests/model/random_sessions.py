"""A tiny random model and random sessions, run through both paths."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from model.configuration import EditConfig
from model.context import Context
from model.guidance import Guidance
from model.modeling import EditModel, SessionOutput
from model.packing import PackedBatch, Pictures, pack, session_segments
from model.tokenizer import SpecialIds

SPECIAL = SpecialIds(bos=1, eos=2, soi=3, eoi=4, pad=0)
WORDS = 24
CHANNELS = 8


def tiny_model(**other) -> EditModel:
    """Every parameter random, so that no path is hidden behind a zero."""
    torch.manual_seed(0)
    config = EditConfig.small(
        vocab_size=WORDS, width=32, layers=2, heads=4, kv_heads=2, vit_width=16, vit_layers=1, vit_heads=2,
        image_size=24, vit_patch=4, latent_channels=2, **other,
    )  # fmt: skip
    config.max_latent_size, config.vit_max_num_patch_per_side, config.vit_positions = 4, 4, 16
    model = EditModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@dataclass(frozen=True)
class Story:
    """One session: ids of instructions and traces per turn, and noisy draws per turn."""

    instructions: list[list[int]]
    traces: list[list[int]]
    draws: list[int]

    @property
    def turns(self) -> int:
        return len(self.instructions)


def _words(low: int, high: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(5, WORDS - 1), min_size=low, max_size=high)


@st.composite
def stories(draw: st.DrawFn, longest: int = 8) -> Story:
    turns = draw(st.integers(1, longest))
    return Story(
        [draw(_words(1, 5)) for _ in range(turns)],
        [draw(_words(0, 4)) for _ in range(turns)],
        [draw(st.integers(1, 2)) for _ in range(turns)],
    )


@dataclass(frozen=True)
class Layout:
    """Options that hold for a whole batch."""

    traced: bool = True
    keep_traces: bool = False
    use_vit: bool = True
    guided: bool = False
    grid: tuple[int, int] = (2, 2)
    patches: tuple[int, int] = (2, 3)


def layouts() -> st.SearchStrategy[Layout]:
    sides = st.tuples(st.integers(1, 3), st.integers(1, 3))
    flag = st.booleans()
    return st.builds(Layout, flag, flag, flag, flag, sides, sides)


class Batch:
    """Sessions with their tables; noisy rows are numbered session by session, turn by turn."""

    def __init__(self, stories: list[Story], layout: Layout, order: list[int] | None = None) -> None:
        self.stories, self.layout = stories, layout
        random = torch.Generator().manual_seed(7)
        count = sum(s.turns + 1 for s in stories)
        (rows, columns), (high, wide) = layout.grid, layout.patches
        self.pictures = Pictures(
            torch.randn(count * rows * columns, CHANNELS, generator=random),
            torch.randn(count * high * wide, 48, generator=random),
            (layout.grid,) * count,
            (layout.patches,) * count,
        )
        draws = sum(sum(s.draws) for s in stories)
        self.noisy = torch.randn(draws, rows * columns, CHANNELS, generator=random)
        self.times = torch.rand(draws, generator=random)
        self.first_picture, self.first_noisy, picture, noisy = [], [], 0, 0
        for story in stories:
            self.first_picture.append(picture)
            self.first_noisy.append(noisy)
            picture, noisy = picture + story.turns + 1, noisy + sum(story.draws)
        self.order = order or list(range(len(stories)))

    def noisy_rows(self, session: int) -> list[list[int]]:
        rows, start = [], self.first_noisy[session]
        for count in self.stories[session].draws:
            rows.append(list(range(start, start + count)))
            start += count
        return rows

    def pack(self) -> PackedBatch:
        sessions = []
        for i in self.order:
            story, first = self.stories[i], self.first_picture[i]
            sessions.append(
                session_segments(
                    story.instructions,
                    range(first, first + story.turns + 1),
                    self.noisy_rows(i),
                    story.traces if self.layout.traced else None,
                    keep_traces=self.layout.keep_traces,
                    use_vit=self.layout.use_vit,
                    guided=self.layout.guided,
                )
            )
        return pack(sessions, self.pictures, SPECIAL)

    def packed(self, model: EditModel, guidance: Guidance | None = None) -> SessionOutput:
        return model(self.pack(), self.pictures, self.noisy.flatten(0, 1), self.times, guidance)

    def incremental(self, model: EditModel, guidance: Guidance | None = None) -> tuple[Tensor, list[Tensor]]:
        """Velocities in table order, and per session and turn the logits that predict the trace."""
        layout, velocity = self.layout, torch.empty_like(self.noisy)
        logits: dict[tuple[int, int], Tensor] = {}
        rows = list(range(len(self.stories)))
        context = Context(model, SPECIAL, len(rows), guided=layout.guided, capacity=4)
        for turn in range(max(s.turns for s in self.stories)):
            staying = [i for i, r in enumerate(rows) if self.stories[r].turns > turn]
            if len(staying) < len(rows):
                context, rows = context.select(staying), [rows[i] for i in staying]
            context.append_pictures(self.pictures.select([self.first_picture[r] + turn for r in rows]), layout.use_vit)
            context.append_text([self.stories[r].instructions[turn] for r in rows])
            if layout.traced:
                traces = [self.stories[r].traces[turn] for r in rows]
                seen = context.append_text(traces, branch=not layout.keep_traces, want_logits=True)
                logits |= {(r, turn): seen[i, : len(traces[i]) + 1] for i, r in enumerate(rows)}
            for draw in range(2):
                pick = [self.noisy_rows(r)[turn][min(draw, self.stories[r].draws[turn] - 1)] for r in rows]
                velocity[pick] = context.velocity(self.noisy[pick], self.times[pick], layout.grid, guidance)
        return velocity.flatten(0, 1), [logits[key] for key in sorted(logits)]
