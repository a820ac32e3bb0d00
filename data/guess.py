"""Edit type and slots of a free instruction, where its wording leaves no doubt.

Data sets without edit types (MagicBrush) say "put a hat on the dog" in as many ways as they have annotators. The rules
below cover the plain ones; everything else is left without a type rather than with a wrong one.
"""

import re
from typing import Final

from data.schema import EditType
from data.slots import Slots, parse

_COLOUR: Final = "red|orange|yellow|green|blue|purple|pink|brown|black|white|gray|grey|gold|silver|cyan|teal|violet"
_MATERIAL: Final = (
    "wood|wooden|metal|plastic|glass|stone|leather|paper|fabric|cotton|silk|wool|ceramic|marble|rubber|concrete|brick"
)
_PLACE: Final = r"(?: (?:on|in|to|into|near|next to|behind|under|over|at|inside) .+)?"
_WISH: Final = re.compile(
    r"^(?:please |now |let's |let us |can (?:you|we) |could (?:you|we) |i want (?:you )?to |we should )+", re.IGNORECASE
)
_TEXT: Final = r"[\"'“‘](?P<text>[^\"'”’]+)[\"'”’]"
_REMOVE: Final = r"(?:remove|delete|erase|get rid of|take away|take off)"
_ADD: Final = r"(?:add|put|place|insert|include)"
_FORMS: Final = {
    EditType.BACKGROUND_CHANGE: "Change the background to [{a}]",
    EditType.TEXT_CHANGE: "Add text '[{text}]' on the image",
    EditType.COLOR_ALTER: "Change the color of [{a}] to [{b}]",
    EditType.MATERIAL_ALTER: "Change the material of [{a}] to [{b}]",
    EditType.SUBJECT_REMOVE: "Remove [{a}]",
    EditType.SUBJECT_REPLACE: "Replace [{a}] with [{b}]",
    EditType.SUBJECT_ADD: "Add [{a}]",
}
# In this order: "change the color of the car to red" must not be read as a replacement.
_RULES: Final = (
    (EditType.BACKGROUND_CHANGE, r"(?:change|turn|replace) the background (?:to|into|with) (?P<a>.+)"),
    (EditType.BACKGROUND_CHANGE, r"make the background (?:be |look like )?(?P<a>.+)"),
    (EditType.TEXT_CHANGE, rf"(?:add|write|put) (?:the )?(?:text|words?) {_TEXT}.*"),
    (EditType.COLOR_ALTER, r"change the colou?r of (?P<a>.+?) to (?P<b>[a-z ]+)"),
    (EditType.COLOR_ALTER, rf"(?:make|turn|paint|color|colour|dye) (?P<a>.+?) (?P<b>{_COLOUR})"),
    (EditType.MATERIAL_ALTER, rf"(?:make|turn) (?P<a>.+?) (?:into |out of |of )?(?P<b>{_MATERIAL})"),
    (EditType.SUBJECT_REMOVE, rf"{_REMOVE} (?P<a>.+)"),
    (EditType.SUBJECT_REPLACE, r"(?:replace|swap) (?P<a>.+?) (?:with|for) (?P<b>.+)"),
    (EditType.SUBJECT_REPLACE, r"(?:change|turn) (?P<a>.+?) (?:into|to) (?P<b>.+)"),
    (EditType.SUBJECT_ADD, rf"{_ADD} (?P<a>.+?) (?:on|to|at) the (?P<side>left|right)(?: side)? of (?P<b>.+)"),
    (EditType.SUBJECT_ADD, rf"{_ADD} (?P<a>.+?) (?P<side>above|below) (?P<b>.+)"),
    (EditType.SUBJECT_ADD, rf"{_ADD} (?P<a>.+?){_PLACE}"),
)
_COMPILED: Final = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _RULES)
_ARTICLE: Final = re.compile(r"^(?:the|a|an|some|his|her|their|its|this|that|these|those|one)\s+", re.IGNORECASE)
_PRONOUN: Final = re.compile(r"^(?:it|them|him|her|one|everything|all)$", re.IGNORECASE)


def guess(instruction: str) -> tuple[EditType, str] | None:
    """Edit type and formatted instruction, or None where no rule fits or the slots are no noun phrases."""
    text = _WISH.sub("", instruction.strip()).rstrip(".!? ")
    for kind, pattern in _COMPILED:
        if match := pattern.fullmatch(text):
            slots = {name: _phrase(name, value) for name, value in match.groupdict().items()}
            formatted = _FORMS[kind].format(**slots) + (
                " on the [{side}] of [{b}]".format(**slots) if "side" in slots else ""
            )
            named = not any(_PRONOUN.match(value) for value in slots.values())
            return (kind, formatted) if named and isinstance(parse(kind, formatted), Slots) else None
    return None


def _phrase(name: str, value: str) -> str:
    """A slot without its article; texts stay as they are."""
    return value.strip() if name == "text" else _ARTICLE.sub("", value.strip()).lower()
