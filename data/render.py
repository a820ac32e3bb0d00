"""Scenes to pixels: every cell is looked up in an atlas of sprites that is drawn once per world.

The atlas of a world has one sprite per background and template. Template 0 is the empty cell, then one blank sign per
colour, then every combination of kind, colour, material and size. Letters are pasted onto the plate of a sign, so that
texts need no templates of their own.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.scenes import SIGN, Scene, SceneObject, World
from data.sprites import drawn, glyph

Pixels = NDArray[np.uint8]
Codes = NDArray[np.int64]

INK = (16, 16, 16)
"""Colour of letters."""


@dataclass(frozen=True)
class Plate:
    """Where letters sit on a sign, in pixels of the cell: slots side by side, each holding one letter's ink box."""

    left: int
    top: int
    slot: int
    width: int
    height: int

    def columns(self, slot: int) -> slice:
        """Pixel columns of the ink box of a slot."""
        start = self.left + slot * self.slot + (self.slot - self.width) // 2
        return slice(start, start + self.width)

    @property
    def lines(self) -> slice:
        """Pixel rows of the ink box."""
        return slice(self.top, self.top + self.height)


@dataclass(frozen=True)
class Atlas:
    """Sprites (backgrounds, templates, cell, cell, 3) and letters on plates (colours, letters + blank, h, w, 3)."""

    world: World
    sprites: Pixels
    letters: Pixels
    plate: Plate
    templates: tuple[SceneObject | None, ...]
    index: dict[SceneObject | None, int]


def plate_of(world: World) -> Plate:
    """Geometry of signs: the plate is two pixels narrower than the cell."""
    cell = world.cell_size
    slot = (cell - 2) // world.text_length
    height = 7 if cell < 32 else 14
    return Plate((cell - slot * world.text_length) // 2, (cell - height) // 2, slot, 5 if cell < 32 else 7, height)


@functools.lru_cache(maxsize=4)
def atlas_of(world: World) -> Atlas:
    """The atlas of a world, drawn on first use (tiny: 0.1 s; small: seconds) and then shared."""
    templates = _templates(world)
    things = [_thing_layers(thing, world) for thing in templates]
    colour = np.stack([layer for layer, _ in things])
    cover = np.stack([layer for _, layer in things])
    tiles = np.stack([_background(name, world) for name in world.backgrounds])
    sprites = [np.clip(np.rint(colour + (1 - cover) * tile), 0, 255).astype(np.uint8) for tile in tiles]
    index = {thing: position for position, thing in enumerate(templates)}
    return Atlas(world, np.stack(sprites), _letters(world), plate_of(world), templates, index)


def encode(scenes: Sequence[Scene], world: World) -> tuple[Codes, Codes]:
    """Background index (N,) and template index (N, cells) of scenes; KeyError when a scene is of another world."""
    index = atlas_of(world).index
    order = {name: position for position, name in enumerate(world.backgrounds)}
    backgrounds = np.asarray([order[scene.background] for scene in scenes], np.int64)
    codes = [[index[_blank(thing)] for thing in scene.cells] for scene in scenes]
    return backgrounds, np.asarray(codes, np.int64).reshape(len(scenes), world.cells)


def render(scenes: Sequence[Scene], world: World) -> Pixels:
    """Pictures of scenes: uint8 (N, H, W, 3)."""
    atlas = atlas_of(world)
    backgrounds, codes = encode(scenes, world)
    patches = atlas.sprites[backgrounds[:, None], codes]
    _write_signs(patches, scenes, atlas)
    return join_cells(patches, world)


def join_cells(patches: Pixels, world: World) -> Pixels:
    """(N, cells, c, c, 3) -> (N, H, W, 3)."""
    size = world.cell_size
    grid = patches.reshape(-1, world.rows, world.columns, size, size, 3)
    return np.ascontiguousarray(grid.transpose(0, 1, 3, 2, 4, 5)).reshape(-1, world.image_size, world.image_size, 3)


def split_cells(images: NDArray[Any], world: World, channels: int = 3) -> NDArray[Any]:
    """(N, H, W, channels) -> (N, cells, c, c, channels), the inverse of `join_cells`."""
    size = world.cell_size
    grid = images.reshape(-1, world.rows, size, world.columns, size, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(-1, world.cells, size, size, channels)


def _write_signs(patches: Pixels, scenes: Sequence[Scene], atlas: Atlas) -> None:
    colours = {name: position for position, name in enumerate(atlas.world.colours)}
    for row, scene in enumerate(scenes):
        for cell, thing in enumerate(scene.cells):
            if thing is not None and thing.kind == SIGN:
                for slot, letter in enumerate(thing.text):
                    ink = atlas.letters[colours[thing.colour], atlas.world.letters.index(letter)]
                    patches[row, cell, atlas.plate.lines, atlas.plate.columns(slot)] = ink


def _blank(thing: SceneObject | None) -> SceneObject | None:
    return thing if thing is None or not thing.text else thing._replace(text="")


def _templates(world: World) -> tuple[SceneObject | None, ...]:
    signs = [world.sign("", colour) for colour in world.colours]
    things = [
        SceneObject(kind, colour, material, size)
        for kind in world.kinds
        for colour in world.colours
        for material in world.materials
        for size in world.sizes
    ]
    return (None, *signs, *things)


def _thing_layers(thing: SceneObject | None, world: World) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    cell = world.cell_size
    colour = np.zeros((cell, cell, 3), np.float32)
    cover = np.zeros((cell, cell, 1), np.float32)
    if thing is None:
        return colour, cover
    if thing.kind == SIGN:
        plate = plate_of(world)
        cover[plate.top - 2 : plate.top + plate.height + 2, 1 : cell - 1] = 1
        return cover * np.asarray(world.colours[thing.colour], np.float32), cover
    return drawn(thing.kind, thing.material, world.colours[thing.colour], world.sizes[thing.size], cell)


def _background(name: str, world: World) -> NDArray[np.float32]:
    cell = world.cell_size
    tile = np.broadcast_to(np.asarray(world.backgrounds[name], np.float32), (cell, cell, 3))
    if not world.background_texture:
        return tile
    y, x = np.mgrid[0:cell, 0:cell]
    step = list(world.backgrounds).index(name) + 1
    wave = np.sin(2 * np.pi * (x * (step % 3) + y * (1 + step % 2)) / cell * 2)
    return tile * (1 + world.background_texture * wave[..., None])


def _letters(world: World) -> Pixels:
    plate = plate_of(world)
    inks = np.stack([glyph(letter, plate.width, plate.height) for letter in (*world.letters, "")])[..., None]
    plates = np.asarray(list(world.colours.values()), np.float32)[:, None, None, None, :]
    mixed = inks[None] * np.asarray(INK, np.float32) + (1 - inks[None]) * plates
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
