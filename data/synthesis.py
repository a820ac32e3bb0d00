"""Whole sessions, written turn by turn from a seed: every one reproducible on its own, whatever is built beside it."""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from data.constraints import FAMILIES, HELD_OUT, Rule
from data.edits import noun
from data.history import History
from data.references import KINDS
from data.sampling import random_scene
from data.scenes import Scene, World
from data.schema import EditType, Need, SceneBlock, Session, Track, Turn
from data.wordings import Wordings
from data.writer import Written, write_cm_turn, write_cu_turn, write_plain_turn

SPLITS = ("train", "practice", "validation", "test")
ATTEMPTS = 200
_BUCKETS = {
    "single": range(8),
    "train": range(5),
    "practice": range(5, 8),
    "validation": range(8, 9),
    "test": range(9, 10),
}
"""Of ten buckets of source scenes (by checksum), those that a split may start from: no source is in two splits.
Single turns of pre-training may start where training and practice do."""

_WORDINGS: dict[str, Wordings] = {"practice": "more", "validation": "validation", "test": "test"}


@dataclass(frozen=True)
class Recipe:
    """What sessions of a split may contain. `families` and `references` empty = all that the split may show."""

    world: World
    split: str
    seed: int
    turns: tuple[int, int]
    objects: tuple[int, int]
    cm_share: float = 0.5
    families: tuple[str, ...] = ()
    references: tuple[str, ...] = ()

    @property
    def held_out(self) -> bool:
        """Whether held-out pairs, phrases and families may appear: in the test split only."""
        return self.split == "test"

    @property
    def wordings(self) -> Wordings:
        """What may be said besides the known phrases."""
        return _WORDINGS.get(self.split, "known")

    def stated(self) -> tuple[str, ...]:
        """Families of rules that may be stated."""
        chosen = self.families or tuple(FAMILIES)
        return chosen if self.held_out else tuple(name for name in chosen if name not in HELD_OUT)

    def referred(self) -> tuple[str, ...]:
        """Kinds of references that may be made."""
        return self.references or KINDS


def held_out_pairs(world: World) -> frozenset[tuple[str, str]]:
    """(kind, colour) pairs that no training scene shows: one colour for every other kind, and what a world holds out
    that this one widens."""
    colours = tuple(world.colours)
    own = {(kind, colours[(2 * index + 4) % len(colours)]) for index, kind in enumerate(world.kinds) if index % 2 == 0}
    return frozenset(own | held_out_pairs(world.widens) if world.widens else own)


def sessions(recipe: Recipe, count: int, start: int = 0) -> Iterator[Session]:
    """Sessions `start` to `start + count - 1` of the split, one at a time."""
    return (session(recipe, index) for index in range(start, start + count))


def session(recipe: Recipe, index: int) -> Session:
    """One session of the split: the same for the same recipe and index."""
    rng = random.Random(f"{recipe.world.name}/{recipe.split}/{recipe.seed}/{index}")
    track = Track.CM if rng.random() < recipe.cm_share else Track.CU
    # Drawn once, not per attempt: else rules and references that rarely fit would be rare.
    turns = rng.randint(*recipe.turns)
    lead = rng.choice(recipe.stated() if track == Track.CM else recipe.referred())
    for _ in range(ATTEMPTS):
        written = _attempt(recipe, rng, track, turns, lead)
        if written is not None:
            history, lines = written
            return _session(recipe, index, track, history, lines)
    raise ValueError(f"no {track} session fits the world {recipe.world.name} with {turns} turns and {lead}")


DRILL = (
    *EditType,
    *(EditType.POSITION_CHANGE, EditType.COUNT_CHANGE, EditType.TEXT_CHANGE, EditType.SUBJECT_REPLACE),
    *(EditType.POSITION_CHANGE, EditType.COUNT_CHANGE),
)
"""Edit types of plain sessions, in turn: what carries an object's looks elsewhere, or fine detail, comes more often."""


def plain_sessions(world: World, seed: int, turns: tuple[int, int] = (1, 1)) -> Iterator[Session]:
    """Sessions without rules or references, first edit types as in `DRILL`, without end; nothing held out is shown."""
    recipe = Recipe(world, "single", seed, turns, (1, world.cells - 3))
    for index, edit_type in enumerate(itertools.cycle(DRILL)):
        rng = random.Random(f"{world.name}/single/{seed}/{index}")
        count = rng.randint(*turns) if turns != (1, 1) else 1
        written = None
        while written is None:
            history = History.start(world, source_scene(recipe, rng))
            written = _plain_turns(history, rng, edit_type, count)
        yield _session(recipe, index, None, history, written)


def _plain_turns(history: History, rng: random.Random, first: EditType, count: int) -> list[Written] | None:
    lines = []
    for edit_type in (first, *(rng.choice(DRILL) for _ in range(count - 1))):
        line = write_plain_turn(history, rng, edit_type, held_out_pairs(history.world))
        if line is None:
            return None
        lines.append(line)
    return lines


def source_scene(recipe: Recipe, rng: random.Random, twins: bool = False) -> Scene:
    """A random source whose checksum lies in the split's buckets; with `twins`, two or more are of one kind."""
    banned = frozenset() if recipe.held_out else held_out_pairs(recipe.world)
    while True:
        scene = random_scene(rng, recipe.world, recipe.objects, banned=banned)
        kinds = [thing.kind for thing in scene.cells if thing is not None]
        if bucket(scene) in _BUCKETS[recipe.split] and (not twins or len(set(kinds)) < len(kinds)):
            return scene


def bucket(scene: Scene) -> int:
    """Which tenth of all scenes this one belongs to."""
    return zlib.crc32(repr(scene).encode()) % 10


def _attempt(
    recipe: Recipe, rng: random.Random, track: Track, turns: int, lead: str
) -> tuple[History, list[Written]] | None:
    history = History.start(recipe.world, source_scene(recipe, rng, lead in _TWINS))
    lines: list[Written] = []
    banned = frozenset() if recipe.held_out else held_out_pairs(recipe.world)
    plan = _cm_plan(rng, turns) if track == Track.CM else _cu_plan(rng, turns, lead)
    write, all_kinds = (write_cm_turn, recipe.stated()) if track == Track.CM else (write_cu_turn, recipe.referred())
    for turn in range(1, turns + 1):
        leading = turn == next((t for t, event in plan.items() if event in ("state", "reference")), 0)
        kinds = (lead,) if leading else all_kinds
        line = write(history, rng, plan.get(turn, ""), kinds, banned, recipe.wordings)
        if line is None:
            return None
        lines.append(line)
    return (history, lines) if _needs_memory(lines, turns, lead) else None


def _cm_plan(rng: random.Random, turns: int) -> dict[int, str]:
    """At which turns rules are stated, revised and withdrawn; the first statement leaves a turn to need it."""
    first = 1 if turns < 3 or rng.random() < 0.6 else rng.randint(1, turns - 1)
    plan = {first: "state"}
    if turns > first and rng.random() < 0.3:
        plan[rng.randint(first + 1, turns)] = "state"
    if turns > first + 1 and rng.random() < 0.35:
        plan[rng.randint(first + 2, turns)] = rng.choice(("revise", "withdraw"))
    return plan


def _cu_plan(rng: random.Random, turns: int, lead: str) -> dict[int, str]:
    """At which turns references are made, an earlier one preparing the leading kind."""
    first = rng.randint(2, turns) if turns > 1 else 0
    later = {turn: "reference" for turn in range(first, turns + 1) if turn == first or rng.random() < 0.65}
    if lead == "other":
        return {first - 1: "twins", **later}
    return {1: _PREPARES[lead], **later} if lead in _PREPARES else later


_TWINS = ("other", "protect")
"""What needs a second object of a kind."""
_PREPARES = {"first": EditType.SUBJECT_ADD, "them": EditType.COUNT_CHANGE, "before": EditType.COLOR_ALTER}


def _needs_memory(lines: list[Written], turns: int, lead: str) -> bool:
    """Whether some turn needs the leading rule or reference from an earlier one (a session of a single turn cannot)."""
    needs = ((need, turn) for turn, line in enumerate(lines, 1) for need in line.needs)
    return turns == 1 or any(need.name == lead and need.stated < turn for need, turn in needs)


def _session(recipe: Recipe, index: int, track: Track | None, history: History, lines: list[Written]) -> Session:
    held_out = {tag for line in lines for tag in line.held_out} if recipe.held_out else set()
    held_out |= {f"pair:{kind} {colour}" for kind, colour in _shown(history) & held_out_pairs(recipe.world)}
    block = SceneBlock.model_construct(
        world=recipe.world.name,
        source=history.scenes[0],
        targets=tuple(history.scenes[1:]),
        checks=tuple(line.checks for line in lines),
        touched=tuple(line.touched for line in lines),
        kept=tuple(line.kept for line in lines),
        held_out=tuple(sorted(held_out)),
    )
    name = f"{recipe.world.name}-{recipe.split}-{index:06d}"
    return Session.model_construct(
        id=name,
        image=f"images/{recipe.split}/{index:06d}/0.png",
        turns=_turns(recipe.world, history, lines, shows_intent=recipe.split != "practice"),
        track=track,
        split=recipe.split,
        scene=block,
    )


def _shown(history: History) -> set[tuple[str, str]]:
    return {(thing.kind, thing.colour) for scene in history.scenes for thing in scene.cells if thing is not None}


def _turns(world: World, history: History, lines: list[Written], *, shows_intent: bool) -> tuple[Turn, ...]:
    """Turns with the published annotations, which speak of the session so far."""
    turns = []
    everything = list(_nouns(world, history.scenes[0], range(world.cells)))
    touched: set[int] = set()
    background_kept = True
    for line, scene in zip(lines, history.scenes[1:], strict=True):
        touched |= set(line.touched)
        background_kept &= line.type != EditType.BACKGROUND_CHANGE
        available = _nouns(world, scene, range(world.cells))
        everything = list(dict.fromkeys((*everything, *available)))
        turns.append(
            Turn.model_construct(
                instruction=line.instruction,
                task_type=line.type,
                formatted_instruction=line.formatted,
                bg_consistency=background_kept,
                unchanged_objects=_nouns(world, scene, [cell for cell in range(world.cells) if cell not in touched]),
                available_objects=available,
                all_objects=tuple(everything),
                intent=line.intent if shows_intent else None,
                needs=line.needs,
            )
        )
    return tuple(turns)


def _nouns(world: World, scene: Scene, cells: list[int] | range) -> tuple[str, ...]:
    things = (scene.cells[cell] for cell in cells)
    return tuple(dict.fromkeys(noun(thing, world) for thing in things if thing is not None))


__all__ = ["SPLITS", "Need", "Recipe", "Rule", "held_out_pairs", "session", "sessions"]
