"""Drafts of turns: for an edit type and the scene at hand, a random request and the words that ask for it.

Every function returns None when the scene has no room for the edit or its objects cannot be told apart in words.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from data.constraints import PLACING, governed
from data.edits import Request
from data.naming import Focus, View, beside, group, is_sign, name, single
from data.phrases import NUMBERS
from data.sampling import random_text, random_thing
from data.scenes import SceneObject
from data.schema import EditType
from data.wordings import spaced


class Draft(NamedTuple):
    """A request, the key of its phrasing, the fields of the phrase and the names for the published form."""

    request: Request
    key: str
    fields: dict[str, str]
    names: dict[int, str] = {}  # noqa: RUF012
    new: str = ""
    old_text: str = ""
    attribute: str = ""
    """What {of} speaks of: the draft's objects are named by `it`, which a reference may replace."""


def propose(edit_type: EditType, view: View, rng: random.Random, focus: Focus | None = None) -> Draft | None:
    """A draft of one edit type; with a focus it acts on those objects, or, for an addition, beside them."""
    return _PROPOSE[edit_type](view, rng, focus)


def _add(view: View, rng: random.Random, focus: Focus | None) -> Draft | None:
    free = view.scene.free()
    if not free or (focus and len(focus.cells) > 1):
        return None
    thing, words = new_thing(view, rng)
    place, anchor, side, where, names = free[0], -1, "", "", {}
    roll = 1.0 if any(rule.family == "row" for rule in view.rules) else rng.random()
    if focus or roll < 0.6:
        found = beside(view, rng, -1, focus)
        if found is None:
            return None
        place, anchor, side, where, full = found
        names = {anchor: full}
    elif roll < 0.85:
        place = rng.choice(free)
        where = f"at {view.world.places[place]}"
    request = Request(EditType.SUBJECT_ADD, place=place, thing=thing, anchor=anchor, side=side)
    return Draft(request, EditType.SUBJECT_ADD, {"thing": words, "where": where}, names, words)


def new_thing(view: View, rng: random.Random) -> tuple[SceneObject, str]:
    """A random new object and its description, which leaves out defaults and what rules will decide."""
    world = view.world
    thing = random_thing(rng, world)
    material, size = world.materials[0], next(iter(world.sizes))
    hidden = governed(view.rules, thing.kind, new=True)
    thing = thing._replace(material=material) if "material" in hidden else thing
    thing = thing._replace(size=size) if "size" in hidden else thing
    thing = thing._replace(colour=world.default_colour) if "colour" in hidden else thing
    words = [thing.kind] if "colour" in hidden else [thing.colour, thing.kind]
    words = [thing.material] * (thing.material != material) + words
    return thing, " ".join([thing.size] * (thing.size != size) + words)


def _remove(view: View, rng: random.Random, focus: Focus | None) -> Draft | None:
    found = single(view, rng, True, focus)
    if found is None or len(view.scene.occupied()) <= len(found[0].cells):
        return None
    chosen, phrase = found
    request = Request(EditType.SUBJECT_REMOVE, chosen.cells)
    return Draft(request, EditType.SUBJECT_REMOVE, {"it": chosen.words}, {chosen.cells[0]: phrase})


def _replace(view: View, rng: random.Random, focus: Focus | None) -> Draft | None:
    found = single(view, rng, False, focus)
    if found is None:
        return None
    return _altered(view, rng, found, EditType.SUBJECT_REPLACE, view.world.kinds, 0)


def _colour(view: View, rng: random.Random, focus: Focus | None) -> Draft | None:
    found = (None if focus else group(view, rng)) or single(view, rng, True, focus)
    return None if found is None else _altered(view, rng, found, EditType.COLOR_ALTER, tuple(view.world.colours), 1)


def _material(view: View, rng: random.Random, focus: Focus | None) -> Draft | None:
    found = (None if focus else group(view, rng)) or single(view, rng, False, focus)
    return None if found is None else _altered(view, rng, found, EditType.MATERIAL_ALTER, view.world.materials, 2)


def _altered(
    view: View, rng: random.Random, found: tuple[Focus, str], edit_type: EditType, values: tuple[str, ...], field: int
) -> Draft | None:
    """A draft that sets one attribute (by its position in SceneObject) to a value that some of the objects lack."""
    chosen, phrase = found
    free = [view.scene.cells[cell] for cell in chosen.cells if cell not in view.fixed]
    options = [value for value in values if all(thing is not None and thing[field] != value for thing in free)]
    if not options:
        return None
    value = rng.choice(options)
    request = Request(edit_type, chosen.cells, value=value)
    attribute = {1: "color", 2: "material"}.get(field, "")
    return Draft(
        request, edit_type, {"it": chosen.words, "value": value}, {chosen.cells[0]: phrase}, attribute=attribute
    )


def _text(view: View, rng: random.Random, focus: Focus | None) -> Draft | None:
    text = random_text(rng, view.world)
    signs = [cell for cell in view.scene.occupied() if is_sign(view, cell) and cell not in view.fixed]
    free = view.scene.free()
    placed = any(rule.family in PLACING for rule in view.rules)
    if len(signs) > 1 or focus or not (signs or (free and not placed)):
        return None
    if not signs:
        request = Request(EditType.TEXT_CHANGE, place=free[0], value=text, thing=view.world.sign(text))
        return Draft(request, EditType.TEXT_CHANGE, {"text": spaced(text)})
    old = view.scene.cells[signs[0]]
    phrase = name(view, (signs[0],), rng)
    if old is None or phrase is None or old.text == text:
        return None
    request = Request(EditType.TEXT_CHANGE, (signs[0],), value=text)
    fields = {"it": f"the {phrase}", "text": spaced(text), "old": spaced(old.text)}
    return Draft(request, "text_replace", fields, {signs[0]: phrase}, old_text=old.text)


def _position(view: View, rng: random.Random, focus: Focus | None) -> Draft | None:
    found = single(view, rng, True, focus)
    if found is None or len(found[0].cells) > 1:
        return None
    chosen, phrase = found
    target = beside(view, rng, chosen.cells[0], None)
    if target is None:
        return None
    place, anchor, side, words, full = target
    request = Request(EditType.POSITION_CHANGE, chosen.cells, place, anchor=anchor, side=side)
    names = {chosen.cells[0]: phrase, anchor: full}
    fields = {"it": chosen.words, "beside": words}
    return Draft(request, EditType.POSITION_CHANGE, fields, names, attribute="position")


def _count(view: View, rng: random.Random, focus: Focus | None) -> Draft | None:
    scene = view.scene
    cells = list(focus.cells) if focus else [c for c in scene.occupied() if not is_sign(view, c)]
    rng.shuffle(cells)
    for cell in cells:
        same = tuple(other for other, thing in enumerate(scene.cells) if thing == scene.cells[cell])
        phrase = name(view, same, rng)
        counts = [
            n for n in range(1, view.world.max_count + 1) if 0 < abs(n - len(same)) <= len(scene.free()) + len(same)
        ]
        counts = [n for n in counts if n - len(same) <= len(scene.free())]
        unclear = (
            phrase is None or set(same) & view.fixed or is_sign(view, cell) or (focus and set(focus.cells) != set(same))
        )
        if unclear or not counts or phrase is None:
            continue
        count = rng.choice(counts)
        request = Request(EditType.COUNT_CHANGE, same, number=count)
        fields = {"it": focus.words if focus else f"the {phrase}", "n": NUMBERS[count]}
        return Draft(request, EditType.COUNT_CHANGE, fields, {same[0]: phrase}, attribute="count")
    return None


def _background(view: View, rng: random.Random, focus: Focus | None) -> Draft | None:
    if focus:
        return None
    value = rng.choice([name for name in view.world.backgrounds if name != view.scene.background])
    return Draft(Request(EditType.BACKGROUND_CHANGE, value=value), EditType.BACKGROUND_CHANGE, {"value": value})


_PROPOSE = {
    EditType.SUBJECT_ADD: _add,
    EditType.SUBJECT_REMOVE: _remove,
    EditType.SUBJECT_REPLACE: _replace,
    EditType.COLOR_ALTER: _colour,
    EditType.MATERIAL_ALTER: _material,
    EditType.TEXT_CHANGE: _text,
    EditType.POSITION_CHANGE: _position,
    EditType.COUNT_CHANGE: _count,
    EditType.BACKGROUND_CHANGE: _background,
}
