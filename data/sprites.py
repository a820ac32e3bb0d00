"""Shapes, textures and letters as coverage maps: the drawing behind every cell.

Shapes are inequalities on the square [-1, 1]^2 (x to the right, y down), sampled `OVERSAMPLE` times per pixel and side
and averaged, which anti-aliases them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

OVERSAMPLE = 8
SHADE = 0.35
"""Brightness of the dark part of a texture relative to the object's colour."""

_GLYPHS = {
    "a": "01110 10001 10001 11111 10001 10001 10001",
    "b": "11110 10001 10001 11110 10001 10001 11110",
    "c": "01111 10000 10000 10000 10000 10000 01111",
    "d": "11110 10001 10001 10001 10001 10001 11110",
    "e": "11111 10000 10000 11110 10000 10000 11111",
    "f": "11111 10000 10000 11110 10000 10000 10000",
    "g": "01111 10000 10000 10011 10001 10001 01111",
    "h": "10001 10001 10001 11111 10001 10001 10001",
    "i": "11111 00100 00100 00100 00100 00100 11111",
    "j": "00111 00010 00010 00010 00010 10010 01100",
    "k": "10001 10010 10100 11000 10100 10010 10001",
    "l": "10000 10000 10000 10000 10000 10000 11111",
    "m": "10001 11011 10101 10101 10001 10001 10001",
    "n": "10001 11001 11001 10101 10011 10011 10001",
    "o": "01110 10001 10001 10001 10001 10001 01110",
    "p": "11110 10001 10001 11110 10000 10000 10000",
    "q": "01110 10001 10001 10001 10101 10010 01101",
    "r": "11110 10001 10001 11110 10100 10010 10001",
    "s": "01111 10000 10000 01110 00001 00001 11110",
    "t": "11111 00100 00100 00100 00100 00100 00100",
    "u": "10001 10001 10001 10001 10001 10001 01110",
    "v": "10001 10001 10001 10001 01010 01010 00100",
    "w": "10001 10001 10001 10101 10101 11011 10001",
    "x": "10001 10001 01010 00100 01010 10001 10001",
    "y": "10001 10001 01010 00100 00100 00100 00100",
    "z": "11111 00001 00010 00100 01000 10000 11111",
}


def _star(x: Floats, y: Floats) -> Mask:
    angle = np.arctan2(x, -y)
    sector = np.abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    # The edge between an outer point (radius 1) and an inner one (radius 0.42), in polar form.
    inner, half = 0.42, np.pi / 5
    edge = inner * np.sin(half) / (np.sin(half - sector) * inner + np.sin(sector))
    return np.hypot(x, y) <= edge


def _heart(x: Floats, y: Floats) -> Mask:
    a, b = 1.15 * x, -1.2 * y + 0.1
    return (a**2 + b**2 - 1) ** 3 - a**2 * b**3 <= 0


def _house(x: Floats, y: Floats) -> Mask:
    roof = (y <= 0) & (np.abs(x) <= y + 1)
    door = (np.abs(x) <= 0.25) & (y >= 0.35)
    return roof | ((y > 0) & (np.abs(x) <= 0.75) & ~door)


def _tree(x: Floats, y: Floats) -> Mask:
    crown = (x**2 + (y + 0.35) ** 2) <= 0.42
    return crown | ((np.abs(x) <= 0.18) & (y > 0))


def _cup(x: Floats, y: Floats) -> Mask:
    bowl = (np.abs(x + 0.25) <= 0.65) & (y >= -0.8) & (y <= 0.8)
    handle = np.abs(np.hypot(x - 0.45, y) - 0.4) <= 0.14
    return bowl | (handle & (x >= 0.4))


def _arrow(x: Floats, y: Floats) -> Mask:
    head = (x >= 0) & (np.abs(y) <= 1 - x)
    return head | ((x < 0) & (np.abs(y) <= 0.35))


def _moon(x: Floats, y: Floats) -> Mask:
    return (x**2 + y**2 <= 1) & (np.hypot(x - 0.5, y) > 0.85)


SHAPES: dict[str, Callable[[Floats, Floats], Mask]] = {
    "ball": lambda x, y: x**2 + y**2 <= 1,
    "frame": lambda x, y: np.maximum(np.abs(x), np.abs(y)) >= 0.6,
    "cross": lambda x, y: np.minimum(np.abs(x), np.abs(y)) <= 0.3,
    "cone": lambda x, y: np.abs(x) <= (y + 1) / 2,
    "box": lambda x, y: np.maximum(np.abs(x), np.abs(y)) <= 0.95,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.78) <= 0.22,
    "star": _star,
    "moon": _moon,
    "heart": _heart,
    "tree": _tree,
    "house": _house,
    "cup": _cup,
    "arrow": _arrow,
    "diamond": lambda x, y: np.abs(x) + np.abs(y) <= 1,
}

TEXTURES: dict[str, Callable[[Floats, Floats, float], Floats]] = {
    # (x, y in pixels of the cell, period in pixels) -> weight of the dark tone; shiny is light where negative.
    "plain": lambda x, y, period: np.zeros_like(x),
    "striped": lambda x, y, period: ((y % period) < period / 2).astype(np.float32),
    "dotted": lambda x, y, period: (np.hypot(x % period - period / 2, y % period - period / 2) < period * 0.33).astype(
        np.float32
    ),
    "checked": lambda x, y, period: (((x % period) < period / 2) ^ ((y % period) < period / 2)).astype(np.float32),
    "shiny": lambda x, y, period: (0.8 * np.clip((x + y) / period - 4, -1, 1)).astype(np.float32),
}


def coordinates(cell: int) -> tuple[Floats, Floats]:
    """Sample positions (cell * OVERSAMPLE)^2 in pixels from the cell's top left corner: x and y."""
    steps = np.arange(0.5, cell * OVERSAMPLE, dtype=np.float32) / np.float32(OVERSAMPLE)
    y, x = np.meshgrid(steps, steps, indexing="ij")
    return np.asarray(x, np.float32), np.asarray(y, np.float32)


def shrink(samples: Floats, cell: int) -> Floats:
    """Mean of the samples of each pixel: (cell * OVERSAMPLE, ..) -> (cell, cell, ...)."""
    blocks = samples.reshape(cell, OVERSAMPLE, cell, OVERSAMPLE, *samples.shape[2:])
    return np.asarray(blocks.mean(axis=(1, 3)), np.float32)


@functools.cache
def layers(kind: str, material: str, size: int, cell: int) -> tuple[Floats, Floats, Floats]:
    """Coverage, and coverage times the weight of the dark and of the light tone: maps (cell, cell, 1) in 0..1."""
    x, y = coordinates(cell)
    half = cell / 2
    u, v = (x - half) / (size / 2), (y - half) / (size / 2)
    inside = (np.maximum(np.abs(u), np.abs(v)) <= 1) & SHAPES[kind](u, v)
    cover = inside[..., None].astype(np.float32)
    weight = TEXTURES[material](x, y, 6.0 if cell < 32 else 8.0)[..., None]
    dark, light = np.clip(weight, 0, 1) * cover, np.clip(-weight, 0, 1) * cover
    return shrink(cover, cell), shrink(dark, cell), shrink(light, cell)


def drawn(kind: str, material: str, colour: tuple[int, int, int], size: int, cell: int) -> tuple[Floats, Floats]:
    """One object: premultiplied colour (cell, cell, 3) in 0..255 and coverage (cell, cell, 1) in 0..1."""
    cover, dark, light = layers(kind, material, size, cell)
    base = np.asarray(colour, np.float32)
    return np.asarray(base * (cover + (SHADE - 1) * dark) + (255 - base) * light, np.float32), cover


def glyph(letter: str, width: int, height: int) -> Floats:
    """Ink of a letter (height, width) in 0..1; a blank for the empty string."""
    if not letter:
        return np.zeros((height, width), np.float32)
    rows = [[255 * int(bit) for bit in row] for row in _GLYPHS[letter].split()]
    picture = Image.fromarray(np.asarray(rows, np.uint8))
    ink = np.asarray(picture.resize((width, height), Image.Resampling.BOX), np.float32)
    return np.asarray(ink / 255, np.float32)
