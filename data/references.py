"""References of the `cu` track: words that only the session so far explains, and what they stand for.

`it` and `them` are what the last turn that acted on objects acted on. `first` is the earliest addition still there,
`other` the only other object of the kind spoken of last, `before` an object's previous colour, `undo` the scene before
the last turn.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from data.edits import ALTERED, Effect, Request, noun
from data.history import History
from data.naming import Focus, View, single
from data.phrases import REFERENCES
from data.proposals import Draft
from data.scenes import RELATIONS, SIGN, SceneObject
from data.schema import EditType
from data.wordings import Wordings, pick

KINDS = ("it", "them", "first", "other", "before", "undo")
REACH = 6
"""Most turns back that a reference may point."""


class Pointer(NamedTuple):
    """A reference that is possible now: its kind, the objects it stands for, the turn that it points to."""

    kind: str
    focus: Focus
    stated: int
    held_out: bool = False


def pointers(history: History, rng: random.Random, wordings: Wordings) -> list[Pointer]:
    """References to objects, of every kind that the session allows now."""
    found = [_last(history), _first(history, rng, wordings), _other(history, rng, wordings)]
    return [pointer for pointer in found if pointer is not None and history.turn - pointer.stated <= REACH]


def _last(history: History) -> Pointer | None:
    cells = [cell for life in history.last if (cell := history.cell_of(life)) is not None]
    if not cells or len(cells) != len(history.last):
        return None
    kind = "it" if len(cells) == 1 else "them"
    # Never named in words (acted on through references alone): the turn that acted on it last explains the word.
    stated = max(history.lives[life].named or history.lives[life].looks[-1][0] for life in history.last)
    return Pointer(kind, Focus(tuple(sorted(cells)), kind), stated or history.turn - 1)


def _first(history: History, rng: random.Random, wordings: Wordings) -> Pointer | None:
    added = history.added_cells()
    if len(added) < 1:
        return None
    life = history.lives[history.who[added[0]]]
    same = [cell for cell in added if history.lives[history.who[cell]].added == life.added]
    if len(same) > 1:
        return None
    words = pick(REFERENCES["first"], rng, wordings)
    return Pointer("first", Focus(added[:1], words.text), life.added, words.held_out)


def _other(history: History, rng: random.Random, wordings: Wordings) -> Pointer | None:
    pointer = _last(history)
    if pointer is None or pointer.kind != "it":
        return None
    (cell,) = pointer.focus.cells
    kind = _thing(history, cell).kind
    same = [c for c in history.scene.occupied() if _thing(history, c).kind == kind]
    if len(same) != 2 or kind == SIGN:
        return None
    words = pick(REFERENCES["other"], rng, wordings)
    return Pointer("other", Focus((sum(same) - cell,), words.text.format(kind=kind)), pointer.stated, words.held_out)


def previous_colour(history: History, view: View, rng: random.Random) -> tuple[Draft, int] | None:
    """A draft that gives an object the colour it had before, and the turn that took it away."""
    last = _last(history)
    lives = [life for life in history.who.values() if _colour_before(history, life)]
    if not lives:
        return None
    life = rng.choice(lives)
    cell = history.cell_of(life)
    before = _colour_before(history, life)
    assert cell is not None and before is not None
    colour, turn = before
    is_last = last is not None and last.kind == "it" and last.focus.cells == (cell,)
    found = single(view._replace(fixed=frozenset(set(range(view.world.cells)) - {cell})), rng, True, None)
    if not is_last and found is None:
        return None
    focus, phrase = found or (Focus((cell,), "it"), noun(_thing(history, cell), view.world))
    words = "it" if is_last else focus.words
    request = Request(EditType.COLOR_ALTER, (cell,), value=colour)
    return Draft(request, "before", {"it": words}, {cell: phrase}, attribute="color"), turn


def _colour_before(history: History, life: int) -> tuple[str, int] | None:
    """The colour an object had before its present one, and the turn that changed it."""
    looks = history.lives[life].looks
    for (_, old), (turn, new) in zip(reversed(looks[:-1]), reversed(looks[1:]), strict=True):
        if old.colour != new.colour:
            return old.colour, turn
    return None


def undo(history: History) -> tuple[Request, Effect, str, str] | None:
    """The request that takes the last turn back, its effect, the noun phrase of what it acts on, and the text there."""
    if not history.outcomes or history.outcomes[-1].restored:
        return None
    last, earlier = history.outcomes[-1], history.scenes[-2]
    request = _inverse(last.request, last.effect, history)
    if request is None:
        return None
    changed = [cell for cell in range(history.world.cells) if earlier.cells[cell] != history.scene.cells[cell]]
    edited = tuple(cell for cell in changed if earlier.cells[cell] is not None)
    added = tuple(cell for cell in edited if history.scene.cells[cell] is None)
    removed = tuple(cell for cell in changed if earlier.cells[cell] is None)
    origin = () if added or removed else tuple((cell, cell) for cell in edited)
    if request.type == EditType.POSITION_CHANGE:
        added, origin = (), ((request.place, request.cells[0]),)
    if request.type == EditType.COUNT_CHANGE and added:
        survivor = next(cell for cell in last.request.cells if cell not in added)
        origin = tuple((cell, survivor) for cell in added)
    effect = Effect(earlier, edited, added, removed, origin)
    subject = next((t for cell in changed if (t := history.scene.cells[cell] or earlier.cells[cell])), None)
    old = subject.text if subject else ""
    return request, effect, noun(subject, history.world) if subject else "", old


def _inverse(request: Request, effect: Effect, history: History) -> Request | None:
    before = history.scenes[-2]
    first = effect.edited[0] if effect.edited else -1
    match request.type:
        case EditType.BACKGROUND_CHANGE:
            return Request(EditType.BACKGROUND_CHANGE, value=before.background)
        case EditType.SUBJECT_REMOVE if len(request.cells) == 1:
            return Request(EditType.SUBJECT_ADD, place=request.cells[0], thing=before.cells[request.cells[0]])
        case EditType.POSITION_CHANGE:
            return _move_back(request, history)
        case EditType.COUNT_CHANGE:
            cells = tuple(cell for cell in (*effect.edited,)) or request.cells[: request.number]
            return Request(EditType.COUNT_CHANGE, cells, number=len(request.cells))
        case EditType.SUBJECT_REMOVE:
            return None
        case _ if effect.added:
            return Request(EditType.SUBJECT_REMOVE, effect.added)
    values = {getattr(before.cells[cell], ALTERED[request.type]) for cell in request.cells}
    return Request(request.type, request.cells, value=values.pop()) if len(values) == 1 and first >= 0 else None


def _move_back(request: Request, history: History) -> Request | None:
    """Back beside whatever still stands at the old place: the published form needs an anchor."""
    (old,) = request.cells
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}
    for side in RELATIONS:
        anchor = history.world.neighbour(old, side)
        if anchor is not None and anchor != request.place and history.scene.cells[anchor] is not None:
            return Request(EditType.POSITION_CHANGE, (request.place,), old, anchor=anchor, side=opposite[side])
    return None


def _thing(history: History, cell: int) -> SceneObject:
    thing = history.scene.cells[cell]
    if thing is None:
        raise ValueError(f"cell {cell} is empty")
    return thing


def twins(history: History) -> frozenset[int]:
    """Objects of which there are exactly two of a kind."""
    cells = history.scene.cells
    kinds = [thing.kind for thing in cells if thing is not None]
    return frozenset(cell for cell, thing in enumerate(cells) if thing is not None and kinds.count(thing.kind) == 2)
