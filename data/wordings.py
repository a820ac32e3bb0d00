"""What a phrase is, which ones may be said, and how one is filled.

Phrases are lower-case words and `{fields}`. Phrases that are no known ones use only words that those teach. Fields:
{it} an object (`the red ball`, `it`), {of} its attribute (`the color of the red ball`, `its color`), {a} `a` or `an`,
{thing} a new object, {where} a place or nothing, {beside} `above the red ball`, {value}, {text} letters, {n} a number.
"""

from __future__ import annotations

import random
from typing import Literal, NamedTuple

Wordings = Literal["known", "more", "validation", "test"]
"""What may be said besides the known phrases: nothing, or one of the other lists of `Phrasing`."""


class Phrasing(NamedTuple):
    """Phrases of one meaning: `known` ones stand in every split, each of the other lists in its own alone."""

    known: tuple[str, ...]
    held_out: tuple[str, ...]  # of the test split
    more: tuple[str, ...] = ()  # of practice and of the base's lessons: words that no label explains
    validation: tuple[str, ...] = ()  # of the validation split: it too asks for words never met

    def sayable(self, wordings: Wordings) -> tuple[str, ...]:
        """All phrases that a split may pick from."""
        besides = {"known": (), "more": self.more, "validation": self.validation, "test": self.held_out}
        return (*self.known, *besides[wordings])


class Wording(NamedTuple):
    """A phrase that was picked and whether it is held out of training."""

    text: str
    held_out: bool


def pick(phrasing: Phrasing, rng: random.Random, wordings: Wordings) -> Wording:
    """A uniform choice among the phrases that may be said."""
    phrases = phrasing.sayable(wordings)
    index = rng.randrange(len(phrases))
    return Wording(phrases[index], wordings == "test" and index >= len(phrasing.known))


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
