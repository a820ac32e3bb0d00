"""How standing rules are worded, replaced and withdrawn."""

from __future__ import annotations

from typing import NamedTuple


class Phrasing(NamedTuple):
    """Phrases of one meaning: shown in every split, held out for test, and shown to the base model alone."""

    known: tuple[str, ...]
    held_out: tuple[str, ...]
    early: tuple[str, ...] = ()


_EDITED = Phrasing(
    (
        "from now on everything you add or change is {value}",
        "always make everything you add or change {value}",
        "everything added or changed should be {value}",
    ),
    ("from now on make everything you add or change {value}",),
)
_ADDED = Phrasing(
    (
        "from now on everything you add is {value}",
        "always make everything you add {value}",
        "everything added should be {value}",
    ),
    ("from now on make everything you add {value}",),
)

RULES: dict[str, Phrasing] = {
    "edited_colour": _EDITED,
    "edited_material": _EDITED,
    "edited_size": _EDITED,
    "added_colour": _ADDED,
    "added_material": _ADDED,
    "added_size": _ADDED,
    "kind_colour": Phrasing(
        (
            "from now on every {kind} you add or change is {value}",
            "always make every {kind} you add or change {value}",
            "every {kind} added or changed should be {value}",
        ),
        ("from now on make every {kind} you add or change {value}",),
    ),
    "coupled_material": Phrasing(
        (
            "from now on everything you color is also {value}",
            "always make everything you color {value} too",
            "everything you color should also be {value}",
        ),
        ("from now on make everything you color also {value}",),
    ),
    "mirror": Phrasing(
        (
            "from now on mirror everything you add to the other side",
            "always mirror everything you add",
            "everything added should also be on the other side",
        ),
        ("always mirror everything added to the other side",),
    ),
    "pairs": Phrasing(
        (
            "from now on add everything two times",
            "always add two of everything",
            "everything added should be there two times",
        ),
        ("from now on add two of everything",),
    ),
    "row": Phrasing(
        (
            "from now on put everything you add in the {value} row",
            "always add everything in the {value} row",
            "everything added should be in the {value} row",
        ),
        ("always put everything you add in the {value} row",),
    ),
    "leave_copy": Phrasing(
        (
            "from now on leave a copy of everything you move",
            "always leave a copy when you move an object",
            "everything you move should leave a copy",
        ),
        ("always leave a copy of everything you move",),
    ),
    "oldest_out": Phrasing(
        (
            "from now on remove the object added first when you add one",
            "always swap the object added first for the one you add",
            "the object added first should go when you add one",
        ),
        ("always remove the object added first when you add one",),
    ),
    "protect": Phrasing(
        ("never change {it}", "from now on leave {it} as it is", "always keep {it} as it is"),
        ("from now on never change {it}",),
    ),
    "background_lock": Phrasing(
        (
            "never change the background",
            "from now on leave the background as it is",
            "always keep the background as it is",
        ),
        ("from now on never change the background",),
    ),
    "only_edited": Phrasing(
        (
            "from now on change only the object you edit",
            "never change another object",
            "always leave every other object as it is",
        ),
        ("always change only the object you edit",),
    ),
    "withdraw": Phrasing(
        ("forget the {topic} rule", "drop the {topic} rule", "the {topic} rule is over"),
        ("from now on forget the {topic} rule",),
    ),
    "revise": Phrasing(
        ("change the {topic} rule to {value}", "the {topic} rule is now {value}", "set the {topic} rule to {value}"),
        ("from now on the {topic} rule is {value}",),
    ),
}
TOPICS = {
    "color": "color",
    "material": "material",
    "size": "size",
    "mirror": "mirror",
    "pair": "two times",
    "row": "row",
    "copy": "copy",
    "swap": "swap",
    "object": "object",
    "background": "background",
    "focus": "other object",
}
"""How a rule of a topic is called when it is withdrawn: `forget the two times rule`."""
JOINT = "now"
"""Stands between a rule and the edit of the same turn."""
