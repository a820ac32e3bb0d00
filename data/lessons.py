"""Single pictures in words and words as pictures: what the base model learns beside single-turn edits.

An edit shows one changed object and speaks of little. To describe a whole scene, and to draw one from its description,
says something about every cell, so seeing and drawing are learned from far fewer pictures.
"""

from __future__ import annotations

import random

from data.phrases import DESCRIBE, DRAW, fill, pick
from data.sampling import random_scene
from data.scenes import Scene, World, describe
from data.synthesis import held_out_pairs

EMPTY = "nothing"


def description(scene: Scene) -> str:
    """The background, then every cell in reading order: `sand nothing small striped red ball nothing ...`."""
    cells = (EMPTY if thing is None else describe(thing) for thing in scene.cells)
    return " ".join((scene.background, *cells))


def describing(world: World, seed: int, index: int) -> tuple[str, str, tuple[Scene, Scene]]:
    """Instruction, intent and the scenes before and after: every second lesson describes, the others draw.

    Nothing held out is shown.
    """
    rng = random.Random(f"{world.name}/lesson/{seed}/{index}")
    banned = held_out_pairs(world)
    before, after = (random_scene(rng, world, (0, world.cells), banned=banned) for _ in range(2))
    if index % 2 == 0:
        return pick(DESCRIBE, rng, False).text, description(before), (before, before)
    words = description(after)
    return fill(pick(DRAW, rng, False).text, value=words), words, (before, after)
