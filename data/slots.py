"""The published slot grammar: what a `formatted_instruction` of each of the nine edit types must look like.

The nine forms were derived from the published MICE-Bench files; every well-formed turn in them matches exactly one:

    subject_add        Add [object] | Add [object] on the [side] of [object]
    subject_remove     Remove [object]
    subject_replace    Replace [object] with [object]
    color_alter        Change the color of [object] to [value]
    material_alter     Change the material of [object] to [value]
    text_change        Add text '[text]' on the image | Replace the text '[text]' on [object] with '[text]'
    position_change    Change the position of [object] to [side] of [object]
    count_change       Change the count of [object] to [count]
    background_change  Change the background to [place]

An object, value or place is one short noun phrase. A text is whatever stands in the picture: several lines, sentences
and brackets are fine, only emptiness is not.
"""

import re
from dataclasses import dataclass
from typing import Final

SIDES: Final = ("left", "right", "above", "below")
MAX_COUNT: Final = 100
"""Published counts go to 5; more than this cannot be told apart in a picture."""

MAX_WORDS: Final = {"object": 10, "value": 6, "place": 20}
"""Longest published slots: object 7 words, value 2, place 11. A paragraph is longer than any of these."""

_FORMS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "subject_add": (
        (r"Add \[(.*)\] on the \[(.*)\] of \[(.*)\]", "object side object"),
        (r"Add \[(.*)\]", "object"),
    ),
    "subject_remove": ((r"Remove \[(.*)\]", "object"),),
    "subject_replace": ((r"Replace \[(.*)\] with \[(.*)\]", "object object"),),
    "color_alter": ((r"Change the color of \[(.*)\] to \[(.*)\]", "object value"),),
    "material_alter": ((r"Change the material of \[(.*)\] to \[(.*)\]", "object value"),),
    "text_change": (
        (r"Replace the text '\[(.*)\]' on \[(.*)\] with '\[(.*)\]'", "text object text"),
        (r"Add text '\[(.*)\]' on the image", "text"),
    ),
    "position_change": ((r"Change the position of \[(.*)\] to \[(.*)\] of \[(.*)\]", "object side object"),),
    "count_change": ((r"Change the count of \[(.*)\] to \[(.*)\]", "object count"),),
    "background_change": ((r"Change the background to \[(.*)\]", "place"),),
}
EDIT_TYPES: Final = tuple(_FORMS)
GRAMMAR: Final = {
    name: tuple((re.compile(form, re.DOTALL), tuple(kinds.split())) for form, kinds in forms)
    for name, forms in _FORMS.items()
}

# "St. Bernard" and "Dr. Pepper can" are noun phrases, so a full stop after these ends no sentence.
_ABBREVIATION: Final = re.compile(
    r"\b(?:st|dr|mr|mrs|ms|jr|sr|no|vs|mt|ft|oz|inc|co|ltd|corp|ave|u\.s|[a-z])\.", re.IGNORECASE
)
_SENTENCE_END: Final = re.compile(r"[.!?。！？…](?=[\s\"'”’)]|$)|[。！？]")
# Words that make a clause. None of them occurs in a published object, value or place slot.
_CLAUSE: Final = re.compile(
    r"(?<![\w-])(?:is|are|was|were|be|been|am|will|would|should|could|must|cannot|does|did|has|have|please|sorry|"
    r"it|you|we|he|she|they|that|which|what|these|those|here|there|let'?s|let me|it'?s|i['’](?:m|ll|ve|d)|don't|can't|"
    r"i (?:think|can|need|want|see|assume|chose|choose|guess|suggest|would|will)|this (?:object|image|one)|"
    r"wants?|think|suggests?|recommends?|seems?|appears?|needs|means|contains|shows|depicts|looks like|"
    r"because|since|therefore|however|thus|hence)(?![\w-])",
    re.IGNORECASE,
)
_COMMAND: Final = re.compile(
    r"^(?:(?:change|move|set|put|replace|remove|add|create|output|return|answer|use|select|choose|pick)\s+(?:the|a|an)\b"
    r"|(?:change|move|put|replace|remove|add|make|turn)(?:\s+\S+){3}|(?:sure|okay|ok|wait|well|so|yes|no),\s)",
    re.IGNORECASE,
)
_MARKUP: Final = re.compile(r"[{}`<>;]|://|:\s+\S|\\n|\bthought\s+\S+\s+\S+")


@dataclass(frozen=True)
class SlotError:
    """Why a formatted instruction was refused: a stable `code` and one sentence for people."""

    code: str
    reason: str


@dataclass(frozen=True)
class Slots:
    """The slots of one well-formed turn, in the order of the text: ("object", "red ball"), ("side", "left"), ..."""

    kinds: tuple[str, ...]
    values: tuple[str, ...]

    def of(self, kind: str) -> tuple[str, ...]:
        """All values of one kind."""
        return tuple(value for k, value in zip(self.kinds, self.values, strict=True) if k == kind)


def parse(edit_type: str, text: str) -> Slots | SlotError:
    """Read the slots of a formatted instruction, or say what is wrong with it. Never raises."""
    if edit_type not in GRAMMAR:
        return SlotError("unknown_edit_type", f"unknown edit type {_short(edit_type)}")
    for pattern, kinds in GRAMMAR[edit_type]:
        if match := pattern.fullmatch(text):
            slots = Slots(kinds, match.groups())
            return _first_error(slots) or slots
    if leak := _running_text(text, 2 * MAX_WORDS["place"]):
        return SlotError("leaked_answer", f"a language model's answer stands in place of the {edit_type} slots: {leak}")
    return SlotError("unparseable_slots", f"{_short(text)} does not follow the {edit_type} form")


def _first_error(slots: Slots) -> SlotError | None:
    """The first faulty slot; leaked answers first, because they explain whatever else is wrong."""
    errors = [e for pair in zip(slots.kinds, slots.values, strict=True) if (e := _check(*pair))]
    return min(errors, key=lambda e: e.code != "leaked_answer", default=None)


def _check(kind: str, value: str) -> SlotError | None:
    """What is wrong with one slot, if anything."""
    if not value.strip():
        return SlotError(f"empty_{'text' if kind == 'text' else 'object'}_slot", f"the {kind} slot is empty: '[]'")
    if kind == "side" and value not in SIDES:
        return SlotError("bad_side", f"{_short(value)} is not one of {', '.join(SIDES)}")
    if kind == "count" and not (re.fullmatch(r"[0-9]{1,3}", value) and 1 <= int(value) <= MAX_COUNT):
        return SlotError("bad_count", f"{_short(value)} is not a count between 1 and {MAX_COUNT}")
    if kind in MAX_WORDS and (leak := leaked_answer(value, MAX_WORDS[kind])):
        return SlotError("leaked_answer", f"the {kind} slot holds a language model's answer, not a noun phrase: {leak}")
    if kind in MAX_WORDS and re.search(r"[\[\]]", value):
        return SlotError("unparseable_slots", f"the {kind} slot {_short(value)} holds a bracket")
    return None


def leaked_answer(value: str, max_words: int) -> str | None:
    """Which sign of running text a would-be noun phrase shows, or None when it is one."""
    if sign := _running_text(value, max_words):
        return sign
    phrase = _ABBREVIATION.sub("", value.strip())
    if _SENTENCE_END.search(phrase):
        return "it holds the end of a sentence"
    if found := _CLAUSE.search(phrase) or _COMMAND.search(phrase):
        return f"{_short(found.group().strip())} makes it a sentence"
    if found := _MARKUP.search(phrase):
        return f"{_short(found.group())} is no part of a noun phrase"
    return None


def _running_text(value: str, max_words: int) -> str | None:
    """Signs that need no reading: several lines, or more words than anything but a paragraph has."""
    if re.search(r"[\n\r\v\f\x85\u2028\u2029]", value):
        return "it has a line break"
    if len(value.split()) > max_words or len(value) > 20 * max_words:
        return f"it is longer than {max_words} words"
    return None


def _short(text: str, width: int = 60) -> str:
    """Any text as one quoted line of at most `width` characters."""
    line = repr(text)
    return line if len(line) <= width else line[: width - 4] + "..." + line[-1]
