"""Sessions as segments, and the rope ids of segments.

Rope: a text takes one id per token, a picture segment ONE id for all its tokens; NOISY never advances the rope, so the
clean copy that follows shares its id. A branch gives its ids back when its turn ends: what comes later has the
positions of a session without it. The pictureless stream counts its own rope, without gaps for the missing
pictures.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple

import torch

from model.pictures import Grid


class Kind(IntEnum):
    """What a segment holds."""

    TEXT = 0
    VIT = 1
    CLEAN = 2
    NOISY = 3


class View(IntEnum):
    """What of its session a NOISY segment sees; NO_IMAGE also marks the texts of the pictureless stream."""

    FULL = 0
    NO_TEXT = 1
    NO_IMAGE = 2


@dataclass(frozen=True)
class Segment:
    """One segment. TEXT: `tokens` are plain ids (the frame is added). The copies of I_t belong to turn t + 1."""

    kind: Kind
    turn: int
    tokens: tuple[int, ...] = ()
    picture: int = -1  # row of the Pictures table; NOISY: the target, whose grid and latents are used
    noisy: int = -1  # row of the table of noisy latents
    branch: int = 0  # 1: seen by its own turn only; 2 and more: likewise, in the place of branch 1, blind to the others
    supervised: bool = False  # TEXT: predict words and eos
    truncated: bool = False  # TEXT: its eos was not a decision of the model, so it is no target
    view: View = View.FULL
    dropped: bool = False  # condition dropout: no tokens; a picture still takes its rope id, a text does not
    grid: Grid | None = None  # NOISY without a target picture

    @property
    def stream(self) -> int:
        """1 for the pictureless stream."""
        return int(self.view == View.NO_IMAGE)


class Placed(NamedTuple):
    """A segment with its first rope id and its ordinal in the session."""

    segment: Segment
    rope: int
    order: int


class RopeState(NamedTuple):
    """Where a session stands: next rope id per stream, the id before this turn's texts, ids lent to branches."""

    turn: int = 0
    order: int = 0
    rope: tuple[int, int] = (0, 0)
    floor: int = 0
    lent: tuple[int, int] = (0, 0)

    def without_branches(self) -> RopeState:
        """The state after the live branches are dropped."""
        return self._replace(rope=(self.rope[0] - self.lent[0], self.rope[1] - self.lent[1]), lent=(0, 0))

    def _advance(self, stream: int, ids: int, branch: int) -> RopeState:
        def add(pair: tuple[int, int], n: int) -> tuple[int, int]:
            return (pair[0] + n, pair[1]) if stream == 0 else (pair[0], pair[1] + n)

        return self._replace(rope=add(self.rope, ids), lent=add(self.lent, ids if branch else 0))

    def place(self, segment: Segment) -> tuple[Placed | None, RopeState]:
        """Position of `segment` and the state after it. ValueError when a kept text or picture follows a live branch
        of its own turn: its rope id would be lent twice."""
        state = self
        if segment.turn != state.turn:
            state = state.without_branches()
            state = state._replace(turn=segment.turn, floor=state.rope[0])
        if segment.branch > 1:
            state = state.without_branches()
        stream = segment.stream
        if segment.kind == Kind.NOISY:
            rope = state.floor if segment.view == View.NO_TEXT else state.rope[stream]
            return Placed(segment, rope, state.order), state._replace(order=state.order + 1)
        if state.lent[stream] and not segment.branch:
            raise ValueError("a kept segment may not follow a branch of the same turn")
        placed = None if segment.dropped else Placed(segment, state.rope[stream], state.order)
        ids = 1
        if segment.kind == Kind.TEXT:
            ids = 0 if segment.dropped else len(segment.tokens) + 2
        after = state._advance(stream, ids, segment.branch)._replace(order=state.order + 1)
        return placed, after._replace(floor=after.rope[0]) if segment.kind != Kind.TEXT else after


def place_all(segments: Sequence[Segment], state: RopeState | None = None) -> tuple[list[Placed], RopeState]:
    """Positions of a session's segments (dropped ones left out) and the state after them."""
    state = state or RopeState()
    placed = []
    for segment in segments:
        where, state = state.place(segment)
        if where is not None:
            placed.append(where)
    return placed, state


def drop_conditions(
    segments: Sequence[Segment],
    random: torch.Generator,
    *,
    text: float,
    vit: float,
    clean: float,
) -> list[Segment]:
    """Condition dropout, one draw per segment: what guidance will hide is sometimes hidden in training.

    With an instruction its trace goes, and what it would teach: guidance hides both. Noise stays. A dropped picture
    still takes its rope id, as in the official training.
    """
    chances = {Kind.TEXT: text, Kind.VIT: vit, Kind.CLEAN: clean, Kind.NOISY: 0.0}
    draws = torch.rand(len(segments), generator=random).tolist()
    kept, silent = [], set()
    for segment, draw in zip(segments, draws, strict=True):
        said = segment.kind == Kind.TEXT and segment.supervised
        hidden = segment.turn in silent if said else draw < chances[segment.kind]
        if hidden and segment.kind == Kind.TEXT:
            silent.add(segment.turn)
        kept.append(replace(segment, dropped=True, supervised=False) if hidden else segment)
    return kept


def picture_segments(picture: int, turn: int, use_vit: bool = True) -> list[Segment]:
    """A picture as context: its clean latents, then its ViT tokens."""
    clean = Segment(Kind.CLEAN, turn, picture=picture)
    return [clean, Segment(Kind.VIT, turn, picture=picture)] if use_vit else [clean]


def session_segments(
    instructions: Sequence[Sequence[int]],
    pictures: Sequence[int],
    noisy: Sequence[Sequence[int]],
    traces: Sequence[Sequence[int] | None] | None = None,
    *,
    truncated: Sequence[bool] | None = None,
    beside: Sequence[Sequence[Segment]] | None = None,
    learned: Collection[int] | None = None,
    keep_traces: bool = True,
    use_vit: bool = True,
    guided: bool = False,
) -> list[Segment]:
    """[CLEAN I0][VIT I0] then per turn [TEXT instruction][TEXT trace][NOISY target]*n [CLEAN I_t][VIT I_t].

    instructions[k], traces[k]: plain ids of turn k + 1; pictures[k]: table row of I_k (T + 1 entries); noisy[k]:
    rows of the noisy table for turn k + 1 (may be empty). learned: the k whose traces are supervised; None: all.
    Traces stay in the context; without `keep_traces` each is a branch of its turn. beside[k]: other traces in the place
    of traces[k], all of them branches, of a turn without noise, which would see them all.
    `guided` adds the pictureless stream and the NO_TEXT and NO_IMAGE views of every NOISY segment, so that the forward
    can guide. The last turn's clean and ViT copies are left out.
    """
    segments: list[Segment] = []
    for index, instruction in enumerate(instructions):
        turn = index + 1
        segments += picture_segments(pictures[index], turn, use_vit)
        texts = [Segment(Kind.TEXT, turn, tuple(instruction))]
        trace = traces[index] if traces is not None else None
        if trace is not None:
            cut = bool(truncated[index]) if truncated is not None else False
            branch = not keep_traces or bool(beside is not None and beside[index])
            texts.append(Segment(Kind.TEXT, turn, tuple(trace), branch=int(branch), truncated=cut))
        for position, text in enumerate(texts):
            supervised = position == 1 and (learned is None or index in learned)
            segments.append(replace(text, supervised=supervised))
        if guided:
            segments += [replace(text, view=View.NO_IMAGE) for text in texts]
        segments += beside[index] if beside is not None else []
        views = tuple(View) if guided else (View.FULL,)
        target = pictures[index + 1]
        segments += [Segment(Kind.NOISY, turn, picture=target, noisy=n, view=v) for n in noisy[index] for v in views]
    return segments
