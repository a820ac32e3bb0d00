"""Pictures in words, words as pictures, edits told in full, and what was said and shown before: what the base model
learns beside single-turn edits.

An edit shows one changed object and speaks of one place. To describe a whole scene, to draw one from its description
and to say where everything is says something about every cell, so seeing, drawing and finding are learned from far
fewer pictures.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

from data.naming import View, name
from data.phrases import DESCRIBE, DRAW, LOCATE, POINT, RECALL, REPEAT
from data.scenes import SIGN, Scene, World, describe
from data.schema import Session
from data.synthesis import Recipe, session, source_scene
from data.wordings import fill, pick

EMPTY = "nothing"
POINTED = (1, 1, 1, 2, 4)
"""How many objects a lesson asks for, each number as often: to find one comes before keeping several apart."""


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
    return pick(LOCATE, random.Random(repr(scene)), "known").text, locations(scene, world)


def pointing(scene: Scene, world: World, rng: random.Random) -> tuple[str, str]:
    """Instruction and intent that say where some objects are, each named so that it is told from all others, and which
    places are free; or where everything is, when nothing can be named.

    Edits name one object each; here several of a kind must be told apart at once.
    """
    cells = scene.occupied()
    rng.shuffle(cells)
    named = ((cell, name(View(world, scene), (cell,), rng)) for cell in cells)
    phrases = [(phrase, [cell]) for cell, phrase in named if phrase][: rng.choice(POINTED)]
    if not phrases:
        return locating(scene, world)
    if rng.random() < 0.2 and scene.free():
        phrases[-1:] = [(EMPTY, scene.free()[: max(POINTED)])]
    asked = " and ".join(EMPTY if words == EMPTY else f"the {words}" for words, _ in phrases)
    told = (f"{words} at {' and '.join(world.places[cell] for cell in cells)}" for words, cells in phrases)
    return fill(pick(POINT, rng, "known").text, value=asked), " ".join(told)


def question(told: Session, world: World) -> tuple[str, str]:
    """Instruction and intent that ask about a session: now and then where everything or what is asked for is, mostly
    what was said or shown before."""
    assert told.scene is not None
    scenes = (told.scene.source, *told.scene.targets)
    rng = random.Random(repr(scenes))
    match rng.randrange(8):
        case 0:
            return locating(scenes[-1], world)
        case 1:
            return pointing(scenes[-1], world, rng)
        case 2 | 3 | 4:
            return repeating([turn.instruction for turn in told.turns], world, rng)
    return recalling(scenes[-2], scenes[-1], world, rng)


def repeating(said: Sequence[str], world: World, rng: random.Random) -> tuple[str, str]:
    """Instruction and intent that repeat an edit word for word: the first, the last, or the one with a word that no
    other has."""
    asked = {"first edit": said[0], "last edit": said[-1]}
    telling = {*world.kinds, *world.colours, *world.materials, *world.sizes, *world.backgrounds, *world.letters}
    for number, text in enumerate(said):
        others = " ".join((*said[:number], *said[number + 1 :])).split()
        found = sorted({*text.split()} & telling - {*others})
        if found:
            asked[f"edit with {rng.choice(found)}"] = text
    which = rng.choice(list(asked))
    return fill(pick(REPEAT, rng, "known").text, value=which), asked[which]


def recalling(before: Scene, after: Scene, world: World, rng: random.Random) -> tuple[str, str]:
    """Instruction and intent that say what looked otherwise before the last edit."""
    words = [f"background {before.background}"] if before.background != after.background else []
    pairs = zip(before.cells, after.cells, world.places, strict=True)
    words += [f"{describe(old) if old else EMPTY} at {place}" for old, new, place in pairs if old != new]
    return pick(RECALL, rng, "known").text, " and ".join(words) or EMPTY


def lesson(world: World, seed: int, index: int) -> tuple[str, str, tuple[Scene, Scene]]:
    """Instruction, intent and the scenes before and after; of eight lessons one describes, one draws, two say where
    everything is and four where what is asked for is.

    Nothing held out is shown.
    """
    rng = random.Random(f"{world.name}/lesson/{seed}/{index}")
    recipe = Recipe(world, "single", seed, (1, 1), (0, world.cells))
    match index % 8:
        case 0:
            scene = source_scene(recipe, rng)
            return pick(DESCRIBE, rng, "known").text, description(scene), (scene, scene)
        case 4:
            before, after = source_scene(recipe, rng), source_scene(recipe, rng)
            words = description(after)
            return fill(pick(DRAW, rng, "known").text, value=words), words, (before, after)
        case 2 | 6:
            scene = source_scene(recipe, rng)
            return *locating(scene, world), (scene, scene)
    scene = source_scene(recipe, rng, twins=True)
    return *pointing(scene, world, rng), (scene, scene)


def dictated_sessions(world: World, seed: int, turns: tuple[int, int]) -> Iterator[Session]:
    """Sessions of both tracks without end whose instructions are their intents.

    Every turn says in full what is to be drawn: nothing is told of rules and references but how their results look, and
    each turn is an edit of its own. Nothing held out is shown.
    """
    recipe = Recipe(world, "single", seed, turns, (2, world.cells - 3))
    for index in itertools.count():
        told = session(recipe, index)
        explicit = tuple(turn.model_copy(update={"instruction": turn.intent}) for turn in told.turns)
        yield told.model_copy(update={"turns": explicit})
