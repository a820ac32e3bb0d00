"""Sessions from and to EdiVal's CSV.

They become rows of the MICE form and pass the same checks, so their defects reach the same quarantine. EdiVal states no
standing constraints and makes no references, so these sessions have no track.
"""

import ast
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from data.errors import UserError
from data.mice import ImportResult, Reader
from data.quarantine import write_lines
from data.rows import Refusal
from data.schema import Session

EDIVAL_COLUMNS: Final = (
    "image_index",
    "turns",
    "task_type",
    "instructions",
    "format_instructions",
    "bg_consistency",
    "unchanged_objects",
    "available_objects",
    "all_objects",
)
EDIVAL_PREFIXES: Final = {
    "task_type": "task_type",
    "instructions": "instruction",
    "format_instructions": "formatted_instruction",
}
"""Columns whose lists grow by one entry per turn, and their names in MICE rows."""
EDIVAL_STATES: Final = ("bg_consistency", "unchanged_objects", "available_objects", "all_objects")
"""Columns that describe the state after the row's last turn."""
EDIVAL_IMAGE: Final = "{index}_input_raw.jpg"
MAX_FIELD: Final = 100_000


def read_edival(
    path: Path, images: Path | None = None, image_name: str = EDIVAL_IMAGE, split: str = ""
) -> ImportResult:
    """Read EdiVal's CSV: one row per prefix of a session, rows of one `image_index` together.

    Its lists are Python literals. Some published instructions stand in an extra pair of quotation marks, some formatted
    ones have a full stop after the last slot; both mean the same without.


    Args:
        path: the file.
        images: as in `read_mice`.
        image_name: the source image's name; `{index}` stands for the image index.
        split: the split of these sessions.

    Raises:
        UserError: the file cannot be read, is no CSV, or lacks columns.
    """
    reader = Reader(images, split, "")
    for number, rows in _edival_groups(path):
        row = _edival_session(rows, image_name)
        line = json.dumps(rows, ensure_ascii=False).encode("utf-8")
        if isinstance(row, Refusal):
            reader.lines += 1
            reader.refuse(number, line, row)
        else:
            reader.take(number, line, row)
    if not reader.lines:
        raise UserError(f"{path} holds no session", "Name a CSV file with EdiVal's columns")
    return reader.result()


def write_edival(sessions: Iterable[Session], path: Path) -> int:
    """Write EdiVal's CSV, one row per prefix; return the number of rows.

    `image_index` is the session's id where all ids are numbers, else its position. What the format has no column for
    (image paths, tracks, scenes, intents) is not written.
    """
    kept = list(sessions)
    numbered = all(re.fullmatch(r"0|[1-9][0-9]*", session.id) for session in kept)
    rows = [list(EDIVAL_COLUMNS)]
    for position, session in enumerate(kept):
        rows += [[session.id if numbered else str(position), *prefix] for prefix in _edival_prefixes(session)]
    return write_lines((_csv_line(row) for row in rows), path) - 1


def _edival_prefixes(session: Session) -> Iterator[list[str]]:
    """The columns after `image_index`, for one turn more each time."""
    row = session.to_row()
    for count in range(1, len(session.turns) + 1):
        prefixes = [str(row[name][:count]) for name in EDIVAL_PREFIXES.values()]
        yield [str(count), *prefixes, *(str(row[name][count - 1]) for name in EDIVAL_STATES)]


def _csv_line(fields: list[str]) -> str:
    """One CSV record. A list's text escapes line breaks, so a record is always one line."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(fields)
    return buffer.getvalue()


def _edival_groups(path: Path) -> list[tuple[int, list[dict[str, str]]]]:
    """The rows of every image index in the order of the file, with the line of the first."""
    groups: dict[str, tuple[int, list[dict[str, str]]]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, restval="", restkey="more")
            missing = [name for name in EDIVAL_COLUMNS if name not in (table.fieldnames or ())]
            if missing:
                raise UserError(f"{path} has no column {', '.join(missing)}", "Name a CSV file with EdiVal's columns")
            for row in table:
                index = row["image_index"]
                groups.setdefault(index, (table.line_num, []))[1].append(row)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "Name a readable CSV file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV in UTF-8: {error}", "Convert or repair the file") from error
    return list(groups.values())


def _edival_session(rows: list[dict[str, str]], image_name: str) -> dict[str, Any] | Refusal:
    """The MICE row of one image index: growing lists from its last row, states from each row."""
    read: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (len(row["turns"]), row["turns"])):
        values = {name: _literal(row[name]) for name in EDIVAL_COLUMNS[1:]}
        broken = [name for name, value in values.items() if isinstance(value, Refusal)]
        if broken or "more" in row:
            return Refusal("bad_row", f"no Python literal in {', '.join(broken) or 'a field too many'}")
        read.append(values)
    if [values["turns"] for values in read] != list(range(1, len(read) + 1)):
        return Refusal("wrong_length", "turns do not count 1, 2, 3, ...")
    for name in EDIVAL_PREFIXES:
        lists = [values[name] for values in read]
        if any(not isinstance(entries, list) or entries != lists[-1][:count] for count, entries in enumerate(lists, 1)):
            return Refusal("wrong_length", f"{name} does not grow by one entry per turn")
    index = rows[0]["image_index"].strip()
    columns = {to: [_plain(entry) for entry in read[-1][name]] for name, to in EDIVAL_PREFIXES.items()}
    states = {name: [values[name] for values in read] for name in EDIVAL_STATES}
    image = image_name.format(index=index)
    return {"image": image, **columns, **states, "turns": len(read), "id": index, "track": None}


def _literal(text: str) -> Any:
    """A Python literal, or a Refusal. Length is bounded first: deep nesting can exhaust the parser."""
    if len(text) > MAX_FIELD:
        return Refusal("too_long", "")
    try:
        value = ast.literal_eval(text)
        json.dumps(value).encode()
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return Refusal("bad_row", "")
    return value


def _plain(entry: Any) -> Any:
    """An instruction without the extra quotation marks and the full stop after a slot that some published ones have."""
    if not isinstance(entry, str):
        return entry
    if len(entry) > 2 and entry[0] == entry[-1] == '"':
        entry = entry[1:-1]
    return entry.removesuffix(".") if entry.endswith("].") else entry
