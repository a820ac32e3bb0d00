"""How standing rules are worded, replaced and withdrawn."""

from __future__ import annotations

from data.wordings import Phrasing

_EDITED = Phrasing(
    (
        "from now on everything you add or change is {value}",
        "always make everything you add or change {value}",
        "everything added or changed should be {value}",
    ),
    ("from now on make everything you add or change {value}",),
    more=(
        "everything you add or change should be {value} from now on",
        "everything you add or change is always {value}",
        "every object you add or change should be {value}",
        "when you add or change an object make it {value}",
        "make every object {value} when you add or change it",
        "every object added or changed is {value} from now on",
        "use {value} for everything you add or change",
        "always use {value} when you add or change an object",
        "the rule is {value} for everything you add or change",
    ),
    validation=(
        "everything should be {value} when you add or change it",
        "every object should always be {value} when you change or add it",
        "now everything added or changed is always {value}",
    ),
)
_ADDED = Phrasing(
    (
        "from now on everything you add is {value}",
        "always make everything you add {value}",
        "everything added should be {value}",
    ),
    ("from now on make everything you add {value}",),
    more=(
        "everything you add should be {value} from now on",
        "everything you add is always {value}",
        "every object you add should be {value}",
        "when you add an object make it {value}",
        "make every object {value} when you add it",
        "every object added is {value} from now on",
        "use {value} for everything you add",
        "always use {value} when you add an object",
        "the rule is {value} for everything you add",
    ),
    validation=(
        "everything should be {value} when you add it",
        "every object should always be {value} when you add it",
        "now everything added is always {value}",
    ),
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
        more=(
            "every {kind} you add or change should be {value} from now on",
            "every {kind} you add or change is always {value}",
            "when you add or change a {kind} make it {value}",
            "make every {kind} {value} when you add or change it",
            "use {value} for every {kind} you add or change",
            "always use {value} when you add or change a {kind}",
            "every {kind} added or changed is {value} from now on",
            "the rule is {value} for every {kind} you add or change",
        ),
        validation=(
            "every {kind} should be {value} when you add or change it",
            "now every {kind} added or changed is always {value}",
        ),
    ),
    "coupled_material": Phrasing(
        (
            "from now on everything you color is also {value}",
            "always make everything you color {value} too",
            "everything you color should also be {value}",
        ),
        ("from now on make everything you color also {value}",),
        more=(
            "everything you color is always {value} too",
            "when you color an object make it {value} too",
            "when you change the color of an object make it {value} too",
            "every object you color should be {value} too",
            "use {value} too for everything you color",
            "also use {value} when you color an object",
            "every object you color is also {value} from now on",
            "when the color is changed the material should be {value}",
        ),
        validation=(
            "when you color an object it should also be {value}",
            "everything is also {value} when you color it",
        ),
    ),
    "mirror": Phrasing(
        (
            "from now on mirror everything you add to the other side",
            "always mirror everything you add",
            "everything added should also be on the other side",
        ),
        ("always mirror everything added to the other side",),
        more=(
            "when you add an object mirror it to the other side",
            "when you add an object add it on the other side too",
            "every object you add should also be on the other side",
            "from now on add everything on the other side too",
            "mirror every object you add",
            "also put everything you add on the other side",
            "everything you add is also there on the other side",
            "use the mirror for everything you add",
        ),
        validation=(
            "mirror every object when you add it",
            "add everything on the other side too from now on",
        ),
    ),
    "pairs": Phrasing(
        (
            "from now on add everything two times",
            "always add two of everything",
            "everything added should be there two times",
        ),
        ("from now on add two of everything",),
        more=(
            "everything you add should be there two times",
            "when you add an object add it two times",
            "every object you add should be there two times",
            "always put two of everything you add",
            "from now on draw everything you add two times",
            "when you add one make it two",
            "every object added is there two times from now on",
            "add every object two times from now on",
        ),
        validation=(
            "everything is two times there when you add it",
            "put every object two times when you add it",
        ),
    ),
    "row": Phrasing(
        (
            "from now on put everything you add in the {value} row",
            "always add everything in the {value} row",
            "everything added should be in the {value} row",
        ),
        ("always put everything you add in the {value} row",),
        more=(
            "when you add an object put it in the {value} row",
            "everything you add should be in the {value} row",
            "every object you add is in the {value} row from now on",
            "use the {value} row for everything you add",
            "from now on the {value} row is for everything you add",
            "from now on add every object in the {value} row",
            "place every object you add in the {value} row",
            "the row of everything you add is always {value}",
        ),
        validation=(
            "every object you add should go to the {value} row",
            "when you add an object use the {value} row",
        ),
    ),
    "leave_copy": Phrasing(
        (
            "from now on leave a copy of everything you move",
            "always leave a copy when you move an object",
            "everything you move should leave a copy",
        ),
        ("always leave a copy of everything you move",),
        more=(
            "when you move an object leave a copy of it",
            "every object you move should leave a copy",
            "from now on leave a copy when you move an object",
            "leave a copy in place of every object you move",
            "copy every object you move",
            "there should be a copy when you move an object",
            "when an object should move leave a copy there",
            "never move an object and leave nothing",
        ),
        validation=(
            "every object should leave a copy when you move it",
            "keep a copy of every object you move there",
        ),
    ),
    "oldest_out": Phrasing(
        (
            "from now on remove the object added first when you add one",
            "always swap the object added first for the one you add",
            "the object added first should go when you add one",
        ),
        ("always remove the object added first when you add one",),
        more=(
            "when you add an object remove the one added first",
            "when you add one the object added first should go away",
            "for every object you add the one added first should go",
            "for everything you add remove the first one added",
            "delete the object added first when you add another",
            "from now on drop the object added first when you add another",
            "every object you add should replace the one added first",
            "take away the first one added when you add an object",
        ),
        validation=(
            "when you add another one erase the object added first",
            "the first object added should go away when you add one",
        ),
    ),
    "protect": Phrasing(
        ("never change {it}", "from now on leave {it} as it is", "always keep {it} as it is"),
        ("from now on never change {it}",),
        more=(
            "keep {it} as it is from now on",
            "leave {it} as it is from now on",
            "{it} should never change",
            "{it} should always be as it is",
            "never edit {it}",
            "from now on keep {it} the same",
            "always leave {it} as it is",
            "from now on {it} should be as it is",
        ),
        validation=(
            "{it} should be the same from now on",
            "keep {it} always the same",
        ),
    ),
    "background_lock": Phrasing(
        (
            "never change the background",
            "from now on leave the background as it is",
            "always keep the background as it is",
        ),
        ("from now on never change the background",),
        more=(
            "keep the background as it is from now on",
            "leave the background as it is from now on",
            "the background should never change",
            "the background should always be as it is",
            "never edit the background",
            "from now on keep the background the same",
            "always leave the background as it is",
            "from now on the background should be as it is",
        ),
        validation=(
            "the background should be the same from now on",
            "keep the background always the same",
        ),
    ),
    "only_edited": Phrasing(
        (
            "from now on change only the object you edit",
            "never change another object",
            "always leave every other object as it is",
        ),
        ("always change only the object you edit",),
        more=(
            "every other object should be as it is",
            "when you edit an object change only it",
            "only the object you edit should change",
            "keep every other object as it is from now on",
            "never edit another object too",
            "from now on leave every other object as it is",
            "when you edit an object every other should be as it is",
            "every other object should never change",
        ),
        validation=(
            "every other object should be the same from now on",
            "when you edit one object leave every other as it is",
        ),
    ),
    "withdraw": Phrasing(
        ("forget the {topic} rule", "drop the {topic} rule", "the {topic} rule is over"),
        ("from now on forget the {topic} rule",),
        more=(
            "remove the {topic} rule",
            "get rid of the {topic} rule",
            "erase the {topic} rule",
            "delete the {topic} rule",
            "undo the {topic} rule",
            "take the {topic} rule away",
            "the {topic} rule should go away",
            "never use the {topic} rule",
        ),
        validation=(
            "take away the {topic} rule",
            "put the {topic} rule away",
        ),
    ),
    "revise": Phrasing(
        ("change the {topic} rule to {value}", "the {topic} rule is now {value}", "set the {topic} rule to {value}"),
        ("from now on the {topic} rule is {value}",),
        more=(
            "make the {topic} rule {value}",
            "turn the {topic} rule to {value}",
            "the {topic} rule should be {value}",
            "use {value} in the {topic} rule",
            "replace the {topic} rule with {value}",
            "swap the {topic} rule for {value}",
            "use {value} for the {topic} rule",
            "the {topic} rule should now be {value}",
        ),
        validation=(
            "{value} is now the {topic} rule",
            "put {value} in the {topic} rule",
        ),
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
