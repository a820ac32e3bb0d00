import random

import pytest

from data.errors import UserError
from data.sampling import random_scene
from data.scenes import (
    SMALL,
    TINY,
    TINY_WIDE,
    describe,
    parse_object,
    scene_from_dict,
    scene_to_dict,
    wider_than,
    world_named,
)


@pytest.mark.parametrize("world", [TINY, TINY_WIDE, SMALL], ids=lambda world: world.name)
def test_words_round_trip(world):
    rng = random.Random(1)
    for _ in range(200):
        scene = random_scene(rng, world, (0, world.cells))
        assert scene_from_dict(scene_to_dict(scene, world), world) == scene
        assert all(parse_object(describe(thing), world) == thing for thing in scene.cells if thing)


def test_words_of_another_world_are_refused():
    with pytest.raises(ValueError, match="not an object"):
        parse_object("large shiny red ball", TINY)
    with pytest.raises(ValueError, match="not a scene"):
        scene_from_dict({"background": "sand", "upper left": "large plain red ball"}, TINY)


def test_geometry():
    assert TINY.places[0] == "top left" and TINY.places[8] == "bottom right"
    assert TINY.neighbour(4, "left") == 3 and TINY.neighbour(3, "left") is None
    assert TINY.neighbour(2, "right") is None and TINY.neighbour(7, "above") == 4
    assert [TINY.mirrored(cell) for cell in (0, 1, 5)] == [2, 1, 3]


def test_unknown_world_names_the_choices():
    with pytest.raises(UserError, match="tiny"):
        world_named("huge")


def test_a_wider_world_holds_the_other():
    assert wider_than(TINY) is TINY_WIDE
    assert {*TINY.kinds} < {*TINY_WIDE.kinds} and TINY.colours.items() < TINY_WIDE.colours.items()
    with pytest.raises(UserError, match="wider than small"):
        wider_than(SMALL)
