"""Objects in words: noun phrases that are true of exactly some objects, and places beside them."""

from __future__ import annotations

import functools
import random
from typing import NamedTuple

from data.constraints import Rule
from data.edits import noun
from data.phrases import BESIDE
from data.scenes import RELATIONS, SIGN, Scene, SceneObject, World

MAX_GROUP = 3
"""Most objects that one phrase acts on: keeps intents short."""


class View(NamedTuple):
    """What a draft may look at. `fixed`: cells that no single edit may name; `only`: if any, those it must."""

    world: World
    scene: Scene
    rules: tuple[Rule, ...] = ()
    fixed: frozenset[int] = frozenset()
    only: frozenset[int] = frozenset()


class Focus(NamedTuple):
    """Objects to act on, chosen beforehand, and the words for them (`it`, `the one added first`, `the red ball`)."""

    cells: tuple[int, ...]
    words: str


@functools.lru_cache(maxsize=65_536)
def phrases_for(thing: SceneObject) -> list[str]:
    """Noun phrases that fit an object, short ones first."""
    if thing.kind == SIGN:
        return [SIGN, f"{thing.colour} {SIGN}"]
    size, material, colour, kind = thing.size, thing.material, thing.colour, thing.kind
    return [
        kind,
        f"{colour} {kind}",
        f"{material} {kind}",
        f"{size} {kind}",
        f"{material} {colour} {kind}",
        f"{size} {colour} {kind}",
        f"{size} {material} {colour} {kind}",
    ]


@functools.lru_cache(maxsize=65_536)
def fits(thing: SceneObject | None, phrase: str) -> bool:
    """Whether a noun phrase is true of an object."""
    return thing is not None and set(phrase.split()) <= {*thing[:4]}


def name(view: View, cells: tuple[int, ...], rng: random.Random) -> str | None:
    """A phrase that is true of exactly these cells: mostly the shortest, else a longer one; None when there is none."""
    thing = view.scene.cells[cells[0]]
    assert thing is not None
    wanted = set(cells)
    exact = []
    for phrase in phrases_for(thing):
        if {cell for cell, other in enumerate(view.scene.cells) if fits(other, phrase)} == wanted:
            if rng.random() < 0.6:
                return phrase
            exact.append(phrase)
    return rng.choice(exact) if exact else None


def single(view: View, rng: random.Random, signs: bool, focus: Focus | None) -> tuple[Focus, str] | None:
    """One object to act on and its noun phrase; a focus is taken as it is when it fits."""
    if focus is not None:
        things = [view.scene.cells[cell] for cell in focus.cells]
        fit = all(thing is not None and (signs or thing.kind != SIGN) for thing in things)
        return (focus, noun(things[0], view.world)) if fit and things[0] is not None else None
    cells = [cell for cell in sorted(view.only) or view.scene.occupied() if cell not in view.fixed]
    cells = [cell for cell in cells if signs or not is_sign(view, cell)]
    rng.shuffle(cells)
    for cell in cells:
        phrase = name(view, (cell,), rng)
        if phrase:
            return Focus((cell,), f"the {phrase}"), phrase
    return None


def is_sign(view: View, cell: int) -> bool:
    thing = view.scene.cells[cell]
    return thing is not None and thing.kind == SIGN


def group(view: View, rng: random.Random, chance: float = 0.2) -> tuple[Focus, str] | None:
    """Now and then all objects of one kind (`every ball`); always when that would touch a protected one."""
    by_kind: dict[str, list[int]] = {}
    for cell in view.scene.occupied():
        by_kind.setdefault(view.scene.cells[cell].kind, []).append(cell)  # type: ignore[union-attr]
    several = {kind: cells for kind, cells in by_kind.items() if 2 <= len(cells) <= MAX_GROUP and kind != SIGN}
    tempting = {kind: cells for kind, cells in several.items() if set(cells) & view.fixed}
    if tempting:
        several, chance = tempting, 0.8
    if not several or rng.random() > chance:
        return None
    kind = rng.choice(sorted(several))
    if set(several[kind]) <= view.fixed:
        return None
    return Focus(tuple(several[kind]), f"every {kind}"), f"every {kind}"


def beside(view: View, rng: random.Random, banned: int, focus: Focus | None) -> tuple[int, int, str, str, str] | None:
    """A free cell beside a named object: place, anchor, side, `above the red ball`, noun phrase of the anchor."""
    anchors = [focus.cells[0]] if focus else [cell for cell in view.scene.occupied() if cell != banned]
    rng.shuffle(anchors)
    for anchor in anchors:
        sides = [side for side in RELATIONS if _free_side(view, anchor, side) is not None]
        phrase = name(view, (anchor,), rng) if sides else None
        words = focus.words if focus else f"the {phrase}"
        if sides and (phrase or focus):
            side = rng.choice(sides)
            place = view.world.neighbour(anchor, side)
            assert place is not None
            thing = view.scene.cells[anchor]
            full = phrase or (noun(thing, view.world) if thing else "")
            return place, anchor, side, f"{BESIDE[side]} {words}", full
    return None


def _free_side(view: View, cell: int, side: str) -> int | None:
    place = view.world.neighbour(cell, side)
    return place if place is not None and view.scene.cells[place] is None else None
