import random

import numpy as np
import pytest

from data.readback import margins, match, matcher_of, read, readable
from data.render import atlas_of, join_cells, render, split_cells
from data.sampling import random_scene
from data.scenes import SMALL, TINY, Scene

worlds = pytest.mark.parametrize("world", [TINY, SMALL], ids=lambda world: world.name)


@worlds
def test_random_scenes_are_read_exactly(world):
    rng = random.Random(2)
    scenes = [random_scene(rng, world, (0, world.cells), sign_chance=0.5) for _ in range(300)]
    assert read(render(scenes, world), world) == scenes


@pytest.mark.slow
@worlds
def test_100_000_random_scenes_are_read_exactly(world):
    rng = random.Random(4)
    for _ in range(100):
        scenes = [random_scene(rng, world, (0, world.cells), sign_chance=0.5) for _ in range(1000)]
        assert read(render(scenes, world), world) == scenes


@pytest.mark.parametrize("background", list(SMALL.backgrounds))
def test_every_sprite_of_the_large_world_is_read(background):
    things = [*atlas_of(SMALL).templates[11:]]
    things += [None] * (-len(things) % 16)
    scenes = [Scene(background, tuple(things[start : start + 16])) for start in range(0, len(things), 16)]
    assert read(render(scenes, SMALL), SMALL) == scenes


@pytest.mark.parametrize("background", list(TINY.backgrounds))
def test_every_sprite_and_text_is_read(background):
    texts = [a + b for a in TINY.letters for b in TINY.letters]
    things = [*atlas_of(TINY).templates[7:], *(TINY.sign(t, c) for t in texts for c in TINY.colours)]
    things += [None] * (-len(things) % 9)
    scenes = [Scene(background, tuple(things[start : start + 9])) for start in range(0, len(things), 9)]
    assert read(render(scenes, TINY), TINY) == scenes


@worlds
def test_noise_below_the_least_margin_reads_the_same(world):
    rng = random.Random(3)
    scenes = [random_scene(rng, world, (0, world.cells), sign_chance=0.5) for _ in range(50)]
    images = render(scenes, world).astype(np.float32)
    level = min(margins(world).values()) * 0.9
    noise = np.random.default_rng(0).normal(0, level, images.shape)
    assert read(np.clip(np.rint(images + noise), 0, 255).astype(np.uint8), world) == scenes


def test_margins_are_reached_by_the_worst_pair():
    # Two thirds of the way to the nearest other sprite must read as that sprite: the margin is not just a low bound.
    flat = atlas_of(TINY).sprites.reshape(4, 103, -1).astype(np.float32)
    best = min(
        (float(((row - other) ** 2).sum()), b, i + 7, j + 7)
        for b in range(4)
        for i, row in enumerate(flat[b, 7:])
        for j, other in enumerate(flat[b, 7:])
        if i != j
    )
    margin = min(margins(TINY)[name] for name in ("kind", "colour", "material", "size"))
    assert margin == pytest.approx(np.sqrt(best[0] / 768) / 2, abs=0.01)


def test_pixels_of_no_world_are_unreadable():
    noise = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), dtype=np.uint8)
    assert not any(readable(scene) for scene in read(noise, TINY))
    background, _, _ = match(np.full((1, 48, 48, 3), 255, np.uint8), TINY)
    assert background.tolist() == [-1]


def test_cells_split_and_join():
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), dtype=np.uint8)
    assert (join_cells(split_cells(images, TINY), TINY) == images).all()
    assert (split_cells(images, TINY)[0, 5] == images[0, 16:32, 32:48]).all()


def test_wrong_size_is_refused():
    with pytest.raises(ValueError, match="48"):
        read(np.zeros((1, 32, 32, 3), np.uint8), TINY)


def test_rims_hold_only_background():
    sprites = atlas_of(TINY).sprites
    assert (sprites[:, :, matcher_of(TINY).rim] == sprites[:, :1, matcher_of(TINY).rim]).all()
