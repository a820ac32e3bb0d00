"""How edits, references and the base's lessons are worded, and the closed vocabulary that all wordings make.

`more` of edits is also what the base hears: more than labelled sessions say, as a public checkpoint has.
"""

from __future__ import annotations

import re

from data.rule_phrases import JOINT, RULES, TOPICS
from data.scenes import SIGN, World
from data.schema import EditType
from data.wordings import Phrasing

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
        (
            "{where} put {a} {thing}",
            "{where} place {a} {thing}",
            "{where} draw {a} {thing}",
            "{where} {a} {thing}",
            "add {where} {a} {thing}",
            "insert {where} {a} {thing}",
            "there should be {where} {a} {thing}",
            "{a} {thing} should be there {where}",
            "set {a} {thing} {where}",
            "use {a} {thing} {where}",
            "get {a} {thing} {where}",
            "{a} {thing} {where}",
        ),
    ),
    EditType.SUBJECT_REMOVE: Phrasing(
        ("remove {it}", "delete {it}", "erase {it}", "take {it} away", "get rid of {it}", "{it} should go away"),
        ("take away {it}", "make {it} go away"),
        (
            "drop {it}",
            "get {it} away",
            "put {it} away",
            "remove {it} from the image",
            "delete {it} from the image",
            "erase {it} from the image",
            "{it} is to go",
            "{it} should be away",
            "away from the image with {it}",
            "there should be nothing in place of {it}",
            "leave nothing of {it}",
        ),
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
        (
            "swap {it} with {a} {value}",
            "change {it} to {a} {value}",
            "{it} is now {a} {value}",
            "{it} should turn into {a} {value}",
            "{it} should change into {a} {value}",
            "use {a} {value} in place of {it}",
            "draw {a} {value} in place of {it}",
            "there should be {a} {value} in place of {it}",
            "remove {it} and add {a} {value} there",
            "take {it} away and put {a} {value} there",
            "for {it} swap {a} {value}",
        ),
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
        (
            "change {it} to {value}",
            "set {it} to {value}",
            "make {of} {value}",
            "turn {of} to {value}",
            "{of} is now {value}",
            "{it} is now {value}",
            "give {it} the color {value}",
            "color {it} in {value}",
            "draw {it} in {value}",
            "use {value} for {it}",
            "use {value} as {of}",
            "{value} should be {of}",
        ),
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
        (
            "change {it} to {value}",
            "set {it} to {value}",
            "make {of} {value}",
            "turn {of} to {value}",
            "{of} is now {value}",
            "{it} is now {value}",
            "give {it} the material {value}",
            "draw {it} {value}",
            "paint {it} {value}",
            "use {value} for {it}",
            "use {value} as {of}",
            "{value} should be {of}",
        ),
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
        (
            "write {text} on the image",
            "write {text} on a sign",
            "add {text} on a sign",
            "put {text} on the image",
            "put {text} on a sign",
            "insert the text {text}",
            "insert a sign with the text {text}",
            "place a sign with the text {text}",
            "make a sign with the text {text}",
            "there should be the text {text}",
            "a sign should say {text}",
            "the image should say {text}",
        ),
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
        (
            "turn the text {old} into {text}",
            "swap the text {old} for {text}",
            "change {old} to {text}",
            "set the text {old} to {text}",
            "set the text on {it} to {text}",
            "make the text on {it} {text}",
            "the text {old} should be {text}",
            "{it} is now to say {text}",
            "put {text} on {it}",
            "write {text} in place of {old}",
            "in place of {old} write {text}",
        ),
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
        (
            "{beside} move {it}",
            "{beside} put {it}",
            "{beside} place {it}",
            "get {it} {beside}",
            "leave {it} {beside}",
            "set {it} {beside}",
            "draw {it} {beside}",
            "set {of} {beside}",
            "{of} should be {beside}",
            "{it} is now {beside}",
            "{it} should move {beside}",
            "make {it} go {beside}",
        ),
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
        (
            "{of} is now {n}",
            "turn {of} to {n}",
            "get {n} of {it}",
            "use {n} of {it}",
            "draw {n} of {it}",
            "make {n} of {it}",
            "leave {n} of {it}",
            "{n} of {it} should be there",
            "set {it} to {n}",
            "make {it} be there {n} times",
            "put {it} there {n} times",
            "{n} times draw {it}",
        ),
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
        (
            "the background is now {value}",
            "{value} should be the background",
            "make {value} the background",
            "paint the background {value}",
            "color the background {value}",
            "draw {value} as the background",
            "get {value} as the background",
            "give the image {value} as background",
            "turn the background to {value}",
            "swap the background for {value}",
            "use {value} in the background",
            "in the background there should be {value}",
        ),
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
        more=(
            "take the last change back",
            "undo one step",
            "get back to the image before",
            "go back to the image before the last change",
            "forget the last change",
            "remove the last change",
            "erase the last edit",
            "the last change should go away",
            "delete the last edit",
            "put everything back as before",
        ),
        validation=(
            "drop the last change",
            "get rid of the last edit",
            "everything should be as before",
        ),
    ),
    "before": Phrasing(
        (
            "give {it} the same color as before",
            "make {it} the same color as before",
            "change {of} back",
            "{of} should be as before",
        ),
        ("{it} should be the same color as before",),
        more=(
            "change {it} back to the color before",
            "set {of} back",
            "turn {of} back",
            "make {of} the same as before",
            "set {of} to the same as before",
            "{of} should go back",
            "give {it} back the color before",
            "take {of} back",
            "use the same color as before for {it}",
            "paint {it} in the same color as before",
        ),
        validation=(
            "color {it} as before",
            "get {of} back",
            "turn {it} back to the same color",
        ),
    ),
    "first": Phrasing(
        ("the one added first", "the first one added"),
        ("the object added first",),
        more=(
            "the first added",
            "the first object added",
            "the first one you added",
            "the first object you added",
            "the one you added first",
        ),
        validation=(
            "the first you added",
            "the one you added before every other",
        ),
    ),
    "other": Phrasing(
        ("the other one", "the other {kind}"),
        (),
        more=(
            "the other",
            "the other object",
            "the other one of them",
        ),
        validation=("the one other {kind}",),
    ),
}


_EXTRA = "nothing it its they them their the color material count position of every at is in from to and copy keep set"


def vocabulary(world: World) -> list[str]:
    """All words of instructions and intents in the world, sorted: the same for every split."""
    phrasings = (*EDITS.values(), *REFERENCES.values(), *RULES.values(), DESCRIBE, DRAW, LOCATE, POINT, REPEAT, RECALL)
    texts = [text for phrasing in phrasings for part in phrasing for text in part]
    words = set(re.sub(r"{\w+}", " ", " ".join((*texts, *TOPICS.values(), *BESIDE.values(), JOINT, _EXTRA))).split())
    words.update(world.kinds, world.colours, world.materials, world.sizes, world.backgrounds, world.letters)
    words.update(world.row_words, world.column_words, NUMBERS[1 : world.max_count + 1], (SIGN, "a", "an"))
    return sorted(words)
