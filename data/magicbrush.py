"""MagicBrush's parquet files as sessions: one row per turn, free instructions, pictures inside."""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.guess import guess
from data.mice import ImportResult, Reader
from data.pictures import Fit, PictureError, as_png, inspect, on_white, unsafe_path
from data.rows import Refusal
from data.schema import EditType, Session


def read_magicbrush(paths: Sequence[Path], split: str = "train") -> ImportResult:
    """Read MagicBrush's parquet files: one row per turn, rows of one `img_id` together.

    Its instructions are free text without edit type or objects. The type and slots are taken from the wording where it
    leaves no doubt (`data.guess`); a turn without is quarantined like any other that cannot be judged. Object lists
    are empty: what must stay is not annotated. Pictures are named by the convention of built folders.

    Raises:
        UserError: a file cannot be read, or lacks columns.
    """
    reader = Reader(None, split, "")
    turns: dict[str, list[tuple[int, int, str]]] = {}
    position = 0
    for path in paths:
        for row in _parquet_rows(path, ("img_id", "turn_index", "instruction"), 1024):
            position += 1
            turns.setdefault(str(row["img_id"]), []).append((position, row["turn_index"], row["instruction"]))
    for name, entries in turns.items():
        line = json.dumps({"img_id": name, "turns": [list(entry[1:]) for entry in entries]}).encode()
        session = _row_of(name, entries, split)
        if isinstance(session, Refusal):
            reader.lines += 1
            reader.refuse(entries[0][0], line, session)
        else:
            reader.take(entries[0][0], line, session)
    return reader.result()


def read_pictures(
    paths: Sequence[Path], sessions: Iterable[Session], fit: Fit | None = None
) -> Iterator[tuple[str, bytes]]:
    """Names and PNG bytes of the pictures of imported sessions, a few rows in memory at a time.

    `fit(width, height)` gives the size to store them in (BAGEL's rule, for instance).

    Raises:
        UserError: a picture is missing, is none, or is too large.
    """
    wanted = {session.id: session for session in sessions}
    for path in paths:
        for row in _parquet_rows(path, ("img_id", "turn_index", "source_img", "target_img"), 8):
            session = wanted.get(str(row["img_id"]))
            if session is None or row["turn_index"] > len(session.turns):
                continue
            if row["turn_index"] == 1:
                yield session.image, _png(row["source_img"], f"{path.name}: source of {session.id}", fit)
            name = session.picture(row["turn_index"])
            yield name, _png(row["target_img"], f"{path.name}: turn {row['turn_index']} of {session.id}", fit)


def _parquet_rows(path: Path, columns: tuple[str, ...], count: int) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        missing = [name for name in columns if name not in file.schema_arrow.names]
        if missing:
            raise UserError(
                f"{path} has no column {', '.join(missing)}", "Name a parquet file with MagicBrush's columns"
            )
        for batch in file.iter_batches(count, columns=list(columns)):
            yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} is no readable parquet file", "Name one of MagicBrush's parquet files") from error


def _row_of(name: str, entries: list[tuple[int, int, str]], split: str) -> dict[str, Any] | Refusal:
    """The MICE row of one image; turns whose wording names no edit type get one that no check accepts."""
    entries = sorted(entries, key=lambda entry: entry[1])
    if [turn for _, turn, _ in entries] != list(range(1, len(entries) + 1)):
        return Refusal("wrong_length", "turn_index does not count 1, 2, 3, ...")
    if unsafe_path(name) or "/" in name:
        return Refusal("unsafe_path", "img_id is no plain name")
    texts = [text if isinstance(text, str) else "" for _, _, text in entries]
    named = [guess(text) or ("free text", text) for text in texts]
    empty: list[list[str]] = [[] for _ in texts]
    return {
        "image": f"images/{split}/{name}/0.png",
        "instruction": texts,
        "task_type": [str(kind) for kind, _ in named],
        "formatted_instruction": [formatted for _, formatted in named],
        "bg_consistency": [kind != EditType.BACKGROUND_CHANGE for kind, _ in named],
        **dict.fromkeys(("unchanged_objects", "available_objects", "all_objects"), empty),
        "turns": len(texts),
        "id": name,
        "track": None,
    }


def _png(cell: Any, name: str, fit: Fit | None) -> bytes:
    """An image cell (`{"bytes": ..., "path": ...}` or bytes) as RGB PNG."""
    from PIL import Image

    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, bytes):
        raise UserError(f"{name} holds no image", "Download the files with their images")
    facts = inspect(content, name)
    if isinstance(facts, PictureError):
        raise UserError(facts.reason, "Repair or remove this row")
    with Image.open(io.BytesIO(content)) as opened:
        return as_png(on_white(opened), fit)
