"""What a rollout records: trajectories of sampled turns, and the scripts that they follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from model.images import Pixels
from model.pictures import Pictures


@dataclass(frozen=True)
class Exploration:
    """Where a sampler draws noise: the steps [start, start + size) of the time grid."""

    kind: Literal["flow", "cps"]
    noise_level: float
    start: int
    size: int

    def covers(self, step: int) -> bool:
        """Whether a step of the grid is stochastic."""
        return self.start <= step < self.start + self.size


@dataclass(frozen=True)
class Window:
    """The stochastic steps of one picture, for replay. W steps, N tokens, C channels."""

    states: Tensor  # (W, N, C) before each step
    following: Tensor  # (W, N, C) after it
    means: Tensor  # (W, N, C)
    logprobs: Tensor  # (W,)


@dataclass(frozen=True)
class TurnSample:
    """What one trajectory did in one turn. `trace` ids are plain; `trace_logprobs` has one entry per decision."""

    trace: list[int]
    trace_text: str
    trace_logprobs: Tensor
    truncated: bool
    latents: Tensor  # (N, C) what was decoded to the picture
    window: Window | None


@dataclass
class Trajectory:
    """One sampled session, or as much of it as was gone on from.

    A member that went on from a sibling's picture has a copy of the sibling's turns before `own`; what it had made
    itself until then is in `stubs`.
    """

    session: int  # row of the examples it came from
    images: list[Pixels]  # T + 1 pictures (H, W, 3) of one size, source first
    history: list[Pictures] = field(default_factory=list)  # the first T of them, encoded
    turns: list[TurnSample] = field(default_factory=list)
    member: int = 0  # number in its group
    before: list[int] = field(default_factory=list)  # per turn: the member whose picture it started from
    own: int = 0  # turns before this one were made by siblings
    stubs: list[Trajectory] = field(default_factory=list)

    def append(self, sample: TurnSample, image: Pixels, history: Pictures) -> None:
        """One more turn, its picture, and the encoded picture that it started from."""
        self.turns.append(sample)
        self.images.append(image)
        self.history.append(history)

    def stays(self) -> Trajectory:
        """This member, about to go on from its own picture."""
        self.before.append(self.member)
        return self

    def went_on_from(self, sibling: Trajectory) -> Trajectory:
        """This member with the sibling's session so far in place of its own."""
        own = len(sibling.turns)
        prefix = [*sibling.images], [*sibling.history], [*sibling.turns]
        before = [*sibling.before[:own], sibling.member]
        return Trajectory(self.session, *prefix, self.member, before, own, [*self.stubs, self])


GoOn = Callable[[Sequence[Trajectory]], Sequence[int]]
"""After a turn: for each trajectory in play, the position of the one whose session it goes on from (mostly its own)."""


@dataclass(frozen=True)
class Script:
    """What a session gives to a walk. `name` decides its random numbers; images[0] is the source. What only a walk on
    the true history asks for: images[t], the picture after turn t, and `intents`, which the history holds in place of
    what was written. `traces`, where given, are written in place of the model's own."""

    name: str
    images: Sequence[Pixels]
    instructions: Sequence[str]
    traces: Sequence[str] = ()
    intents: Sequence[str] = ()
