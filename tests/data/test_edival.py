"""EdiVal's CSV: own rows in its published columns."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.edival import read_edival, write_edival
from data.errors import UserError
from data.mice import read_mice

FIXTURE = Path(__file__).with_name("published.jsonl")
HEADER = (
    "image_index,turns,task_type,instructions,format_instructions,bg_consistency,"
    "unchanged_objects,available_objects,all_objects\n"
)
GOOD = """7,1,['subject_remove'],['Remove mug'],['Remove [mug]'],True,['jug'],['jug'],"['jug', 'mug']"
7,2,"['subject_remove', 'count_change']","['Remove mug', '""Change the count of jug to 3""']","['Remove [mug]', \
'""Change the count of [jug] to [3]""']",False,[],['jug'],"['jug', 'mug']"
9,1,['position_change'],['Move it'],['Change the position of [a] to [left] of [b].'],True,[],[],[]
"""


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "a.csv").write_text(text)
    return tmp_path / "a.csv"


def test_prefixes_become_sessions(tmp_path):
    result = read_edival(write(tmp_path, HEADER + GOOD), split="test")
    assert not result.quarantine
    first, second = result.sessions
    assert (first.id, first.image, first.track, first.split) == ("7", "7_input_raw.jpg", None, "test")
    assert [turn.formatted_instruction for turn in first.turns] == ["Remove [mug]", "Change the count of [jug] to [3]"]
    assert [turn.bg_consistency for turn in first.turns] == [True, False]
    assert first.turns[0].all_objects == ("jug", "mug")
    assert second.turns[0].formatted_instruction.endswith("[b]")
    assert result.counts.by_track == {"cm": 0, "cu": 0}


def test_sessions_come_back_from_the_csv(tmp_path):
    sessions = read_edival(write(tmp_path, HEADER + GOOD)).sessions
    assert write_edival(sessions, tmp_path / "out.csv") == 3
    assert read_edival(tmp_path / "out.csv").sessions == sessions
    mice = read_mice(FIXTURE).sessions
    write_edival(mice, tmp_path / "mice.csv")
    back = read_edival(tmp_path / "mice.csv").sessions
    assert [session.turns for session in back] == [session.turns for session in mice]


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        (GOOD.replace("7,2", "7,3"), "wrong_length"),
        (GOOD.replace("\"['subject_remove', 'count_change']\"", "['count_change']"), "wrong_length"),
        (GOOD.replace("['Remove mug'],", "__import__('os'),"), "bad_row"),
        (
            GOOD.replace("['Remove [mug]'],", "['Remove []'],").replace("['Remove [mug]', ", "['Remove []', "),
            "empty_object_slot",
        ),
        (GOOD.replace("True,['jug']", "1,['jug']"), "bad_type"),
        (GOOD.replace("7,1,", "../7,1,").replace("7,2,", "../7,2,"), "unsafe_path"),
    ],
)
def test_defects_go_to_the_quarantine(tmp_path, rows, code):
    result = read_edival(write(tmp_path, HEADER + rows))
    assert [(defect.line, defect.code) for defect in result.quarantine] == [(2, code)]
    assert [session.id for session in result.sessions] == ["9"]
    assert "Change the count" in result.quarantine[0].row


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", HEADER])
def test_files_that_are_no_edival(tmp_path, text):
    with pytest.raises(UserError, match=r"a\.csv"):
        read_edival(write(tmp_path, text))
    with pytest.raises(UserError, match="none"):
        read_edival(tmp_path / "none.csv")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, len(GOOD)), st.integers(0, 5), st.text(max_size=5))
def test_mutated_files_never_raise_anything_but_a_user_error(tmp_path, at, cut, text):
    path = tmp_path / "mutated.csv"
    path.write_bytes((HEADER + GOOD[:at] + text + GOOD[at + cut :]).encode("utf-8", "surrogatepass"))
    try:
        result = read_edival(path)
    except UserError:
        return
    assert result.sessions or result.quarantine
