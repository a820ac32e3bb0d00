"""The rendered world: what a scene can hold, as plain values without pixels.

A scene is a grid of cells in reading order. A cell is empty or holds one object: a thing (kind, colour, material, size)
or a sign (colour and letters). All text made from a scene is lower-case words, so that a small closed vocabulary
suffices.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from typing import NamedTuple

from data.errors import UserError

SIGN = "sign"
UNREADABLE = "unreadable"
"""Kind and background name that reading back gives to pixels that resemble nothing in the world."""


class SceneObject(NamedTuple):
    """What one cell holds. A sign has letters in `text`, is always of the first material and size."""

    kind: str
    colour: str
    material: str
    size: str
    text: str = ""


class Scene(NamedTuple):
    """A background and the cells in reading order (None = empty)."""

    background: str
    cells: tuple[SceneObject | None, ...]

    def place(self, cell: int, thing: SceneObject | None) -> Scene:
        """The same scene with one cell replaced."""
        return Scene(self.background, (*self.cells[:cell], thing, *self.cells[cell + 1 :]))

    def occupied(self) -> list[int]:
        """Cells that hold something, in reading order."""
        return [index for index, thing in enumerate(self.cells) if thing is not None]

    def free(self) -> list[int]:
        """Empty cells in reading order."""
        return [index for index, thing in enumerate(self.cells) if thing is None]


@dataclass(frozen=True)
class World:
    """Everything that can appear in a scene, and its geometry in pixels.

    The first material and the first size are the defaults of an object whose description does not name them; the
    default colour is that of a new sign. `kinds` leaves out the sign, which every world has. A world that
    widens another shows and says all that the other does, and more.
    """

    name: str
    image_size: int
    row_words: tuple[str, ...]
    column_words: tuple[str, ...]
    kinds: tuple[str, ...]
    colours: dict[str, tuple[int, int, int]]
    materials: tuple[str, ...]
    sizes: dict[str, int]
    backgrounds: dict[str, tuple[int, int, int]]
    letters: str
    text_length: int
    background_texture: float = 0.0
    max_count: int = 3
    default_colour: str = "white"
    widens: World | None = None
    places: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        words = tuple(f"{row} {column}" for row in self.row_words for column in self.column_words)
        object.__setattr__(self, "places", words)

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def rows(self) -> int:
        return len(self.row_words)

    @property
    def columns(self) -> int:
        return len(self.column_words)

    @property
    def cells(self) -> int:
        return self.rows * self.columns

    @property
    def cell_size(self) -> int:
        """Side of a square cell in pixels."""
        return self.image_size // self.rows

    def neighbour(self, cell: int, relation: str) -> int | None:
        """The cell beside `cell` (`left`, `right`, `above`, `below`), or None beyond the edge."""
        row, column = divmod(cell, self.columns)
        down, across = RELATIONS[relation]
        row, column = row + down, column + across
        inside = 0 <= row < self.rows and 0 <= column < self.columns
        return row * self.columns + column if inside else None

    def mirrored(self, cell: int) -> int:
        """The cell at the same height on the other side of the picture."""
        row, column = divmod(cell, self.columns)
        return row * self.columns + self.columns - 1 - column

    def sign(self, text: str, colour: str | None = None) -> SceneObject:
        """A sign with the world's defaults."""
        return SceneObject(SIGN, colour or self.default_colour, self.materials[0], next(iter(self.sizes)), text)


RELATIONS = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}
"""Relation of the published grammar -> (rows down, columns right)."""

_COLOURS = {
    "red": (222, 38, 38),
    "green": (30, 165, 50),
    "blue": (40, 70, 225),
    "yellow": (246, 214, 30),
    "purple": (150, 40, 175),
    "white": (252, 252, 252),
    "orange": (250, 135, 15),
    "pink": (255, 140, 190),
    "brown": (120, 65, 25),
    "cyan": (20, 205, 215),
}
_BACKGROUNDS = {
    "sand": (206, 182, 140),
    "sky": (150, 196, 236),
    "night": (40, 40, 80),
    "stone": (122, 122, 122),
    "meadow": (140, 190, 110),
    "clay": (176, 110, 84),
    "ice": (168, 214, 222),
    "dusk": (92, 72, 112),
}


def _first(table: dict[str, tuple[int, int, int]], count: int) -> dict[str, tuple[int, int, int]]:
    return dict(list(table.items())[:count])


TINY = World(
    name="tiny",
    image_size=48,
    row_words=("top", "middle", "bottom"),
    column_words=("left", "center", "right"),
    kinds=("ball", "frame", "cross", "cone"),
    colours=_first(_COLOURS, 6),
    materials=("plain", "striped"),
    sizes={"large": 14, "small": 10},
    backgrounds=_first(_BACKGROUNDS, 4),
    letters="behkotxz",
    text_length=2,
)
TINY_WIDE = dataclasses.replace(
    TINY,
    name="tiny-wide",
    kinds=(*TINY.kinds, "box", "ring", "star", "moon", "heart", "diamond"),
    colours=_COLOURS,
    widens=TINY,
)
SMALL = World(
    name="small",
    image_size=128,
    row_words=("top", "upper", "lower", "bottom"),
    column_words=("left", "midleft", "midright", "right"),
    kinds=(
        *("ball", "frame", "cross", "cone", "box", "ring", "star", "moon"),
        *("heart", "tree", "house", "cup", "arrow", "diamond"),
    ),
    colours=_COLOURS,
    materials=("plain", "striped", "dotted", "checked", "shiny"),
    sizes={"large": 28, "medium": 22, "small": 16},
    backgrounds=_BACKGROUNDS,
    letters="abcdefghijklmnopqrstuvwxyz",
    text_length=3,
    background_texture=0.08,
    max_count=4,
)
WORLDS = {"smoke": TINY, "tiny": TINY, "tiny-wide": TINY_WIDE, "small": SMALL}


def world_named(name: str) -> World:
    """The world of that name."""
    if name not in WORLDS:
        raise UserError(f"There is no world named {name!r}", f"Choose one of: {', '.join(WORLDS)}")
    return WORLDS[name]


def wider_than(world: World) -> World:
    """The world that widens this one."""
    for other in WORLDS.values():
        if other.widens == world:
            return other
    raise UserError(f"There is no world wider than {world.name}", "Set base.wide to 0")


@functools.cache
def describe(thing: SceneObject) -> str:
    """All of an object as words: `small striped red ball`, `white sign b k`."""
    if thing.kind == SIGN:
        return " ".join((thing.colour, SIGN, *thing.text))
    return f"{thing.size} {thing.material} {thing.colour} {thing.kind}"


def parse_object(words: str, world: World) -> SceneObject:
    """The object of which `describe` gives these words; ValueError for any others."""
    parts = str(words).split()
    if len(parts) >= 2 and parts[1] == SIGN:
        text = "".join(parts[2:])
        if (
            parts[0] not in world.colours
            or not 1 <= len(text) <= world.text_length
            or not set(text) <= {*world.letters}
        ):
            raise ValueError(f"not a sign of the world {world.name}: {words!r}")
        return world.sign(text, parts[0])
    if len(parts) != 4:
        raise ValueError(f"not an object of the world: {words!r}")
    size, material, colour, kind = parts
    known = kind in world.kinds and colour in world.colours and material in world.materials and size in world.sizes
    if not known:
        raise ValueError(f"not an object of the world {world.name}: {words!r}")
    return SceneObject(kind, colour, material, size)


def scene_to_dict(scene: Scene, world: World) -> dict[str, str]:
    """A scene as place words -> object words, plus `background`: short and readable in JSON."""
    things = {world.places[cell]: describe(thing) for cell, thing in enumerate(scene.cells) if thing is not None}
    return {"background": scene.background, **things}


def scene_from_dict(data: dict[str, str], world: World) -> Scene:
    """The inverse of `scene_to_dict`; ValueError when a word is unknown."""
    unknown = set(data) - set(world.places) - {"background"}
    if unknown or str(data.get("background")) not in world.backgrounds:
        raise ValueError(f"not a scene of the world {world.name}: {sorted(unknown) or data.get('background')}")
    cells = (data.get(place) for place in world.places)
    return Scene(data["background"], tuple(None if words is None else parse_object(words, world) for words in cells))
