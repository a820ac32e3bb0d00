"""Pixels back to scenes: each cell is matched against the sprites of the atlas.

The rim of every cell is always background, so the background is read first; then the nearest sprite on that background
(least squares) names the object, and each letter slot of a sign the nearest letter. Pixels that resemble nothing read
as `UNREADABLE`, which no check ever accepts. Renders are read without error; `margins` says how far pixels may be off.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.render import Atlas, Pixels, atlas_of, split_cells
from data.scenes import UNREADABLE, Scene, SceneObject, World

Floats = NDArray[np.float32]
Codes = NDArray[np.int64]

CHUNK = 1024
"""Pictures read at once: bounds the memory at some 50 MB."""
CELL_LIMIT = 32.0
"""Root mean square difference (0..255) between a cell and its nearest sprite beyond which it is unreadable."""
SIGN_LIMIT = 48.0
"""The same for signs, whose letters are the finest detail and the first to blur."""
BACKGROUND_LIMIT = 20.0
"""The same for the cells' rims, averaged over the picture, and the nearest background."""
COMPONENTS = 128
NOTHING = SceneObject(UNREADABLE, "", "", "")


@dataclass(frozen=True)
class Matcher:
    """`basis` (d, k) or None; per background, projected sprites (k, templates) and half their squared length.

    Where there are more sprites than pixels in a cell, they are compared in the subspace of their main components.
    """

    basis: Floats | None
    sprites: tuple[Floats, ...]
    halves: tuple[Floats, ...]
    rims: Floats
    rim: NDArray[np.bool_]


def read(images: Pixels, world: World) -> list[Scene]:
    """Scenes of pictures uint8 (N, H, W, 3); ValueError when the size is not the world's."""
    expected = (world.image_size, world.image_size, 3)
    if images.ndim != 4 or images.shape[1:] != expected or images.dtype != np.uint8:
        raise ValueError(f"pictures of the world {world.name} are uint8 (N, {expected}), not {images.shape}")
    atlas = atlas_of(world)
    scenes: list[Scene] = []
    for start in range(0, len(images), CHUNK):
        scenes.extend(_decode(images[start : start + CHUNK], atlas))
    return scenes


def match(images: Pixels, world: World) -> tuple[Codes, Codes, Floats]:
    """Background (N,), template (N, cells) and residual (N, cells): root mean square differences; -1 is unreadable.

    The residual of signs still contains their letters.
    """
    matcher = matcher_of(world)
    cells = split_cells(images, world)
    background = _backgrounds(cells, matcher)
    pooled = _pool(cells, world)
    template = np.zeros(pooled.shape[:2], np.int64)
    residual = np.zeros(pooled.shape[:2], np.float32)
    for index in np.unique(background):
        rows = background == index
        template[rows], residual[rows] = _nearest(pooled[rows], int(max(index, 0)), matcher)
    return background, template, residual


@functools.lru_cache(maxsize=4)
def matcher_of(world: World) -> Matcher:
    """Sprites prepared for matching, once per world."""
    sprites = atlas_of(world).sprites
    flat = _pool(_typical_signs(atlas_of(world)), world)
    basis = _basis(flat) if flat.shape[1] > flat.shape[2] else None
    projected = tuple(rows if basis is None else rows @ basis for rows in flat)
    rim = np.ones(sprites.shape[2:4], bool)
    rim[1:-1, 1:-1] = False
    return Matcher(
        basis,
        tuple(np.ascontiguousarray(rows.T) for rows in projected),
        tuple((rows**2).sum(1) / 2 for rows in projected),
        sprites[:, 0][:, rim].reshape(len(sprites), -1).astype(np.float32),
        rim,
    )


def margins(world: World) -> dict[str, float]:
    """Per attribute, the root mean square error of a cell (0..255) below which its reading cannot change.

    Half the least distance between two sprites that differ in the attribute: a perturbation shorter than that leaves
    the right sprite the nearest (triangle inequality). The letter margin holds within a letter's own slot.
    """
    atlas = atlas_of(world)
    flat = _pool(atlas.sprites, world)
    found = dict.fromkeys(("kind", "colour", "material", "size"), np.inf)
    things = atlas.templates[1:]
    for rows in flat:
        squares = _distances(rows[1:])
        for name in found:
            values = np.unique([getattr(thing, name) for thing in things if thing], return_inverse=True)[1]
            apart = values[:, None] != values[None, :]
            found[name] = min(found[name], float(np.sqrt(squares[apart].min() / rows.shape[1]) / 2))
    letters = atlas.letters.reshape(*atlas.letters.shape[:2], -1).astype(np.float32)
    text = min(np.sqrt(_off_diagonal(_distances(rows)).min() / rows.shape[1]) / 2 for rows in letters)
    return {**{name: round(value, 2) for name, value in found.items()}, "text": round(float(text), 2)}


def _typical_signs(atlas: Atlas) -> Pixels:
    """The sprites with the mean of all letters on every sign: nearest to any text, where a blank plate may not be."""
    sprites = atlas.sprites.copy()
    typical = atlas.letters[:, :-1].astype(np.float32).mean(1).astype(np.uint8)
    for slot in range(atlas.world.text_length):
        sprites[:, 1 : 1 + len(typical), atlas.plate.lines, atlas.plate.columns(slot)] = typical
    return sprites


def _distances(rows: Floats) -> Floats:
    lengths = (rows**2).sum(1)
    return np.maximum(lengths[:, None] + lengths[None, :] - 2 * rows @ rows.T, 0)


def _off_diagonal(squares: Floats) -> Floats:
    return squares[~np.eye(len(squares), dtype=bool)]


def _pool(cells: Pixels, world: World) -> Floats:
    """Cells (A, B, c, c, 3) as float rows (A, B, d); cells of 32 pixels are averaged to 16: textures survive."""
    factor = max(1, world.cell_size // 16)
    if factor == 1:
        return cells.reshape(*cells.shape[:2], -1).astype(np.float32)
    side = world.cell_size // factor
    sums = sum(
        cells[:, :, down::factor, across::factor].astype(np.float32)
        for down in range(factor)
        for across in range(factor)
    )
    return np.asarray(sums / factor**2, np.float32).reshape(*cells.shape[:2], side * side * 3)


def _basis(sprites: Floats) -> Floats:
    """The main components (d, k) of all sprites (backgrounds, templates, d): enough to tell every two apart."""
    rows = sprites.reshape(-1, sprites.shape[-1])
    _, vectors = np.linalg.eigh(rows.T @ rows)
    return np.ascontiguousarray(vectors[:, -COMPONENTS:])


def _backgrounds(cells: Pixels, matcher: Matcher) -> Codes:
    rims = cells[:, :, matcher.rim].astype(np.float32).mean(1).reshape(len(cells), -1)
    squares = ((rims[:, None] - matcher.rims[None]) ** 2).mean(2)
    best = squares.argmin(1)
    return np.where(np.sqrt(squares.min(1)) <= BACKGROUND_LIMIT, best, -1)


def _nearest(rows: Floats, background: int, matcher: Matcher) -> tuple[Codes, Floats]:
    flat = rows.reshape(-1, rows.shape[2])
    points = flat if matcher.basis is None else flat @ matcher.basis
    score = points @ matcher.sprites[background]
    score -= matcher.halves[background]
    best = score.argmax(1)
    squares = np.einsum("nd,nd->n", flat, flat) - 2 * score[np.arange(len(best)), best]
    residual = np.sqrt(np.maximum(squares, 0) / flat.shape[1])
    return best.reshape(rows.shape[:2]), residual.reshape(rows.shape[:2])


def _decode(images: Pixels, atlas: Atlas) -> list[Scene]:
    background, template, residual = match(images, atlas.world)
    # Averaging cells of 32 pixels to 16 has taken some of the difference away already.
    bad = residual > CELL_LIMIT / np.sqrt(max(1, atlas.world.cell_size // 16))
    signs = (template >= 1) & (template <= len(atlas.world.colours)) & (background >= 0)[:, None]
    texts = _texts(images, background, template, signs, atlas)
    # Noise has the mean of a grey background: a picture with hardly a readable cell has none.
    background = np.where(bad.mean(1) > 0.5, -1, background)
    names = (*atlas.world.backgrounds, UNREADABLE)
    things = (*atlas.templates, NOTHING)
    scenes = []
    for row, codes in enumerate(np.where(bad & ~signs, -1, template).tolist()):
        cells = tuple(things[code] for code in codes)
        scenes.append(Scene(names[background[row]], cells))
    for (row, cell), thing in texts.items():
        scenes[row] = scenes[row].place(cell, thing)
    return scenes


def _texts(
    images: Pixels, background: Codes, template: Codes, signs: NDArray[np.bool_], atlas: Atlas
) -> dict[tuple[int, int], SceneObject]:
    """Signs with their letters, by picture and cell; NOTHING where the pixels around the letters are off."""
    world, plate = atlas.world, atlas.plate
    rows, cells = np.nonzero(signs)
    if not len(rows):
        return {}
    patches = split_cells(images, world)[rows, cells]
    expected = atlas.sprites[background[rows], template[rows, cells]].copy()
    table = atlas.letters[template[rows, cells] - 1].astype(np.float32)
    letters = np.zeros((len(rows), world.text_length), np.int64)
    for slot in range(world.text_length):
        ink = patches[:, plate.lines, plate.columns(slot)].astype(np.float32)
        letters[:, slot] = ((ink[:, None] - table) ** 2).sum((2, 3, 4)).argmin(1)
        expected[:, plate.lines, plate.columns(slot)] = table[np.arange(len(rows)), letters[:, slot]]
    errors = np.sqrt(((patches.astype(np.float32) - expected) ** 2).mean((1, 2, 3))).tolist()
    colours = list(world.colours)
    found = {}
    for row, cell, codes, error in zip(rows.tolist(), cells.tolist(), letters.tolist(), errors, strict=True):
        text = "".join((*world.letters, "")[code] for code in codes)
        sign = world.sign(text, colours[template[row, cell] - 1])
        found[row, cell] = sign if error <= SIGN_LIMIT else NOTHING
    return found


def readable(scene: Scene) -> bool:
    """Whether background and every cell were recognised."""
    return scene.background != UNREADABLE and all(thing is None or thing.kind != UNREADABLE for thing in scene.cells)
