"""The nine edit types as pure functions on scenes, and their published one-line form.

A `Request` is what an instruction asks for once its words are resolved to cells. Where an instruction leaves something
open, the world's conventions decide, so that every request has exactly one result: an attribute not named is the
world's default for a new object and unchanged for an old one; a thing without a place, a new sign and further copies go
to the first free cell in reading order; fewer copies means that the last ones in reading order go.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from data.scenes import SIGN, Scene, SceneObject, World
from data.schema import EditType

ATTRIBUTES = ("kind", "colour", "material", "size", "text")


class Request(NamedTuple):
    """One edit. `cells`: the objects it acts on; `place`: where something new or moved goes; `value`: what they become.

    `value` is a colour, material, kind, background or text by edit type. `thing` is the new object of an addition.
    `anchor` and `side` say how a place was named, if by another object.
    """

    type: EditType
    cells: tuple[int, ...] = ()
    place: int = -1
    value: str = ""
    thing: SceneObject | None = None
    number: int = 0
    anchor: int = -1
    side: str = ""


class Effect(NamedTuple):
    """What an edit did: the new scene, and cells by what happened to them.

    `edited` hold objects that were added or changed, `added` the new ones among them, `removed` were emptied. `origin`
    pairs a cell with the cell whose object it continues or copies: what was not asked for must be as there.
    """

    scene: Scene
    edited: tuple[int, ...] = ()
    added: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()
    origin: tuple[tuple[int, int], ...] = ()


def apply(scene: Scene, request: Request) -> Effect:
    """The result of a request on a scene; ValueError when it does not fit (a cell taken, an object missing)."""
    if any(scene.cells[cell] is None for cell in request.cells):
        raise ValueError("the request names an empty cell")
    return _APPLY[request.type](scene, request)


def _add(scene: Scene, request: Request) -> Effect:
    if request.thing is None or scene.cells[request.place] is not None:
        raise ValueError("nothing to add, or no room for it")
    return Effect(scene.place(request.place, request.thing), edited=(request.place,), added=(request.place,))


def _remove(scene: Scene, request: Request) -> Effect:
    for cell in request.cells:
        scene = scene.place(cell, None)
    return Effect(scene, removed=request.cells)


def _alter(scene: Scene, request: Request) -> Effect:
    return alter(scene, request.cells, ALTERED[request.type], request.value)


def alter(scene: Scene, cells: tuple[int, ...], attribute: str, value: str) -> Effect:
    """One attribute of some objects set to a value."""
    for cell in cells:
        thing = scene.cells[cell]
        assert thing is not None
        scene = scene.place(cell, thing._replace(**{attribute: value}))
    return Effect(scene, edited=cells, origin=tuple((cell, cell) for cell in cells))


def _text(scene: Scene, request: Request) -> Effect:
    return alter(scene, request.cells, "text", request.value) if request.cells else _add(scene, request)


def _move(scene: Scene, request: Request) -> Effect:
    (start,) = request.cells
    if scene.cells[request.place] is not None:
        raise ValueError("no room to move to")
    moved = scene.place(request.place, scene.cells[start]).place(start, None)
    return Effect(moved, edited=(request.place,), removed=(start,), origin=((request.place, start),))


def _count(scene: Scene, request: Request) -> Effect:
    missing = request.number - len(request.cells)
    if missing <= 0:
        return _remove(scene, request._replace(cells=request.cells[request.number :]))
    free = tuple(scene.free()[:missing])
    if len(free) < missing:
        raise ValueError("no room for more")
    pattern = request.cells[0]
    for cell in free:
        scene = scene.place(cell, scene.cells[pattern])
    origin = (*((cell, cell) for cell in request.cells), *((cell, pattern) for cell in free))
    return Effect(scene, edited=(*request.cells, *free), added=free, origin=origin)


def _background(scene: Scene, request: Request) -> Effect:
    return Effect(Scene(request.value, scene.cells))


ALTERED = {
    EditType.SUBJECT_REPLACE: "kind",
    EditType.COLOR_ALTER: "colour",
    EditType.MATERIAL_ALTER: "material",
    EditType.TEXT_CHANGE: "text",
}
"""The attribute that an edit type sets."""

_APPLY = {
    EditType.SUBJECT_ADD: _add,
    EditType.SUBJECT_REMOVE: _remove,
    EditType.SUBJECT_REPLACE: _alter,
    EditType.COLOR_ALTER: _alter,
    EditType.MATERIAL_ALTER: _alter,
    EditType.TEXT_CHANGE: _text,
    EditType.POSITION_CHANGE: _move,
    EditType.COUNT_CHANGE: _count,
    EditType.BACKGROUND_CHANGE: _background,
}


@functools.lru_cache(maxsize=65_536)
def noun(thing: SceneObject, world: World) -> str:
    """A short noun phrase: default size and material go without saying (`red ball`, `small striped red ball`)."""
    words = [thing.colour, thing.kind]
    if thing.kind != SIGN:
        words = [thing.material] * (thing.material != world.materials[0]) + words
        words = [thing.size] * (thing.size != next(iter(world.sizes))) + words
    return " ".join(words)


def formatted(request: Request, names: dict[int, str], new: str = "", old_text: str = "") -> str:
    """The published form of a request. `names`: noun phrases by cell; `new`: that of an added object."""
    first = names.get(request.cells[0], "") if request.cells else ""
    side = f"[{request.side}] of [{names.get(request.anchor, '')}]"
    match request.type:
        case EditType.SUBJECT_ADD:
            return f"Add [{new}]" + (f" on the {side}" if request.side else "")
        case EditType.SUBJECT_REMOVE:
            return f"Remove [{first}]"
        case EditType.SUBJECT_REPLACE:
            return f"Replace [{first}] with [{request.value}]"
        case EditType.COLOR_ALTER:
            return f"Change the color of [{first}] to [{request.value}]"
        case EditType.MATERIAL_ALTER:
            return f"Change the material of [{first}] to [{request.value}]"
        case EditType.TEXT_CHANGE if request.cells:
            return f"Replace the text '[{old_text}]' on [{first}] with '[{request.value}]'"
        case EditType.TEXT_CHANGE:
            return f"Add text '[{request.value}]' on the image"
        case EditType.POSITION_CHANGE:
            return f"Change the position of [{first}] to {side}"
        case EditType.COUNT_CHANGE:
            return f"Change the count of [{first}] to [{request.number}]"
    return f"Change the background to [{request.value}]"
