"""Sessions on photographs: rules stated and needed, references that resolve, lists that follow the edits."""

import json
from pathlib import Path

import pytest
from PIL import Image

from data.errors import UserError
from data.photographs import synthesise
from data.schema import EditType

LIST = [
    {"image": "a/one.jpg", "objects": ["white cup", "metal silver kettle", "old tree"], "texts": {"white cup": "TEA"}},
    {"image": "a/two.png", "objects": ["red car", "dog"]},
]


@pytest.fixture
def photographs(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (30, 20), "red").save(tmp_path / "a" / "one.jpg")
    Image.new("RGB", (20, 30), "blue").save(tmp_path / "a" / "two.png")
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in LIST))
    return tmp_path / "list.jsonl", tmp_path


def many(photographs):
    path, folder = photographs
    return synthesise(path, folder, turns=(2, 6), copies=60).sessions


def test_both_tracks_and_all_types_come_about(photographs):
    path, folder = photographs
    result = synthesise(path, folder, turns=(2, 6), copies=60)
    assert not result.quarantine
    assert result.counts.by_track == {"cm": 60, "cu": 60}
    assert all(result.counts.by_type[kind] > 10 for kind in EditType)
    assert result.sessions == synthesise(path, folder, turns=(2, 6), copies=60).sessions
    assert result.sessions != synthesise(path, folder, turns=(2, 6), copies=60, seed=1).sessions


def test_every_session_needs_its_memory(photographs):
    for session in many(photographs):
        needs = [need for turn in session.turns for need in turn.needs or ()]
        kinds = {need.kind for need in needs}
        assert kinds == ({"constraint"} if session.track == "cm" else {"reference"})
        assert all(
            1 <= need.stated < number for number, turn in enumerate(session.turns, 1) for need in turn.needs or ()
        )


def test_a_rule_is_stated_once_and_its_value_is_in_every_intent_that_obeys(photographs):
    for session in many(photographs):
        if session.track != "cm":
            continue
        rule, _, _ = session.turns[0].instruction.rpartition(" now ")
        for turn in session.turns[1:]:
            if turn.needs:
                value = turn.intent.rsplit(" in ", 1)[1]
                assert value in rule.split() and rule not in turn.instruction


def test_references_hide_the_name_and_the_slots_resolve_it(photographs):
    for session in many(photographs):
        available = list(LIST[session.image.endswith("png")]["objects"])
        for turn in session.turns:
            if turn.needs and turn.needs[0].kind == "reference":
                subject = turn.formatted_instruction.split("[")[1].split("]")[0]
                assert subject in available and f"the {subject}" not in turn.instruction
            available = list(turn.available_objects)


def test_lists_follow_the_edits(photographs):
    for session in many(photographs):
        for turn in session.turns:
            assert set(turn.available_objects) <= set(turn.all_objects)
            assert set(turn.unchanged_objects) <= set(turn.available_objects)
            if turn.task_type == EditType.SUBJECT_REMOVE:
                assert turn.formatted_instruction[8:-1] not in turn.available_objects


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("{", "bad_json"),
        ("[]", "bad_row"),
        ('{"image": "a/one.jpg", "objects": ["x"]}', "bad_row"),
        ('{"image": "a/one.jpg", "objects": ["x", "x"]}', "bad_row"),
        ('{"image": "a/one.jpg", "objects": ["x", 1]}', "bad_row"),
        ('{"image": "a/one.jpg", "objects": ["x", "The object is a dog."]}', "leaked_answer"),
        ('{"image": "a/one.jpg", "objects": ["x", "y"], "texts": {"z": "A"}}', "bad_row"),
        ('{"image": "../one.jpg", "objects": ["x", "y"]}', "unsafe_path"),
        ('{"image": "a/none.jpg", "objects": ["x", "y"]}', "missing_image"),
    ],
)
def test_bad_lines_are_quarantined(photographs, line, code):
    path, folder = photographs
    path.write_text(line + "\n" + path.read_text())
    result = synthesise(path, folder, copies=1)
    assert [(defect.line, defect.code) for defect in result.quarantine] == [(1, code)]
    assert len(result.sessions) == 2


def test_errors_of_use(photographs, tmp_path):
    path, folder = photographs
    with pytest.raises(UserError, match="out of range"):
        synthesise(path, folder, turns=(1, 3))
    with pytest.raises(UserError, match="none"):
        synthesise(tmp_path / "none.jsonl", folder)
    path.write_text("\n")
    with pytest.raises(UserError, match="holds no line"):
        synthesise(path, folder)
