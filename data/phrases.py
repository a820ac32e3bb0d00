"""How instructions, rules and references are worded, and the closed vocabulary that this makes.

Phrases are lower-case words and `{fields}`. In every list the phrases of `held out` are kept for test splits; they use
only words that other phrases teach. Fields: {it} an object (`the red ball`, `it`), {of} its attribute (`the color of
the red ball`, `its color`), {a} `a` or `an`, {thing} a new object, {where} a place or nothing, {beside} `above the red
ball`, {value}, {text} letters, {n} a number.
"""

from __future__ import annotations

import random
import re
from typing import NamedTuple

from data.rule_phrases import JOINT, RULES, TOPICS, Phrasing
from data.scenes import SIGN, World
from data.schema import EditType

MAX_INSTRUCTION = 14
"""Most words of an instruction besides a stated rule."""
MAX_INTENT = 24
NUMBERS = ("zero", "one", "two", "three", "four", "five")
BESIDE = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}


EDITS: dict[str, Phrasing] = {
    EditType.SUBJECT_ADD: Phrasing(
        (
            "add {a} {thing} {where}",
            "put {a} {thing} {where}",
            "place {a} {thing} {where}",
            "draw {a} {thing} {where}",
            "insert {a} {thing} {where}",
            "there should be {a} {thing} {where}",
        ),
        ("{where} add {a} {thing}", "{where} there should be {a} {thing}"),
    ),
    EditType.SUBJECT_REMOVE: Phrasing(
        ("remove {it}", "delete {it}", "erase {it}", "take {it} away", "get rid of {it}", "{it} should go away"),
        ("take away {it}", "make {it} go away"),
    ),
    EditType.SUBJECT_REPLACE: Phrasing(
        (
            "replace {it} with {a} {value}",
            "turn {it} into {a} {value}",
            "swap {it} for {a} {value}",
            "change {it} into {a} {value}",
            "put {a} {value} in place of {it}",
            "make {it} {a} {value}",
        ),
        ("in place of {it} put {a} {value}", "{it} should be {a} {value}"),
    ),
    EditType.COLOR_ALTER: Phrasing(
        (
            "change {of} to {value}",
            "set {of} to {value}",
            "make {it} {value}",
            "paint {it} {value}",
            "color {it} {value}",
            "{it} should be {value}",
            "turn {it} {value}",
        ),
        ("{of} should be {value}", "{it} should turn {value}"),
    ),
    EditType.MATERIAL_ALTER: Phrasing(
        (
            "change {of} to {value}",
            "set {of} to {value}",
            "make {it} {value}",
            "turn {it} {value}",
            "{it} should be {value}",
            "give {it} {value} material",
        ),
        ("{of} should be {value}", "{it} should turn {value}"),
    ),
    EditType.TEXT_CHANGE: Phrasing(
        (
            "add the text {text}",
            "write {text}",
            "put the text {text} on the image",
            "add a sign with the text {text}",
            "write the text {text} on the image",
            "there should be a sign with the text {text}",
        ),
        ("put a sign with the text {text} on the image", "draw the text {text}"),
    ),
    "text_replace": Phrasing(
        (
            "replace the text {old} with {text}",
            "change the text on {it} to {text}",
            "change the text {old} to {text}",
            "{it} should say {text}",
            "make {it} say {text}",
            "write {text} on {it}",
        ),
        ("replace the text on {it} with {text}", "the text on {it} should be {text}"),
    ),
    EditType.POSITION_CHANGE: Phrasing(
        (
            "move {it} {beside}",
            "put {it} {beside}",
            "place {it} {beside}",
            "shift {it} {beside}",
            "{it} should be {beside}",
            "change {of} {beside}",
        ),
        ("{it} should go {beside}", "take {it} {beside}"),
    ),
    EditType.COUNT_CHANGE: Phrasing(
        (
            "change {of} to {n}",
            "set {of} to {n}",
            "make {of} {n}",
            "{of} should be {n}",
            "there should be {n} of {it}",
            "draw {it} {n} times",
        ),
        ("put {n} of {it}", "{it} should be there {n} times"),
    ),
    EditType.BACKGROUND_CHANGE: Phrasing(
        (
            "change the background to {value}",
            "set the background to {value}",
            "make the background {value}",
            "use {value} as the background",
            "the background should be {value}",
            "turn the background into {value}",
        ),
        ("replace the background with {value}", "put {value} in the background"),
    ),
}
DESCRIBE = Phrasing(("describe everything", "describe the image"), ())
DRAW = Phrasing(("draw {value}", "change everything to {value}"), ())
LOCATE = Phrasing(("describe the position of everything", "the position of every object"), ())
POINT = Phrasing(("describe the position of {value}", "the position of {value}"), ())
REPEAT = Phrasing(("describe the {value}", "the {value}"), ())
RECALL = Phrasing(("describe the image before the last edit", "the image before the last edit"), ())
REFERENCES: dict[str, Phrasing] = {
    "undo": Phrasing(
        ("undo the last change", "undo the last edit", "take back the last change", "go back one step"),
        ("take back the last edit",),
    ),
    "before": Phrasing(
        (
            "give {it} the same color as before",
            "make {it} the same color as before",
            "change {of} back",
            "{of} should be as before",
        ),
        ("{it} should be the same color as before",),
    ),
    "first": Phrasing(("the one added first", "the first one added"), ("the object added first",)),
    "other": Phrasing(("the other one", "the other {kind}"), ()),
}


class Wording(NamedTuple):
    """A phrase that was picked and whether it is held out of training."""

    text: str
    held_out: bool


def pick(phrasing: Phrasing, rng: random.Random, held_out: bool) -> Wording:
    """A uniform choice; with `held_out` the held-out phrases take part."""
    count = len(phrasing.known) + held_out * len(phrasing.held_out)
    index = rng.randrange(count)
    new = index >= len(phrasing.known)
    return Wording((*phrasing.known, *phrasing.held_out)[index], new)


def fill(phrase: str, **fields: str) -> str:
    """The phrase with its fields, single-spaced; the article agrees with the word after it."""
    given = {"where": "", **fields}
    after = given.get("thing") or given.get("value", "")
    words = phrase.format(**{"a": "an" if after[:1] in tuple("aeiou") else "a", **given})
    words = " ".join(words.split())
    return "they" + words[4:] if words.startswith("them ") else words


def of_phrase(attribute: str, it: str) -> str:
    """`its color`, `their color` or `the color of the red ball`."""
    owner = {"it": "its", "them": "their"}.get(it)
    return f"{owner} {attribute}" if owner else f"the {attribute} of {it}"


def spaced(text: str) -> str:
    """Letters as single words."""
    return " ".join(text)


_EXTRA = "nothing it its they them their the color material count position of every at is in from to and copy keep set"


def vocabulary(world: World) -> list[str]:
    """All words of instructions and intents in the world, sorted: the same for every split."""
    phrasings = (*EDITS.values(), *REFERENCES.values(), *RULES.values(), DESCRIBE, DRAW, LOCATE, POINT, REPEAT, RECALL)
    texts = [text for phrasing in phrasings for part in phrasing for text in part]
    words = set(re.sub(r"{\w+}", " ", " ".join((*texts, *TOPICS.values(), *BESIDE.values(), JOINT, _EXTRA))).split())
    words.update(world.kinds, world.colours, world.materials, world.sizes, world.backgrounds, world.letters)
    words.update(world.row_words, world.column_words, NUMBERS[1 : world.max_count + 1], (SIGN, "a", "an"))
    return sorted(words)
