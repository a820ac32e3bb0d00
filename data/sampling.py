"""Random scenes: the raw material of sessions and of the image autoencoder's training."""

from __future__ import annotations

import random
from collections.abc import Collection

from data.scenes import Scene, SceneObject, World


def random_thing(rng: random.Random, world: World, banned: Collection[tuple[str, str]] = ()) -> SceneObject:
    """An object with every attribute uniform, except that no (kind, colour) pair is in `banned`."""
    while True:
        kind = rng.choice(world.kinds)
        colour = rng.choice(tuple(world.colours))
        if (kind, colour) not in banned:
            return SceneObject(kind, colour, rng.choice(world.materials), rng.choice(tuple(world.sizes)))


def random_text(rng: random.Random, world: World) -> str:
    """Letters of a sign: as many as fit, without repetition."""
    return "".join(rng.sample(world.letters, world.text_length))


def random_scene(
    rng: random.Random,
    world: World,
    objects: tuple[int, int],
    sign_chance: float = 0.3,
    banned: Collection[tuple[str, str]] = (),
) -> Scene:
    """A scene with `objects` (least, most) things in distinct cells, one of them perhaps a sign of any colour."""
    count = rng.randint(*objects)
    cells: list[SceneObject | None] = [None] * world.cells
    places = rng.sample(range(world.cells), count)
    for place in places:
        cells[place] = random_thing(rng, world, banned)
    if places and rng.random() < sign_chance:
        cells[places[0]] = world.sign(random_text(rng, world), rng.choice(tuple(world.colours)))
    return Scene(rng.choice(tuple(world.backgrounds)), tuple(cells))
