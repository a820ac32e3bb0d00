"""What is known exactly about a turn: its operative intent as words, and the checks its metrics consist of."""

from __future__ import annotations

from typing import NamedTuple

from data.constraints import Duty, Rule
from data.edits import ALTERED, ATTRIBUTES, Effect, Request
from data.scenes import SIGN, Scene, SceneObject, World, describe
from data.schema import Check, EditType, Kept
from data.wordings import spaced

_SPOKEN = ("size", "material", "colour", "kind", "text")
"""Order of attributes in words."""
_SIDES = {"left": "left of", "right": "right of", "above": "above", "below": "below"}


class Outcome(NamedTuple):
    """A turn as it happened: scene before, request, effect under the rules, duties made and rules that mattered."""

    before: Scene
    request: Request
    effect: Effect
    duties: tuple[Duty, ...] = ()
    binding: tuple[Rule, ...] = ()
    restored: bool = False
    """Whether the turn restores an earlier scene, so that everything it touches is asked for."""
    said: dict[int, str] = {}  # noqa: RUF012
    """Noun phrases that the turn itself used, by cell of the scene before."""


def intent(outcome: Outcome, world: World) -> str:
    """The self-contained edit, with every rule and reference resolved and every place said.

    What the turn calls by name keeps its name, and its place is said right after it: finding an object and what stands
    beside it are steps of their own.
    """
    request, effect, before = outcome.request, outcome.effect, outcome.before
    if effect.scene == before:
        return "keep everything"
    match request.type:
        case EditType.BACKGROUND_CHANGE:
            return f"set background to {effect.scene.background}"
        case EditType.POSITION_CHANGE:
            return _moved(outcome, world)
        case EditType.COUNT_CHANGE if effect.added:
            return _copied(outcome, world)
        case EditType.SUBJECT_REMOVE | EditType.COUNT_CHANGE:
            return _removed(before, effect.removed, world, outcome.said.get(request.cells[0]))
        case EditType.SUBJECT_ADD | EditType.TEXT_CHANGE if effect.added:
            thing, places = describe(_thing(effect.scene, effect.added[0])), _places(effect.added, world)
            words = f"add {thing} {_beside(outcome, world)}at {places}"
            return f"{words} and {_removed(before, effect.removed, world)}" if effect.removed else words
    subject = _called(outcome, effect.edited[0])
    return f"change {subject} at {_places(effect.edited, world)} to {_new_look(outcome, ALTERED[request.type])}"


def _called(outcome: Outcome, cell: int) -> str:
    """The subject as the turn calls it, else by the kind of what is in the cell."""
    return outcome.said.get(outcome.request.cells[0]) or _thing(outcome.before, cell).kind


def _beside(outcome: Outcome, world: World) -> str:
    """What the turn names to say where: `left of red ball at top right `; empty when it names nothing."""
    anchor = outcome.request.anchor
    if anchor not in outcome.said:
        return ""
    return f"{_SIDES[outcome.request.side]} {outcome.said[anchor]} at {world.places[anchor]} "


def _moved(outcome: Outcome, world: World) -> str:
    (start,), end = outcome.request.cells, outcome.effect.edited[0]
    verb, link = ("move", "from") if outcome.effect.removed else ("copy", "at")
    from_place = f"{verb} {_called(outcome, start)} {link} {world.places[start]}"
    words = f"{from_place} {_beside(outcome, world)}to {world.places[end]}"
    look = _new_look(outcome, "")
    return f"{words} in {look}" if look else words


def _copied(outcome: Outcome, world: World) -> str:
    effect = outcome.effect
    look = _new_look(outcome, "")
    old = tuple(cell for cell in effect.edited if cell not in effect.added) if look else ()
    sources = old or tuple(source for _, source in effect.origin[:1]) or outcome.request.cells[:1]
    words = f"copy {_called(outcome, sources[0])} at {_places(sources, world)} to {_places(effect.added, world)}"
    return f"{words} in {look}" if look else words


def _removed(before: Scene, cells: tuple[int, ...], world: World, said: str | None = None) -> str:
    return f"remove {said or _thing(before, cells[0]).kind} at {_places(cells, world)}"


def _new_look(outcome: Outcome, asked: str) -> str:
    """The attributes that the request or a rule sets on the edited objects, as words."""
    effect = outcome.effect
    names = {asked} | {name for cell, name in outcome.duties if cell in effect.edited[:1]}
    thing = _thing(effect.scene, effect.edited[0])
    return " ".join(
        spaced(value) if name == "text" else value
        for name in _SPOKEN
        if name in names and (value := getattr(thing, name))
    )


def _places(cells: tuple[int, ...], world: World) -> str:
    return " and ".join(world.places[cell] for cell in cells)


def _thing(scene: Scene, cell: int) -> SceneObject:
    thing = scene.cells[cell]
    if thing is None:
        raise ValueError(f"cell {cell} is empty")
    return thing


def instruction_checks(outcome: Outcome) -> tuple[Check, ...]:
    """IF: what the request itself asks for, whatever rules add to it. Empty when a rule overrides it entirely."""
    request, effect = outcome.request, outcome.effect
    if effect.scene == outcome.before:
        return ()
    if request.type == EditType.BACKGROUND_CHANGE:
        return (Check("IF", -1, "background", effect.scene.background),)
    if request.type == EditType.COUNT_CHANGE:
        kind = _thing(outcome.before, request.cells[0]).kind if not outcome.restored else _any_kind(outcome)
        count = sum(thing is not None and thing.kind == kind for thing in effect.scene.cells)
        return (Check("IF", -1, "count", f"{count} {kind}"),)
    if outcome.restored:
        return tuple(
            Check("IF", *entry) for cell in (*effect.edited, *effect.removed) for entry in look(effect.scene, cell)
        )
    emptied = effect.removed if request.type in (EditType.SUBJECT_REMOVE, EditType.POSITION_CHANGE) else ()
    gone = tuple(Check("IF", cell, "kind", "") for cell in emptied)
    return gone + tuple(
        Check("IF", cell, name, getattr(_thing(effect.scene, cell), name)) for cell, name in asked(outcome)
    )


def _any_kind(outcome: Outcome) -> str:
    cells = outcome.effect.edited or outcome.effect.removed
    return (outcome.effect.scene.cells[cells[0]] or _thing(outcome.before, cells[0])).kind


def asked(outcome: Outcome) -> tuple[Duty, ...]:
    """(cell, attribute) pairs that the request names and no rule decides."""
    request, effect = outcome.request, outcome.effect
    if request.type == EditType.SUBJECT_REMOVE or not effect.edited:
        return ()
    names: tuple[str, ...] = ("kind",)
    cells = effect.edited if effect.origin else effect.edited[:1]
    if effect.added and request.type in (EditType.SUBJECT_ADD, EditType.TEXT_CHANGE):
        names = ATTRIBUTES
        cells = effect.added[:1]
    elif request.type in ALTERED:
        names = tuple(dict.fromkeys(("kind", ALTERED[request.type])))
    # A rule about the row decides only where a thing goes: it stays asked for.
    ruled = set(outcome.duties) - ({(cells[0], "kind")} if effect.added else set())
    return tuple(
        (cell, name)
        for cell in cells
        for name in names
        if (cell, name) not in ruled and _has(_thing(effect.scene, cell), name)
    )


def _has(thing: SceneObject, name: str) -> bool:
    """Whether the attribute means anything: only signs have text."""
    return name != "text" or thing.kind == SIGN


def kept_attributes(outcome: Outcome) -> tuple[Kept, ...]:
    """CC within edited objects: attributes that neither the request nor a rule sets stay those of the origin."""
    if outcome.restored:
        return ()
    named = {*asked(outcome), *outcome.duties}
    return tuple(
        Kept(cell, source, name)
        for cell, source in outcome.effect.origin
        for name in ATTRIBUTES
        if (cell, name) not in named and _has(_thing(outcome.effect.scene, cell), name)
    )


def look(scene: Scene, cell: int) -> list[tuple[int, str, str]]:
    """Everything about a cell, as (cell, attribute, value)."""
    thing = scene.cells[cell]
    if thing is None:
        return [(cell, "kind", "")]
    return [
        (cell, name, value)
        for name, value in zip(ATTRIBUTES, thing, strict=True)
        if name != "text" or thing.kind == SIGN
    ]


def spread_checks(rules: tuple[Rule, ...], scene: Scene, due: set[Duty]) -> tuple[Check, ...]:
    """GA: a rule about colours, materials or sizes must not seize objects that it does not govern."""
    checks = []
    for rule in rules:
        name = _SPREADS.get(rule.family)
        value = rule.value.split()[-1] if name else ""
        for cell in scene.occupied() if name else ():
            thing = scene.cells[cell]
            if thing is not None and getattr(thing, str(name)) != value and (cell, str(name)) not in due:
                checks.append(Check("GA", cell, str(name), value, wanted=False))
    return tuple(checks)


_SPREADS = {f"{scope}_{name}": name for scope in ("edited", "added") for name in ("colour", "material", "size")} | {
    "kind_colour": "colour",
    "coupled_material": "material",
}
