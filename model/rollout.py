"""Free-running sessions: each turn the model writes an intent trace, then samples the picture it will go on from.

All trajectories run as one batch on one key/value cache, and members of a group share a row of it until they differ:
what two of them do alike is drawn, encoded and kept once. Those whose session is over leave. What replay needs is kept:
the ids of the traces with their log-probabilities, and the states of the stochastic steps. The history holds uint8
pictures, re-encoded, exactly as replay will see them. `walk` is the loop, `rollout` runs it on built sessions,
`model.pipeline` on a user's picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from data.loader import Example
from model import samplers
from model.bundle import Bundle
from model.config import SamplingConfig
from model.context import Context
from model.guidance import Guidance
from model.images import Pixels
from model.pictures import Grid, Pictures
from model.tokenizer import decode_texts, encode_texts
from model.trainer import generator


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
    images: list[Pixels]  # T + 1 pictures (H, W, 3), source first
    history: list[Pictures] = field(default_factory=list)  # the first T of them, encoded
    turns: list[TurnSample] = field(default_factory=list)
    member: int = 0  # number in its group
    before: list[int] = field(default_factory=list)  # per turn: the member whose picture it started from
    own: int = 0  # turns before this one were made by siblings
    stubs: list[Trajectory] = field(default_factory=list)

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
    """What a session gives to a walk. `name` decides its random numbers; images[0] is the source, the picture after
    turn t is images[t] and only asked for where the walk goes on from true pictures. `traces`, where given, are written
    in place of the model's own."""

    name: str
    images: Sequence[Pixels]
    instructions: Sequence[str]
    traces: Sequence[str] = ()


def rollout(
    bundle: Bundle,
    examples: Sequence[Example],
    config: SamplingConfig,
    *,
    seed: int,
    step: int = 0,
    group_size: int = 1,
    shared_noise: bool = True,
    exploration: Exploration | None = None,
    true_history: bool = False,
    true_intents: bool = False,
    go_on: GoOn | None = None,
) -> list[Trajectory]:
    """Run every session `group_size` times, all at once; see `walk`.

    Args:
        examples: sessions with at least their source picture, all of one size.
        exploration: None samples the deterministic flow.
        true_history: go on from the target picture of each turn instead of the sampled one (needs the targets).
        true_intents: write the known intent of each turn instead of sampling a trace.
    """
    scripts = []
    for example in examples:
        turns = example.session.turns
        traces = [turn.intent or turn.instruction for turn in turns] if true_intents and config.write_trace else []
        texts = [turn.instruction for turn in turns]
        scripts.append(Script(example.session.id, list(example.images), texts, traces))
    sampler = Sampler(bundle, config, seed, step, exploration, shared_noise=shared_noise)
    return walk(sampler, scripts, group_size, true_history, go_on)


def walk(
    sampler: Sampler,
    scripts: Sequence[Script],
    group_size: int = 1,
    true_history: bool = False,
    go_on: GoOn | None = None,
) -> list[Trajectory]:
    """Run every script `group_size` times, all at once; trajectories of one script lie in a row.

    Random numbers depend on the sampler's seed and step, the script's name, the member's number in its group and the
    turn, never on the batch: a session that runs alone gives what it gives in company. Members that did the same in a
    turn, from the same history, hold the same `TurnSample`. `go_on` may let members of a group go on from one another.
    """
    bundle = sampler.bundle
    members = [(i, member) for i in range(len(scripts)) for member in range(group_size)]
    trajectories = [Trajectory(i, [scripts[i].images[0]], member=k, before=[k]) for i, k in members]
    images = np.stack([script.images[0] for script in scripts])
    context = Context(bundle.model, bundle.special, len(scripts), guided=sampler.guidance.uses_image)
    pictures = _open_turn(bundle, context, images, scripts, 0)
    playing, stands, turn = list(range(len(members))), [i for i, _ in members], 0  # row of the context of who plays
    while True:
        acting = [trajectories[index] for index in playing]
        names = [(scripts[one.session].name, one.member) for one in acting]
        given = [scripts[one.session].traces[turn] for one in acting if scripts[one.session].traces]
        context, made, samples, images = sampler.turn(context, stands, names, turn, pictures.latent_grids[0], given)
        histories = [pictures.select([row]) for row in range(len(pictures))]
        for one, before, after in zip(acting, stands, made, strict=True):
            one.turns.append(samples[after])
            one.images.append(images[after])
            one.history.append(histories[before])
        turn += 1
        staying = [k for k, one in enumerate(acting) if len(scripts[one.session].instructions) > turn]
        if not staying:
            return trajectories
        played = [acting[k] for k in staying]
        chosen = go_on(played) if go_on is not None else range(len(played))
        rows = [made[staying[k]] for k in chosen]
        if true_history:  # one true picture after one history: whatever the members made, a row serves them all
            first = {one.session: row for one, row in reversed(list(zip(played, rows, strict=True)))}
            rows = [first[one.session] for one in played]
        kept = list(dict.fromkeys(rows))
        playing, stands = [playing[k] for k in staying], [kept.index(row) for row in rows]
        for index, one, k in zip(playing, played, chosen, strict=True):
            trajectories[index] = one.stays() if one is played[k] else one.went_on_from(played[k])
        listed = [scripts[played[stands.index(row)].session] for row in range(len(kept))]
        context = context.select(kept) if kept != list(range(context.rows)) else context
        images = np.stack([script.images[turn] for script in listed]) if true_history else images[kept]
        pictures = _open_turn(bundle, context, images, listed, turn)


def _open_turn(bundle: Bundle, context: Context, images: Pixels, scripts: Sequence[Script], turn: int) -> Pictures:
    """Append picture and instruction of a turn, one of each per row."""
    pictures = bundle.encode(images)
    context.append_pictures(pictures)
    context.append_text(encode_texts(bundle.tokenizer, [script.instructions[turn] for script in scripts]))
    return pictures


Members = Sequence[tuple[str, int]]  # name of the script and number in the group, per row


class Sampler:
    """Samples one turn of a batch of trajectories.

    Args:
        shared_noise: the members of a group start a turn's picture from one noise.
        guidance: replaces the scales of `config`.
        allowed: (V,) bool, ids that a trace may hold; None allows all.
    """

    def __init__(
        self,
        bundle: Bundle,
        config: SamplingConfig,
        seed: int,
        step: int = 0,
        exploration: Exploration | None = None,
        *,
        shared_noise: bool = True,
        guidance: Guidance | None = None,
        allowed: Tensor | None = None,
    ) -> None:
        self.bundle, self.config, self.seed, self.step, self.exploration = bundle, config, seed, step, exploration
        self.shared_noise, self.allowed = shared_noise, allowed
        self.guidance = guidance or Guidance(text=config.text_guidance, image=config.image_guidance)
        self.grid = samplers.schedule(config.points, config.shift).to(bundle.model.device)

    def turn(
        self,
        context: Context,
        stands: Sequence[int],
        members: Members,
        turn: int,
        grid: Grid,
        given: Sequence[str] = (),
    ) -> tuple[Context, list[int], list[TurnSample], Pixels]:
        """Write the traces (the `given` ones, if any) as branches, then sample the pictures.

        Args:
            stands: row of the context in which each member stands.

        Returns:
            The context with a row for everything that was done, the row of what each member did, and per row the sample
            and its picture (R, H, W, 3).
        """
        if list(stands) != list(range(context.rows)):
            context = context.select(stands)
        texts = self._write(context, given) if given else self._traces(context, members, turn)
        alike = self.shared_noise and self.exploration is None
        deeds = [
            (row, *trace, cut, None if alike else member)
            for row, (trace, _, _, cut), (_, member) in zip(stands, texts, members, strict=True)
        ]
        rows = {deed: row for row, deed in enumerate(dict.fromkeys(deeds))}
        firsts = [deeds.index(deed) for deed in rows]
        if len(firsts) < len(members):
            context = context.select(firsts)
        latents, windows = self._pictures(context, [members[k] for k in firsts], turn, grid)
        images = self.bundle.decode(latents, grid)
        parts = zip([texts[k] for k in firsts], latents, windows, strict=True)
        samples = [TurnSample(*text, latent, window) for text, latent, window in parts]
        return context, [rows[deed] for deed in deeds], samples, images

    def _write(self, context: Context, texts: Sequence[str]) -> list[tuple[list[int], str, Tensor, bool]]:
        ids = encode_texts(self.bundle.tokenizer, texts)
        context.append_text(ids, branch=True)
        return [(row, text, torch.zeros(0), False) for row, text in zip(ids, texts, strict=True)]

    def _random(self, purpose: str, members: Members, turn: int) -> list[torch.Generator]:
        return [generator(self.seed, self.step, f"{purpose}/{name}/{turn}/{number}") for name, number in members]

    def _traces(self, context: Context, members: Members, turn: int) -> list[tuple[list[int], str, Tensor, bool]]:
        if not self.config.write_trace:
            return [([], "", torch.zeros(0), False)] * len(members)
        random = self._random("trace", members, turn)
        sample = context.generate_text(self.config.max_trace, self.config.temperature, random, allowed=self.allowed)
        ids = sample.texts()
        words = decode_texts(self.bundle.tokenizer, ids)
        lengths, cut, logprobs = sample.lengths.tolist(), (~sample.finished).tolist(), sample.logprobs
        return [(ids[i], words[i], logprobs[i, : lengths[i]].clone(), cut[i]) for i in range(len(members))]

    def _noise(self, purpose: str, members: Members, turn: int, shape: tuple[int, ...]) -> Tensor:
        """(B, *shape) normal numbers; rows with the same name and number get the same ones."""
        drawn = [torch.randn(shape, generator=random) for random in self._random(purpose, members, turn)]
        return torch.stack(drawn).to(self.bundle.model.device)

    def _pictures(
        self, context: Context, members: Members, turn: int, grid: Grid
    ) -> tuple[Tensor, list[Window | None]]:
        shape = (grid[0] * grid[1], self.bundle.model.config.latent_dim)
        group = [(name, 0) for name, _ in members]
        x, noise = self._noise("noise", group if self.shared_noise else members, turn, shape), None
        if self.exploration is not None:
            noise = self._noise("exploration", members, turn, (self.exploration.size, *shape))
        states, steps = [], []
        for i in range(len(self.grid) - 1):
            taken = self._step(x, context.velocity(x, self.grid[i], grid, self.guidance), i, noise)
            if self.exploration is not None and self.exploration.covers(i):
                states.append(x)
                steps.append(taken)
            x = taken.next
        if not steps:
            return x, [None] * len(members)
        lists = (states, [s.next for s in steps], [s.mean for s in steps], [s.logprob for s in steps])
        parts = [torch.stack(values, 1) for values in lists]
        return x, [Window(*(part[row] for part in parts)) for row in range(len(members))]

    def _step(self, x: Tensor, v: Tensor, i: int, noise: Tensor | None) -> samplers.Step:
        """Step i of the grid; noise (B, W, N, C) of the exploration's steps."""
        t, t_next, explored = self.grid[i], self.grid[i + 1], self.exploration
        if noise is None or explored is None or not explored.covers(i):
            return samplers.step(x, v, t, t_next, kind="ode")
        drawn = noise[:, i - explored.start]
        return samplers.step(x, v, t, t_next, kind=explored.kind, noise_level=explored.noise_level, noise=drawn)
