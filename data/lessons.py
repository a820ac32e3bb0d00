"""Single pictures in words and words as pictures: what the base model learns beside single-turn edits.

An edit shows one changed object and speaks of one place. To describe a whole scene, to draw one from its description
and to say where everything is says something about every cell, so seeing, drawing and finding are learned from far
fewer pictures.
"""

from __future__ import annotations

import random

from data.phrases import DESCRIBE, DRAW, LOCATE, fill, pick
from data.scenes import SIGN, Scene, World, describe
from data.synthesis import Recipe, source_scene

EMPTY = "nothing"


def description(scene: Scene) -> str:
    """The background, then every cell in reading order: `sand nothing small striped red ball nothing ...`."""
    cells = (EMPTY if thing is None else describe(thing) for thing in scene.cells)
    return " ".join((scene.background, *cells))


def locations(scene: Scene, world: World) -> str:
    """Every object with its place, kind by kind, so that what it is must be found before it is said where."""
    kinds = (*world.kinds, SIGN)
    things = [(thing, place) for thing, place in zip(scene.cells, world.places, strict=True) if thing is not None]
    things.sort(key=lambda pair: kinds.index(pair[0].kind))
    return " ".join(f"{thing.colour} {thing.kind} at {place}" for thing, place in things) or EMPTY


def locating(scene: Scene, world: World) -> tuple[str, str]:
    """Instruction and intent that say where everything is."""
    return pick(LOCATE, random.Random(repr(scene)), False).text, locations(scene, world)


def lesson(world: World, seed: int, index: int) -> tuple[str, str, tuple[Scene, Scene]]:
    """Instruction, intent and the scenes before and after; of four lessons one describes, one draws and two locate.

    Nothing held out is shown.
    """
    rng = random.Random(f"{world.name}/lesson/{seed}/{index}")
    recipe = Recipe(world, "single", seed, (1, 1), (0, world.cells))
    before, after = source_scene(recipe, rng), source_scene(recipe, rng)
    match index % 4:
        case 0:
            return pick(DESCRIBE, rng, False).text, description(before), (before, before)
        case 2:
            words = description(after)
            return fill(pick(DRAW, rng, False).text, value=words), words, (before, after)
    return *locating(before, world), (before, before)
