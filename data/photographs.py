"""Sessions on real photographs, from an image folder and an object list, without a model in the loop.

The list is JSONL, one photograph per line:

    {"image": "kitchen/01.jpg", "objects": ["metal silver kettle", "white cup"], "texts": {"white cup": "TEA"}}

Objects are short noun phrases of things that can be seen; `texts` (optional) says what is written on which. Sessions
use the phrases of the rendered ones: cm sessions state a rule for colour or material that later turns must obey, cu
sessions refer back to what was edited before. There are no target pictures: such a benchmark is judged by a model.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from data.errors import UserError
from data.mice import ImportResult, Reader
from data.photograph_edits import COLOURS, MATERIALS, OF_ONE, Edit, State, apply, draw, reference, worded
from data.rows import Refusal
from data.rule_phrases import RULES
from data.schema import EditType, Track
from data.slots import MAX_WORDS, leaked_answer
from data.wordings import fill, pick

CM_RULES: Final = (
    ("edited_colour", COLOURS),
    ("edited_material", MATERIALS),
    ("added_colour", COLOURS),
    ("added_material", MATERIALS),
)
GOVERNED: Final = {
    "edited": (EditType.SUBJECT_ADD, EditType.SUBJECT_REPLACE),
    "added": (EditType.SUBJECT_ADD,),
}
"""Edit types that a rule shapes, by the first word of its name; everything else is exempt."""
_ALTERING: Final = (EditType.COLOR_ALTER, EditType.MATERIAL_ALTER)
_OPENING: Final = tuple(kind for kind in OF_ONE if kind != EditType.SUBJECT_REMOVE)


def synthesise(
    path: Path, images: Path, turns: tuple[int, int] = (3, 3), seed: int = 0, split: str = "test", copies: int = 2
) -> ImportResult:
    """Write `copies` sessions per photograph, cm and cu in turn; the same seed gives the same sessions.

    Lines that are no photograph and images that are missing, no picture or too large go to the quarantine.

    Raises:
        UserError: the list cannot be read or is empty, or a session would have no second turn.
    """
    if not 2 <= turns[0] <= turns[1] <= 8:
        raise UserError(f"turns {turns} are out of range", "Choose from 2 to 8")
    reader = Reader(images, split, "")
    for number, line in _lines(path):
        for copy in range(copies):
            row = _row(line, number + copy, turns, f"photographs/{seed}/{number}/{copy}")
            if isinstance(row, Refusal):
                reader.lines += 1
                reader.refuse(number, line, row)
                break
            reader.take(number, line, row)
    if not reader.lines:
        raise UserError(f"{path} holds no line", 'Write one {"image": ..., "objects": [...]} per line')
    return reader.result()


def _row(line: bytes, number: int, turns: tuple[int, int], seed: str) -> dict[str, Any] | Refusal:
    """The row of one session: even numbers become cm, odd ones cu."""
    photograph = _photograph(line)
    if isinstance(photograph, Refusal):
        return photograph
    rng = random.Random(seed)
    track = (Track.CM, Track.CU)[number % 2]
    objects = photograph["objects"]
    state = State(tuple(objects), dict(photograph.get("texts") or {}), [*objects], [*objects])
    entries = (_cm if track == Track.CM else _cu)(state, rng, rng.randint(*turns))
    columns = {name: [entry[name] for entry in entries] for name in entries[0]}
    name = f"{PurePosixPath(photograph['image']).stem}-{number}-{track}"
    return {"image": photograph["image"], **columns, "turns": len(entries), "track": str(track), "id": name}


def _cm(state: State, rng: random.Random, turns: int) -> list[dict[str, Any]]:
    """A rule in the first turn; at least one later turn that it governs."""
    rule, values = rng.choice(CM_RULES)
    value, governed = rng.choice(values), GOVERNED[rule.split("_")[0]]
    types = tuple(kind for kind in EditType if kind not in _ALTERING)
    due = rng.randint(2, turns)
    entries = []
    for turn in range(1, turns + 1):
        edit = draw(state, rng, governed if turn == due else types)
        obeys = edit.type in governed
        words = worded(edit, rng)
        if turn == 1:
            words = f"{fill(pick(RULES[rule], rng, 'known').text, value=value)} now {words}"
        needs = [{"kind": "constraint", "name": rule, "stated": 1}] if obeys and turn > 1 else []
        entries.append(_entry(edit, words, needs, state, turn, f" in {value}" if obeys else ""))
    return entries


def _cu(state: State, rng: random.Random, turns: int) -> list[dict[str, Any]]:
    """References to what was edited before, in the second turn and in most later ones."""
    entries = []
    for turn in range(1, turns + 1):
        found = reference(state, rng) if turn == 2 or rng.random() < 0.6 else None
        if found is None:
            edit = draw(state, rng, (*_OPENING, EditType.SUBJECT_ADD) if turn == 1 else tuple(EditType))
            entries.append(_entry(edit, worded(edit, rng), [], state, turn))
            continue
        stated, name, words, kind = found
        edit = draw(state, rng, OF_ONE, name)
        needs = [{"kind": "reference", "name": kind, "stated": stated}] if edit.subject == name else []
        entries.append(_entry(edit, worded(edit, rng, words if needs else None), needs, state, turn))
    return entries


def _entry(
    edit: Edit, words: str, needs: list[dict[str, Any]], state: State, turn: int, suffix: str = ""
) -> dict[str, Any]:
    """Apply the edit and describe the turn in the columns of a row."""
    apply(edit, state, turn)
    return {
        "instruction": words,
        "task_type": str(edit.type),
        "formatted_instruction": edit.formatted,
        "bg_consistency": state.background,
        "unchanged_objects": [name for name in state.source if name not in state.touched],
        "available_objects": [*state.present],
        "all_objects": [*state.ever],
        "intent": edit.formatted.translate(str.maketrans("", "", "[]")) + suffix,
        "needs": needs,
    }


def _photograph(line: bytes) -> dict[str, Any] | Refusal:
    """A line of the object list, when it names an image and at least two different objects."""
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return Refusal("bad_json", "unreadable JSON")
    if not isinstance(row, dict) or not isinstance(row.get("image"), str) or not isinstance(row.get("objects"), list):
        return Refusal("bad_row", "a line needs `image` (text) and `objects` (list of texts)")
    objects, texts = row["objects"], row.get("texts") or {}
    if not all(isinstance(name, str) and name.strip() for name in objects):
        return Refusal("bad_row", "objects are no texts")
    if bad := next(
        (name for name in objects if leaked_answer(name, MAX_WORDS["object"]) or set("[]") & set(name)), None
    ):
        return Refusal("leaked_answer", f"{bad[:60]!r} is no short noun phrase")
    if len(set(objects)) < max(2, len(objects)):
        return Refusal("bad_row", "a photograph needs two objects at least, all different")
    if not isinstance(texts, dict) or not all(isinstance(text, str) and text.strip() for text in texts.values()):
        return Refusal("bad_row", "`texts` maps objects to what is written on them")
    return row if texts.keys() <= set(objects) else Refusal("bad_row", "`texts` names an object that is not listed")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip(b"\r\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "Name a readable JSONL file") from error
