"""The published slot grammar and the line between a noun phrase and running text."""

import pytest

from data.slots import EDIT_TYPES, SlotError, Slots, parse

GOOD = [
    ("subject_add", "Add [red kite] on the [above] of [old tree]", ("red kite", "above", "old tree")),
    ("subject_add", "Add [red kite]", ("red kite",)),
    ("subject_remove", "Remove [change purse]", None),
    ("subject_remove", "Remove [it-girl poster (]", None),
    ("subject_remove", "Remove [format:**]", None),
    ("subject_remove", "Remove [round goggles,]", None),
    ("subject_remove", "Remove [coca-cola co. can]", None),
    ("background_change", "Change the background to [beach) - sand]", None),
    ("subject_remove", "Remove [St. Bernard dog]", ("St. Bernard dog",)),
    ("subject_replace", "Replace [jack-o'-lantern] with [camera_bag]", ("jack-o'-lantern", "camera_bag")),
    ("color_alter", "Change the color of [tin can] to [dark blue]", ("tin can", "dark blue")),
    ("material_alter", "Change the material of [7.5 kg dumbbell] to [carbon fiber]", None),
    ("text_change", "Add text '[Look. Behind you!]' on the image", ("Look. Behind you!",)),
    ("text_change", "Replace the text '[a\nb [c]]' on [sign] with '[d]']' with '[e]'", None),
    ("text_change", "Replace the text '[Dear all,\n- I am here.\n- Wait.]' on [white sign] with '[早]'", None),
    ("position_change", "Change the position of [i-beam] to [left] of [he-man toy]", None),
    ("count_change", "Change the count of [no. 3 plates] to [12]", ("no. 3 plates", "12")),
    ("background_change", "Change the background to [Room with chairs, a lamp, and posters on the walls]", None),
]
LEAKS = [
    "a dog\nand a cat",
    "thought Standard count is 1",
    "red ball.",
    "red ball. Change the count",
    "The user wants a dog",
    "Object: red car",
    "Sure, a red ball",
    "I think a cat",
    "Change the count of toolbox to 3",
    "`dog`",
    '{"point": 1}',
    "a very long list of words that no one would call a noun phrase at all",
    "kite\u2028tree",
    "什么？狗",
    "1. red ball",
    "I'd suggest a dog",
    "let me think",
    "the car which appears red",
    "dog; cat",
    "The image shows a red car",
    "Change count from one to three",
]


def test_all_nine_types_have_a_form():
    assert len(EDIT_TYPES) == 9 and {case[0] for case in GOOD} == set(EDIT_TYPES)


@pytest.mark.parametrize(("edit_type", "text", "values"), GOOD)
def test_well_formed(edit_type, text, values):
    slots = parse(edit_type, text)
    assert isinstance(slots, Slots), slots
    assert values is None or slots.values == values


@pytest.mark.parametrize("slot", LEAKS)
@pytest.mark.parametrize("form", ["Remove [{}]", "Replace [{}] with [cat]", "Replace [cat] with [{}]"])
def test_leaked_answers(form, slot):
    error = parse("subject_remove" if form.startswith("Remove") else "subject_replace", form.format(slot))
    assert isinstance(error, SlotError) and error.code == "leaked_answer"
    assert "\n" not in error.reason


def test_an_answer_in_place_of_the_whole_instruction():
    error = parse("count_change", "thought Let me see.\n1. Change the count of [object] to [3]\nDone.")
    assert isinstance(error, SlotError) and error.code == "leaked_answer"


@pytest.mark.parametrize(
    ("edit_type", "text", "code"),
    [
        ("text_change", "Add text '[]' on the image", "empty_text_slot"),
        ("text_change", "Replace the text '[ABC]' on [sign] with '[ ]'", "empty_text_slot"),
        ("text_change", "Replace the text '[]' on [sign] with '[A]'", "empty_text_slot"),
        ("text_change", "Replace the text '[A]' on [] with '[A]'", "empty_object_slot"),
        ("subject_remove", "Remove []", "empty_object_slot"),
        ("subject_remove", "Remove dog", "unparseable_slots"),
        ("subject_remove", "Remove [dog", "unparseable_slots"),
        ("subject_remove", "Remove [dog] [cat]", "unparseable_slots"),
        ("subject_remove", "Add [dog]", "unparseable_slots"),
        ("subject_remove", "kindly Remove [dog]", "unparseable_slots"),
        ("subject_add", "Add [dog] on the [behind] of [cat]", "bad_side"),
        ("count_change", "Change the count of [dog] to [many]", "bad_count"),
        ("count_change", "Change the count of [dog] to [0]", "bad_count"),
        ("count_change", "Change the count of [dog] to [٣]", "bad_count"),
        ("style_change", "Paint [dog]", "unknown_edit_type"),
    ],
)
def test_defects_have_a_code(edit_type, text, code):
    error = parse(edit_type, text)
    assert isinstance(error, SlotError), error
    assert error.code == code


def test_slots_by_kind():
    slots = parse("position_change", "Change the position of [a cup] to [left] of [a jug]")
    assert slots.of("object") == ("a cup", "a jug") and slots.of("side") == ("left",)
