"""MagicBrush's parquet: own rows and pictures in its published columns."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.errors import UserError
from data.guess import guess
from data.magicbrush import read_magicbrush, read_pictures


def png(colour: str, size: tuple[int, int] = (8, 6), mode: str = "RGB") -> dict:
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def rows() -> list[dict]:
    turns = [
        ("17", 1, "Remove the mug from the table", "red", "green"),
        ("17", 2, "What if the jug wore a hat?", "green", "blue"),
        ("17", 3, "Add a spoon", "blue", "white"),
        ("23", 1, "Make the jug blue.", "white", "blue"),
        ("31", 2, "Add a spoon", "white", "blue"),
        ("40", 1, "is anyone there", "white", "blue"),
    ]
    names = ("img_id", "turn_index", "instruction", "source_img", "target_img")
    pictures = [(*turn[:3], png(turn[3]), png(turn[4])) for turn in turns]
    return [dict(zip(names, turn, strict=True)) | {"mask_img": png("black")} for turn in pictures]


def write(tmp_path: Path, table: list[dict]) -> Path:
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "a.parquet")
    return tmp_path / "a.parquet"


def test_turns_become_sessions_and_doubtful_ones_are_quarantined(tmp_path):
    result = read_magicbrush([write(tmp_path, rows())])
    assert [(session.id, len(session.turns), session.track) for session in result.sessions] == [
        ("17", 1, None),
        ("23", 1, None),
    ]
    assert result.sessions[0].image == "images/train/17/0.png"
    assert result.sessions[1].turns[0].formatted_instruction == "Change the color of [jug] to [blue]"
    found = [(d.session, d.turn, d.code, d.left_out) for d in result.quarantine]
    assert found == [
        ("17", 2, "unknown_edit_type", (3,)),
        (None, None, "wrong_length", ()),
        ("40", 1, "unknown_edit_type", ()),
    ]
    assert "wore a hat" in result.quarantine[0].row
    assert result.counts.sessions_read == 4


def test_pictures_come_with_them_in_the_size_asked_for(tmp_path):
    path = write(tmp_path, rows())
    sessions = read_magicbrush([path]).sessions
    pictures = dict(read_pictures([path], sessions, lambda width, height: (width * 2, height)))
    assert list(pictures) == [f"images/train/{name}/{k}.png" for name in ("17", "23") for k in (0, 1)]
    with Image.open(io.BytesIO(pictures["images/train/17/1.png"])) as image:
        assert image.size == (16, 6) and image.getpixel((0, 0)) == (0, 128, 0)


def test_transparency_is_put_on_white(tmp_path):
    table = rows()
    table[3]["target_img"] = png("#00000000", mode="RGBA")
    path = write(tmp_path, table)
    pictures = dict(read_pictures([path], read_magicbrush([path]).sessions))
    with Image.open(io.BytesIO(pictures["images/train/23/1.png"])) as image:
        assert image.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("cell", [{"bytes": None, "path": "x.jpg"}, {"bytes": b"no picture", "path": None}])
def test_a_bad_picture_is_named(tmp_path, cell):
    table = rows()
    table[0]["source_img"] = cell
    path = write(tmp_path, table)
    with pytest.raises(UserError, match="source of 17"):
        list(read_pictures([path], read_magicbrush([path]).sessions))


def test_files_that_are_none(tmp_path):
    (tmp_path / "text.parquet").write_text("no parquet")
    other = write(tmp_path, [{"a": 1}])
    for path, message in ((tmp_path / "text.parquet", "no readable parquet"), (other, "has no column img_id")):
        with pytest.raises(UserError, match=message):
            read_magicbrush([path])


@pytest.mark.parametrize(
    ("instruction", "kind", "formatted"),
    [
        ("Please remove the old car.", "subject_remove", "Remove [old car]"),
        ("let's add a red hat to the dog", "subject_add", "Add [red hat]"),
        ("Put a vase on the left side of the lamp", "subject_add", "Add [vase] on the [left] of [lamp]"),
        ("replace the cat with a dog", "subject_replace", "Replace [cat] with [dog]"),
        ("change the background to a beach", "background_change", "Change the background to [beach]"),
        ("change the color of the car to dark red", "color_alter", "Change the color of [car] to [dark red]"),
        ("turn the pot wooden", "material_alter", "Change the material of [pot] to [wooden]"),
        ("Add the text 'Sale' above the door", "text_change", "Add text '[Sale]' on the image"),
    ],
)
def test_plain_wordings(instruction, kind, formatted):
    assert guess(instruction) == (kind, formatted)


@pytest.mark.parametrize(
    "instruction", ["", "Make it blue", "Is there a dog?", "remove", "Add what he needs because he is sad"]
)
def test_doubtful_wordings_get_no_type(instruction):
    assert guess(instruction) is None
