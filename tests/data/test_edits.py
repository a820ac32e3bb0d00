import pytest

from data.constraints import Case, Rule, govern, governed, may_state
from data.edits import Request, apply, formatted, noun
from data.scenes import TINY, Scene, SceneObject
from data.schema import EditType

BALL = SceneObject("ball", "red", "plain", "large")
CONE = SceneObject("cone", "blue", "striped", "small")
NEW = SceneObject("frame", "white", "plain", "large")
#  ball  .     cone
#  .     .     .
#  .     ball  .
SCENE = Scene("sand", (BALL, None, CONE, None, None, None, None, BALL, None))
ADD = Request(EditType.SUBJECT_ADD, place=3, thing=NEW, anchor=0, side="below")


def ruled(request, *rules, added=()):
    return govern(rules, Case(TINY, SCENE, request, added), apply(SCENE, request))


@pytest.mark.parametrize(
    ("request_", "cells"),
    [
        (ADD, {3: NEW}),
        (Request(EditType.SUBJECT_REMOVE, (0, 7)), {0: None, 7: None}),
        (Request(EditType.SUBJECT_REPLACE, (2,), value="frame"), {2: CONE._replace(kind="frame")}),
        (
            Request(EditType.COLOR_ALTER, (0, 7), value="green"),
            {0: BALL._replace(colour="green"), 7: BALL._replace(colour="green")},
        ),
        (Request(EditType.MATERIAL_ALTER, (2,), value="plain"), {2: CONE._replace(material="plain")}),
        (Request(EditType.TEXT_CHANGE, place=1, value="bk", thing=TINY.sign("bk")), {1: TINY.sign("bk")}),
        (Request(EditType.POSITION_CHANGE, (2,), 8, anchor=7, side="right"), {2: None, 8: CONE}),
        (Request(EditType.COUNT_CHANGE, (0, 7), number=3), {1: BALL}),
        (Request(EditType.COUNT_CHANGE, (0, 7), number=1), {7: None}),
    ],
)
def test_each_type_changes_exactly_its_cells(request_, cells):
    expected = SCENE
    for cell, thing in cells.items():
        expected = expected.place(cell, thing)
    assert apply(SCENE, request_).scene == expected


def test_background_and_impossible_requests():
    assert apply(SCENE, Request(EditType.BACKGROUND_CHANGE, value="night")).scene == Scene("night", SCENE.cells)
    with pytest.raises(ValueError, match="empty"):
        apply(SCENE, Request(EditType.SUBJECT_REMOVE, (4,)))
    with pytest.raises(ValueError, match="room"):
        apply(SCENE, ADD._replace(place=0))


def test_forms():
    names = {0: "red ball", 2: "cone", 7: "red ball"}
    assert formatted(ADD, names, "frame") == "Add [frame] on the [below] of [red ball]"
    assert formatted(Request(EditType.POSITION_CHANGE, (2,), 8, anchor=7, side="right"), names) == (
        "Change the position of [cone] to [right] of [red ball]"
    )
    assert formatted(Request(EditType.COUNT_CHANGE, (0, 7), number=3), names) == "Change the count of [red ball] to [3]"
    assert noun(CONE, TINY) == "small striped blue cone" and noun(BALL, TINY) == "red ball"


RED = Rule("edited_colour", "green", 1)


def test_edited_rules_dress_what_is_edited_and_exempt_removals():
    effect, duties, binding = ruled(ADD, RED)
    assert effect.scene.cells[3] == NEW._replace(colour="green") and duties == ((3, "colour"),) and binding == (RED,)
    effect, duties, binding = ruled(Request(EditType.SUBJECT_REMOVE, (0,)), RED)
    assert effect.scene == SCENE.place(0, None) and not duties and not binding
    effect, _, _ = ruled(Request(EditType.POSITION_CHANGE, (2,), 8), RED, Rule("edited_size", "large", 1))
    assert effect.scene.cells[8] == CONE._replace(colour="green", size="large")


def test_added_rules_leave_changes_alone():
    rule = Rule("added_material", "striped", 1)
    assert ruled(ADD, rule)[0].scene.cells[3] == NEW._replace(material="striped")
    assert ruled(Request(EditType.COLOR_ALTER, (0,), value="blue"), rule)[2] == ()


def test_placing_rules():
    assert ruled(ADD, Rule("mirror", "", 1))[0].scene == SCENE.place(3, NEW).place(5, NEW)
    assert ruled(ADD, Rule("pairs", "", 1))[0].scene == SCENE.place(3, NEW).place(1, NEW)
    bare = ADD._replace(place=1, side="")
    assert ruled(bare, Rule("row", "bottom", 1))[0].scene == SCENE.place(6, NEW)
    assert ruled(ADD, Rule("oldest_out", "", 1), added=(7, 0))[0].scene == SCENE.place(3, NEW).place(7, None)
    moved = Request(EditType.POSITION_CHANGE, (2,), 8)
    assert ruled(moved, Rule("leave_copy", "", 1))[0].scene == SCENE.place(8, CONE)


def test_copies_are_dressed_by_other_rules():
    effect, _, binding = ruled(ADD, RED, Rule("mirror", "", 1))
    assert effect.scene.cells[5] == effect.scene.cells[3] == NEW._replace(colour="green") and len(binding) == 2


def test_prohibitions():
    protect = Rule("protect", "", 1, cell=0)
    effect, duties, _ = ruled(Request(EditType.COLOR_ALTER, (0, 7), value="blue"), protect)
    assert effect.scene == SCENE.place(7, BALL._replace(colour="blue")) and (0, "colour") in duties
    effect, _, binding = ruled(Request(EditType.BACKGROUND_CHANGE, value="night"), Rule("background_lock", "", 1))
    assert effect.scene == SCENE and binding


def test_conditional_rules():
    kind = Rule("kind_colour", "frame purple", 1)
    assert ruled(ADD, kind)[0].scene.cells[3] == NEW._replace(colour="purple")
    assert not ruled(ADD._replace(thing=CONE), kind)[2]
    coupled = Rule("coupled_material", "striped", 1)
    effect, _, _ = ruled(Request(EditType.COLOR_ALTER, (0,), value="blue"), coupled)
    assert effect.scene.cells[0] == SceneObject("ball", "blue", "striped", "large")


def test_rules_that_meet():
    assert not may_state("added_colour", (RED,)) and may_state("added_size", (RED,))
    assert not may_state("pairs", (Rule("mirror", "", 1),))
    assert governed((RED, Rule("added_size", "small", 1)), "ball", new=True) == {"colour", "size"}
    assert governed((RED, Rule("added_size", "small", 1)), "ball", new=False) == {"colour"}
