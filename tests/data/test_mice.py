"""Import of published annotations: nothing is lost, nothing is dropped in silence, nothing raises."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from data.errors import UserError
from data.mice import Reader, published_row, read_mice, write_mice
from data.quarantine import original_lines, read_quarantine, write_quarantine

FIXTURE = Path(__file__).with_name("published.jsonl")
LINES = FIXTURE.read_bytes().splitlines()
SHARED = Path(__file__).parents[3] / "shared" / "mice"
published = pytest.mark.skipif(not SHARED.is_dir(), reason="the published annotations are not beside this checkout")


def read_lines(*lines: bytes, images: Path | None = None):
    reader = Reader(images, "", "")
    for number, line in enumerate(lines, start=1):
        reader.take(number, line)
    return reader.result()


def row(index: int = 0, **changes) -> bytes:
    return json.dumps({**json.loads(LINES[index]), **changes}).encode()


def test_the_fixture_is_sorted_into_sessions_and_defects():
    result = read_mice(FIXTURE)
    counts = result.counts
    assert (counts.sessions_read, counts.sessions_kept, counts.sessions_shortened) == (8, 4, 1)
    assert (counts.turns_quarantined, counts.rows_quarantined) == (2, 3)
    assert counts.turns_read == counts.turns_kept + counts.turns_quarantined + counts.turns_left_out
    assert counts.by_track == {"cm": 1, "cu": 3}
    assert counts.by_type["text_change"] == 2 and sum(counts.by_type.values()) == counts.turns_kept == 9
    found = [(d.line, d.turn, d.code, d.outcome, d.left_out) for d in result.quarantine]
    assert found == [
        (3, 2, "empty_text_slot", "kept up to turn 1", (3,)),
        (4, 1, "leaked_answer", "left out", (2,)),
        (5, None, "bad_json", "left out", ()),
        (6, None, "unsafe_path", "left out", (1,)),
        (8, None, "wrong_length", "left out", ()),
    ]
    assert all("\n" not in defect.sentence() for defect in result.quarantine)


def test_sound_rows_come_out_byte_for_byte(tmp_path):
    result = read_mice(FIXTURE)
    assert write_mice(result.sessions, tmp_path / "out.jsonl") == 4
    written = (tmp_path / "out.jsonl").read_bytes().splitlines()
    assert [written[0], written[1], written[3]] == [LINES[0], LINES[1], LINES[6]]
    again = read_mice(tmp_path / "out.jsonl")
    assert again.sessions == result.sessions and not again.quarantine


def test_the_quarantine_keeps_the_lines_themselves(tmp_path):
    lines = [*LINES, b"\xff\xfe not utf-8"]
    result = read_lines(*lines)
    assert write_quarantine(result.quarantine, tmp_path / "quarantine.jsonl") == len(result.quarantine)
    back = tuple(read_quarantine(tmp_path / "quarantine.jsonl"))
    assert back == result.quarantine
    assert list(original_lines(back)) == [lines[i] for i in (2, 3, 4, 5, 7, 8)]


def test_ids_are_unique_and_survive(tmp_path):
    result = read_lines(row(), row(), row(id="own", track="cu", split="train"), row(id="own"))
    assert [session.id for session in result.sessions] == ["garden", "garden-2", "own"]
    assert result.sessions[2].track == "cu"
    assert [defect.code for defect in result.quarantine] == ["duplicate_id"]
    write_mice(result.sessions, tmp_path / "out.jsonl")
    assert read_mice(tmp_path / "out.jsonl").sessions == result.sessions
    assert "id" not in published_row(result.sessions[0])


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{", "bad_json"),
        (b"[" * 100_000, "bad_json"),
        (b"[]", "bad_row"),
        (b"NaN", "bad_row"),
        (b"\xff", "not_utf8"),
        (row(image="a\ud800.png"), "not_utf8"),
        (b'{"image": "a"}', "bad_row"),
        (row(more=1), "bad_row"),
        (row(turns=2), "wrong_length"),
        (row(turns=True), "bad_row"),
        (row(turns=0), "bad_row"),
        (row(turns=10**30), "bad_row"),
        (row(task_type=None), "bad_row"),
        (row(image=7), "bad_row"),
        (row(image="/etc/passwd"), "unsafe_path"),
        (row(image="C:/x.png"), "unsafe_path"),
        (row(image="a/../../x.png"), "unsafe_path"),
        (row(image="a\\..\\x.png"), "unsafe_path"),
        (row(image="http://x/y.png"), "unsafe_path"),
        (row(image="a\x00b"), "unsafe_path"),
        (row(image=""), "unsafe_path"),
        (row(id="../up"), "bad_row"),
        (row(track="other"), "bad_row"),
        (row(scene={"source": {}}), "bad_row"),
        (b" " * 4_000_001, "too_long"),
    ],
)
def test_rows_that_are_no_session(line, code):
    result = read_lines(line)
    assert [(defect.code, defect.turn) for defect in result.quarantine] == [(code, None)]
    assert not result.sessions and len(result.quarantine[0].reason) < 300


@pytest.mark.parametrize(
    ("column", "value", "code"),
    [
        ("instruction", 7, "bad_type"),
        ("instruction", " ", "empty_instruction"),
        ("bg_consistency", "yes", "bad_type"),
        ("unchanged_objects", ["a", 1], "bad_type"),
        ("task_type", "style_change", "unknown_edit_type"),
        ("formatted_instruction", "Paint it", "unparseable_slots"),
    ],
)
def test_a_defective_turn_ends_its_session_before_it(column, value, code):
    values = json.loads(LINES[0])[column]
    result = read_lines(row(**{column: [values[0], value, values[2]]}))
    assert [(defect.turn, defect.code, defect.left_out) for defect in result.quarantine] == [(2, code, (3,))]
    assert [len(session.turns) for session in result.sessions] == [1]


def test_every_defective_turn_of_a_session_is_listed():
    result = read_lines(row(formatted_instruction=["Remove [dog]", "Change the count of [dog] to [9]", "x"]))
    assert [defect.turn for defect in result.quarantine] == [1, 3]
    assert {defect.left_out for defect in result.quarantine} == {(2,)}


def test_images_are_looked_at_when_their_folder_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr("data.pictures.MAX_PIXELS", 50)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "photos" / "good.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "huge.png")
    (tmp_path / "photos" / "text.png").write_text("not a picture")
    (tmp_path / "photos" / "cut.png").write_bytes((tmp_path / "photos" / "good.png").read_bytes()[:42])
    (tmp_path / "photos" / "link.png").symlink_to("/etc/hostname")
    names = ("good", "huge", "text", "cut", "link", "none", "x" * 300)
    result = read_lines(*(row(image=f"photos/{name}.png") for name in names), images=tmp_path)
    assert [session.id for session in result.sessions] == ["good"]
    codes = [defect.code for defect in result.quarantine]
    assert codes == [
        "decompression_bomb",
        "not_an_image",
        "not_an_image",
        "unsafe_path",
        "missing_image",
        "missing_image",
    ]


def test_files_that_are_none(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n\n")
    for path in (tmp_path / "none.jsonl", tmp_path, tmp_path / "empty.jsonl"):
        with pytest.raises(UserError, match=path.name):
            read_mice(path)


def test_byte_order_mark_blank_lines_and_windows_line_ends(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + LINES[0] + b"\r\n\r\n" + LINES[1])
    result = read_mice(tmp_path / "a.jsonl")
    assert result.counts.sessions_kept == 2 and not result.quarantine


def test_a_prefix_can_be_stripped(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(row(image="/data/authors/photos/a.jpg"))
    assert read_mice(tmp_path / "a.jsonl", strip_prefix="/data/authors/").sessions[0].image == "photos/a.jpg"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def mutated(draw) -> bytes:
    """A line of the fixture with a value, an entry, a key or some bytes changed."""
    line = draw(st.sampled_from([LINES[i] for i in (0, 1, 2, 3, 5, 6)]))
    content = json.loads(line)
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from([*content, "scene", "id", "track", "split", "intent", "needs"]))
        column = content.get(key)
        if isinstance(column, list) and column and draw(st.booleans()):
            at = draw(st.integers(0, len(column) - 1))
            slot = st.text(max_size=30).map(lambda text: f"Remove [{text}]")
            column[at] = draw(JSON | slot)
        else:
            content[key] = draw(JSON)
    text = json.dumps(content, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    if draw(st.booleans()):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.binary(max_size=4)) + text[at + draw(st.integers(0, 3)) :]
    return text.replace(b"\n", b" ")


def ends_in_a_session_or_the_quarantine(line: bytes) -> None:
    result = read_lines(line)
    assert result.counts.sessions_kept or result.quarantine
    assert result.counts.turns_read == (
        result.counts.turns_kept + result.counts.turns_quarantined + result.counts.turns_left_out
    )
    for session in result.sessions:
        again = read_lines(json.dumps(published_row(session)).encode())
        assert again.sessions == (session,)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated())
def test_mutated_lines(line):
    ends_in_a_session_or_the_quarantine(line)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated())
def test_ten_thousand_mutated_lines(line):
    ends_in_a_session_or_the_quarantine(line)


@published
def test_the_published_training_file():
    counts = read_mice(SHARED / "cm_train_metadata.jsonl").counts
    assert (counts.sessions_read, counts.turns_read, counts.rows_quarantined) == (1850, 5550, 0)
    assert counts.by_reason == {"empty_text_slot": 95, "leaked_answer": 2}
    assert counts.turns_quarantined == 97
    assert counts.by_track == {"cm": counts.sessions_kept, "cu": 0}


@published
@pytest.mark.parametrize("name", ["cm_train_metadata.jsonl", "cu_sample_metadata.jsonl"])
def test_published_files_come_out_as_they_went_in(name, tmp_path):
    result = read_mice(SHARED / name)
    write_mice(result.sessions, tmp_path / name)
    again = read_mice(tmp_path / name)
    assert again.sessions == result.sessions and not again.quarantine
    whole = set((SHARED / name).read_bytes().splitlines()) - set(original_lines(result.quarantine))
    assert whole <= set((tmp_path / name).read_bytes().splitlines())
