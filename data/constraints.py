"""Standing rules of the `cm` track: what they make of an edit, how they are worded, and when they are withdrawn.

A rule that one turn states governs that turn's edit and every later one until it is withdrawn or replaced. Removals are
exempt, as published: taking an object away is never recoloured or mirrored. A family's `govern` takes the effect of the
bare edit and returns that of the edit under the rule, with the duties that this creates: pairs of a cell and an
attribute that must show what the rule demands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from data.edits import ATTRIBUTES, Effect, Request, alter
from data.scenes import SIGN, Scene, World
from data.schema import EditType

Duty = tuple[int, str]
BACKGROUND: Duty = (-1, "background")


class Rule(NamedTuple):
    """A rule in force: its family, its value (a colour, size, kind and colour, row, ...) and the turn that stated it.

    `cell` follows the object that a protection is about.
    """

    family: str
    value: str
    stated: int
    cell: int = -1


class Case(NamedTuple):
    """What a rule is applied to: the world, the scene before the edit, the request, and additions, oldest first."""

    world: World
    before: Scene
    request: Request
    added: tuple[int, ...] = ()


class Ruling(NamedTuple):
    """The effect under a rule and the duties it created; `binding` when the rule mattered to this edit."""

    effect: Effect
    duties: tuple[Duty, ...] = ()
    binding: bool = False


Govern = Callable[[Rule, Case, Effect], Ruling]


def _edited(attribute: str) -> Govern:
    def govern(rule: Rule, case: Case, effect: Effect) -> Ruling:
        return _dress(effect, effect.edited, attribute, rule.value)

    return govern


def _added(attribute: str) -> Govern:
    def govern(rule: Rule, case: Case, effect: Effect) -> Ruling:
        return _dress(effect, effect.added, attribute, rule.value)

    return govern


def _dress(effect: Effect, cells: tuple[int, ...], attribute: str, value: str) -> Ruling:
    """Some cells given an attribute; signs know only colours."""
    able = tuple(cell for cell in cells if attribute == "colour" or not _is_sign(effect.scene, cell))
    scene = alter(effect.scene, able, attribute, value).scene
    return Ruling(effect._replace(scene=scene), tuple((cell, attribute) for cell in able), bool(able))


def _kind_colour(rule: Rule, case: Case, effect: Effect) -> Ruling:
    kind, colour = rule.value.split()
    cells = tuple(cell for cell in effect.edited if _kind(effect.scene, cell) == kind)
    return _dress(effect, cells, "colour", colour)


def _coupled(rule: Rule, case: Case, effect: Effect) -> Ruling:
    recoloured = case.request.type == EditType.COLOR_ALTER
    return _dress(effect, effect.edited if recoloured else (), "material", rule.value)


def _duplicate(effect: Effect, cell: int, pattern: int) -> Ruling:
    scene = effect.scene.place(cell, effect.scene.cells[pattern])
    duties = tuple((cell, name) for name in ATTRIBUTES)
    grown = effect._replace(scene=scene, edited=(*effect.edited, cell), added=(*effect.added, cell))
    return Ruling(grown, duties, True)


def _mirror(rule: Rule, case: Case, effect: Effect) -> Ruling:
    if case.request.type != EditType.SUBJECT_ADD:
        return Ruling(effect)
    other = case.world.mirrored(effect.added[0])
    if other == effect.added[0]:
        return Ruling(effect)
    if effect.scene.cells[other] is not None:
        raise ValueError("no room for the mirror image")
    return _duplicate(effect, other, effect.added[0])


def _pairs(rule: Rule, case: Case, effect: Effect) -> Ruling:
    if case.request.type != EditType.SUBJECT_ADD:
        return Ruling(effect)
    free = effect.scene.free()
    if not free:
        raise ValueError("no room for the second one")
    return _duplicate(effect, free[0], effect.added[0])


def _row(rule: Rule, case: Case, effect: Effect) -> Ruling:
    if case.request.type != EditType.SUBJECT_ADD:
        return Ruling(effect)
    first = case.world.row_words.index(rule.value) * case.world.columns
    free = [cell for cell in range(first, first + case.world.columns) if case.before.cells[cell] is None]
    if case.request.side or not free:
        raise ValueError("the row is full, or the place was named")
    (start,) = effect.added
    scene = effect.scene.place(start, None).place(free[0], effect.scene.cells[start])
    moved = Effect(scene, edited=(free[0],), added=(free[0],))
    return Ruling(moved, ((free[0], "kind"),), True)


def _leave_copy(rule: Rule, case: Case, effect: Effect) -> Ruling:
    if case.request.type != EditType.POSITION_CHANGE:
        return Ruling(effect)
    (start,) = case.request.cells
    scene = effect.scene.place(start, case.before.cells[start])
    return Ruling(effect._replace(scene=scene, removed=()), tuple((start, name) for name in ATTRIBUTES), True)


def _oldest_out(rule: Rule, case: Case, effect: Effect) -> Ruling:
    """Of several that were added at once, the first in reading order is the oldest."""
    if case.request.type != EditType.SUBJECT_ADD or not case.added:
        return Ruling(effect)
    oldest = case.added[0]
    out = effect._replace(scene=effect.scene.place(oldest, None), removed=(oldest,))
    return Ruling(out, ((oldest, "kind"),), True)


def _protect(rule: Rule, case: Case, effect: Effect) -> Ruling:
    touched = rule.cell in (*effect.edited, *effect.removed)
    if not touched:
        return Ruling(effect)
    keep = effect._replace(
        scene=effect.scene.place(rule.cell, case.before.cells[rule.cell]),
        edited=tuple(cell for cell in effect.edited if cell != rule.cell),
        removed=tuple(cell for cell in effect.removed if cell != rule.cell),
        origin=tuple(pair for pair in effect.origin if pair[0] != rule.cell),
    )
    return Ruling(keep, tuple((rule.cell, name) for name in ATTRIBUTES), True)


def _lock(rule: Rule, case: Case, effect: Effect) -> Ruling:
    if case.request.type != EditType.BACKGROUND_CHANGE:
        return Ruling(effect)
    kept = effect._replace(scene=Scene(case.before.background, effect.scene.cells))
    return Ruling(kept, (BACKGROUND,), True)


def _nothing(rule: Rule, case: Case, effect: Effect) -> Ruling:
    return Ruling(effect, (), True)


def _is_sign(scene: Scene, cell: int) -> bool:
    return _kind(scene, cell) == SIGN


def _kind(scene: Scene, cell: int) -> str:
    thing = scene.cells[cell]
    return "" if thing is None else thing.kind


class Family(NamedTuple):
    """One kind of rule. `topic` names it when it is withdrawn; at most one rule of a topic is in force at a time.

    `attribute`: what its value sets, so that no instruction contradicts it.
    `blocks`: edit types that would. `binds`: the only edit types it acts on, if not all.
    """

    govern: Govern
    topic: str
    attribute: str = ""
    blocks: tuple[EditType, ...] = ()
    binds: tuple[EditType, ...] = ()


_COLOUR, _MATERIAL = (EditType.COLOR_ALTER,), (EditType.MATERIAL_ALTER,)
_ADD, _COUNT = (EditType.SUBJECT_ADD,), (EditType.COUNT_CHANGE,)
FAMILIES: dict[str, Family] = {
    # Whether a further copy counts as added is open to argument, so rules on additions and counting never meet.
    # In order of application: what places or copies things comes before what dresses them, prohibitions come last.
    "row": Family(_row, "row", blocks=_COUNT, binds=_ADD),
    "mirror": Family(_mirror, "mirror", blocks=_COUNT, binds=_ADD),
    "pairs": Family(_pairs, "pair", blocks=_COUNT, binds=_ADD),
    "oldest_out": Family(_oldest_out, "swap", blocks=_COUNT, binds=_ADD),
    "leave_copy": Family(_leave_copy, "copy", binds=(EditType.POSITION_CHANGE,)),
    "edited_colour": Family(_edited("colour"), "color", "colour", _COLOUR),
    "edited_material": Family(_edited("material"), "material", "material", _MATERIAL),
    "edited_size": Family(_edited("size"), "size", "size"),
    "added_colour": Family(_added("colour"), "color", "colour", _COUNT, _ADD),
    "added_material": Family(_added("material"), "material", "material", _COUNT, _ADD),
    "added_size": Family(_added("size"), "size", "size", _COUNT, _ADD),
    "kind_colour": Family(_kind_colour, "color", "colour", _COLOUR),
    "coupled_material": Family(_coupled, "material", binds=_COLOUR),
    "protect": Family(_protect, "object", binds=(*_COLOUR, *_MATERIAL)),
    "background_lock": Family(_lock, "background", binds=(EditType.BACKGROUND_CHANGE,)),
    "only_edited": Family(_nothing, "focus"),
}
PLACING = ("row", "mirror", "pairs", "oldest_out")
"""Families that decide what an addition adds and where: at most one of them is in force, and no text is added then."""
HELD_OUT = ("added_size",)
"""Families that only test splits state: their words and their parts are all known from other families."""
_ORDER = {name: position for position, name in enumerate(FAMILIES)}


def govern(rules: tuple[Rule, ...], case: Case, effect: Effect) -> tuple[Effect, tuple[Duty, ...], tuple[Rule, ...]]:
    """The effect under all rules, the duties this creates and the rules that mattered; ValueError without room."""
    duties: list[Duty] = []
    binding: list[Rule] = []
    for rule in sorted(rules, key=lambda rule: _ORDER[rule.family]):
        ruling = FAMILIES[rule.family].govern(rule, case, effect)
        effect = ruling.effect
        duties.extend(ruling.duties)
        binding.extend([rule] * ruling.binding)
    return effect, tuple(dict.fromkeys(duties)), tuple(binding)


def governed(rules: tuple[Rule, ...], kind: str, new: bool) -> set[str]:
    """Attributes that rules will set on an edited (or new) object of this kind: requests leave them unsaid."""
    names = set()
    for rule in rules:
        applies = rule.family.startswith("edited_") or (new and rule.family.startswith("added_"))
        if applies or (rule.family == "kind_colour" and rule.value.split()[0] == kind):
            names.add(FAMILIES[rule.family].attribute)
    return names


def may_state(family: str, rules: tuple[Rule, ...]) -> bool:
    """Whether a further rule can be stated beside those in force: topics differ, only one decides places."""
    topics = {FAMILIES[rule.family].topic for rule in rules}
    placing = family in PLACING and any(rule.family in PLACING for rule in rules)
    return FAMILIES[family].topic not in topics and not placing


def blocked(rules: tuple[Rule, ...]) -> set[EditType]:
    """Edit types that no instruction may ask for while these rules hold."""
    return {edit_type for rule in rules for edit_type in FAMILIES[rule.family].blocks}
