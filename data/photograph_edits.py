"""Edits of what an object list says is in a photograph: drawn at random, worded by the shared templates, applied."""

import random
from dataclasses import dataclass, field
from typing import Final

from data.phrases import BESIDE, EDITS, NUMBERS, REFERENCES
from data.schema import EditType
from data.slots import SIDES
from data.wordings import fill, of_phrase, pick

COLOURS: Final = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray")
MATERIALS: Final = ("wood", "metal", "plastic", "glass", "stone", "leather", "paper", "wool", "ceramic", "silk")
_COLOUR_WORDS: Final = frozenset((*COLOURS, "grey", "gold", "golden", "silver", "beige", "tan"))
_MATERIAL_WORDS: Final = frozenset((*MATERIALS, "wooden", "cotton", "denim", "fabric", "concrete", "rubber", "brick"))
ADDITIONS: Final = (
    *("bicycle", "backpack", "umbrella", "teapot", "bench", "lantern", "basket", "balloon", "bucket", "suitcase"),
    *("ladder", "kite", "drum", "vase", "clock", "statue", "lamp", "chair", "helmet", "ribbon", "mug", "globe"),
    *("violin", "candle", "wagon", "scarf", "mirror", "crown"),
)
PLACES: Final = (
    *("beach", "forest", "library", "stadium", "kitchen", "playground", "castle", "desert", "harbor", "classroom"),
    *("greenhouse", "cityscape", "mountain trail", "living room", "train station", "snowy field"),
)
WORDS: Final = ("OPEN", "SALE", "HELLO", "NORTH", "EXIT", "FRESH", "MUSIC", "GARDEN", "WELCOME", "RADIO")

OF_ONE: Final = (
    EditType.SUBJECT_REMOVE,
    EditType.SUBJECT_REPLACE,
    EditType.COLOR_ALTER,
    EditType.MATERIAL_ALTER,
    EditType.POSITION_CHANGE,
    EditType.COUNT_CHANGE,
)
"""Edits of one object that is there: those that can be requested of `it`."""


@dataclass
class State:
    """What is in the picture while a session is written; objects by their current names."""

    source: tuple[str, ...]
    texts: dict[str, str]
    present: list[str]
    ever: list[str]
    touched: set[str] = field(default_factory=set)
    """Names, at the time, of everything that an edit changed, moved or took away."""
    added: list[tuple[int, str]] = field(default_factory=list)
    """(turn, object) of additions that are still there, oldest first."""
    last: tuple[int, str] | None = None
    """(turn, object) of the newest edit of one object, if it is still there."""
    background: bool = True
    """Whether the source's background is still there."""


@dataclass(frozen=True)
class Edit:
    """One request. `subject` is the object it is about, `result` its name afterwards (None: nothing or gone)."""

    type: EditType
    formatted: str
    fields: dict[str, str]
    subject: str | None = None
    result: str | None = None


def draw(state: State, rng: random.Random, types: tuple[EditType, ...], subject: str | None = None) -> Edit:
    """A request of one of the types, of `subject` where it is given. Some type must fit: additions always do."""
    for kind in rng.sample(types, len(types)):
        edit = _propose(state, rng, kind, subject or (rng.choice(state.present) if state.present else None))
        if edit is not None:
            return edit
    return _add(state, rng)


def worded(edit: Edit, rng: random.Random, it: str | None = None) -> str:
    """An instruction for the edit by one of the shared phrases; `it` stands for the subject where it is given."""
    it = it or f"the {edit.subject}"
    attribute = {EditType.COLOR_ALTER: "color", EditType.MATERIAL_ALTER: "material", EditType.COUNT_CHANGE: "count"}
    of = of_phrase(attribute.get(edit.type, "position"), it)
    phrasing = EDITS["text_replace" if edit.type == EditType.TEXT_CHANGE and edit.subject else edit.type]
    return fill(pick(phrasing, rng, "known").text, it=it, of=of, **edit.fields)


def reference(state: State, rng: random.Random) -> tuple[int, str, str, str] | None:
    """(turn, object, words, kind) of something edited before that a turn can refer to."""
    if len(state.added) > 1 and rng.random() < 0.4:
        turn, name = state.added[0]
        return turn, name, pick(REFERENCES["first"], rng, "known").text, "first"
    return (*state.last, "it", "it") if state.last else None


def apply(edit: Edit, state: State, turn: int) -> None:
    """Bring the state up to date."""
    state.background &= edit.type != EditType.BACKGROUND_CHANGE
    if edit.type == EditType.SUBJECT_ADD and edit.result:
        state.present.append(edit.result)
        state.added.append((turn, edit.result))
    elif edit.subject:
        state.touched.add(edit.subject)
        at = state.present.index(edit.subject)
        state.present[at : at + 1] = [edit.result] if edit.result else []
        renamed = [(when, edit.result if name == edit.subject else name) for when, name in state.added]
        state.added = [(when, name) for when, name in renamed if name]
        if edit.subject in state.texts:
            text = state.texts.pop(edit.subject)
            state.texts |= {edit.result: edit.fields.get("new", text)} if edit.result else {}
    if edit.subject or edit.result:
        state.last = (turn, edit.result) if edit.result else None
    if edit.result and edit.result not in state.ever:
        state.ever.append(edit.result)


def _propose(state: State, rng: random.Random, kind: EditType, name: str | None) -> Edit | None:
    """One request of this type, or None where it does not fit."""
    if kind == EditType.SUBJECT_ADD:
        return _add(state, rng)
    if kind == EditType.BACKGROUND_CHANGE:
        place = rng.choice(PLACES)
        return Edit(kind, f"Change the background to [{place}]", {"value": place})
    if kind == EditType.TEXT_CHANGE:
        return _text(state, rng)
    if name is None:
        return None
    if kind == EditType.SUBJECT_REMOVE:
        return Edit(kind, f"Remove [{name}]", {}, name) if len(state.present) > 2 else None
    if kind == EditType.SUBJECT_REPLACE:
        new = _new(state, rng)
        return Edit(kind, f"Replace [{name}] with [{new}]", {"value": new}, name, new)
    if kind == EditType.POSITION_CHANGE:
        return _move(state, rng, name)
    if kind == EditType.COUNT_CHANGE:
        number = rng.randint(2, 5)
        return Edit(kind, f"Change the count of [{name}] to [{number}]", {"n": NUMBERS[number]}, name, name)
    return _alter(state, rng, kind, name)


def _add(state: State, rng: random.Random) -> Edit:
    new = _new(state, rng)
    if not state.present or rng.random() < 0.4:
        return Edit(EditType.SUBJECT_ADD, f"Add [{new}]", {"thing": new}, None, new)
    side, anchor = rng.choice(SIDES), rng.choice(state.present)
    where = f"{BESIDE[side]} the {anchor}"
    return Edit(
        EditType.SUBJECT_ADD, f"Add [{new}] on the [{side}] of [{anchor}]", {"thing": new, "where": where}, None, new
    )


def _move(state: State, rng: random.Random, name: str) -> Edit | None:
    others = [other for other in state.present if other != name]
    if not others:
        return None
    side, anchor = rng.choice(SIDES), rng.choice(others)
    formatted = f"Change the position of [{name}] to [{side}] of [{anchor}]"
    return Edit(EditType.POSITION_CHANGE, formatted, {"beside": f"{BESIDE[side]} the {anchor}"}, name, name)


def _text(state: State, rng: random.Random) -> Edit:
    """Replaces a known text where there is one to replace, else adds one."""
    name = rng.choice(sorted(state.texts)) if state.texts else None
    new = rng.choice([word for word in WORDS if word not in state.texts.values()])
    if name is None or name not in state.present:
        return Edit(EditType.TEXT_CHANGE, f"Add text '[{new}]' on the image", {"text": f"'{new}'"})
    old = state.texts[name]
    fields = {"old": f"'{old}'", "text": f"'{new}'", "new": new}
    return Edit(EditType.TEXT_CHANGE, f"Replace the text '[{old}]' on [{name}] with '[{new}]'", fields, name, name)


def _alter(state: State, rng: random.Random, kind: EditType, name: str) -> Edit | None:
    colour = kind == EditType.COLOR_ALTER
    word, values = ("color", COLOURS) if colour else ("material", MATERIALS)
    value = rng.choice([value for value in values if value not in name.split()])
    new = _renamed(name, value, _COLOUR_WORDS if colour else _MATERIAL_WORDS)
    if new in state.present:
        return None
    return Edit(kind, f"Change the {word} of [{name}] to [{value}]", {"value": value}, name, new)


def _renamed(name: str, value: str, words: frozenset[str]) -> str:
    """`white cup` in blue is `blue cup`; a name without such a word gets one in front."""
    parts = name.split()
    at = next((index for index, part in enumerate(parts[:-1]) if part.lower() in words), None)
    return " ".join([value, *parts] if at is None else [*parts[:at], value, *parts[at + 1 :]])


def _new(state: State, rng: random.Random) -> str:
    """Something that was never there, under a name that no object's name contains."""
    return rng.choice([thing for thing in ADDITIONS if not any(thing in name for name in state.ever)] or ["thing"])
