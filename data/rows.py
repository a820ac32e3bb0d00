"""The shape of a published row, checked without trust: every defect becomes a value, nothing raises."""

import json
from dataclasses import dataclass
from typing import Any, Final

from data.schema import EXTRA_PER_TURN, PER_TURN, PUBLISHED
from data.slots import SlotError, parse

MAX_LINE: Final = 4_000_000
"""Bytes. The longest published line has some 10,000; beyond this a file is no list of sessions."""
MAX_TURNS: Final = 64

OPTIONAL: Final = frozenset({"id", "track", "split", "scene", *EXTRA_PER_TURN})
_LISTS: Final = frozenset({"unchanged_objects", "available_objects", "all_objects"})
_FLAGS: Final = frozenset({"bg_consistency"})


@dataclass(frozen=True)
class Refusal:
    """A line that is no session: a stable `code` and one sentence for people."""

    code: str
    reason: str


def parse_row(line: bytes) -> dict[str, Any] | Refusal:
    """The JSON object of a line, when it has the published columns in the right lengths."""
    if len(line) > MAX_LINE:
        return Refusal("too_long", f"the line has {len(line):,} bytes; the limit is {MAX_LINE:,}")
    try:
        row = json.loads(line.decode("utf-8"))
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        return Refusal("not_utf8", f"byte {error.start + 1} is no UTF-8")
    except UnicodeEncodeError:
        return Refusal("not_utf8", "a text holds half of a surrogate pair")
    except (ValueError, RecursionError) as error:
        return Refusal("bad_json", f"unreadable JSON: {' '.join(str(error).split())[:120]}")
    if not isinstance(row, dict):
        return Refusal("bad_row", "the line is no JSON object")
    return _columns_problem(row) or _lengths_problem(row) or row


def turn_error(row: dict[str, Any], k: int) -> SlotError | None:
    """What is wrong with turn k (from 0) of a row that has the right shape: types first, then the slots."""
    for name in PER_TURN:
        if not _is_valid(name, row[name][k]):
            return SlotError("bad_type", f"{name} is no {_expected(name)}")
    if not row["instruction"][k].strip():
        return SlotError("empty_instruction", "the instruction is empty")
    slots = parse(row["task_type"][k], row["formatted_instruction"][k])
    return slots if isinstance(slots, SlotError) else None


def _is_valid(name: str, value: Any) -> bool:
    if name in _LISTS:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, bool if name in _FLAGS else str)


def _expected(name: str) -> str:
    return "list of texts" if name in _LISTS else "true or false" if name in _FLAGS else "text"


def _columns_problem(row: dict[str, Any]) -> Refusal | None:
    missing = [name for name in PUBLISHED if name not in row]
    unknown = sorted(row.keys() - set(PUBLISHED) - OPTIONAL)
    parts = [f"{what}: {', '.join(names)}" for what, names in (("missing", missing), ("unknown", unknown)) if names]
    return Refusal("bad_row", f"columns {'; '.join(parts)[:200]}") if parts else None


def _lengths_problem(row: dict[str, Any]) -> Refusal | None:
    turns = row["turns"]
    if not isinstance(row["image"], str):
        return Refusal("bad_row", "image is no text")
    if isinstance(turns, bool) or not isinstance(turns, int) or not 1 <= turns <= MAX_TURNS:
        return Refusal("bad_row", f"turns is no number from 1 to {MAX_TURNS}")
    for name in (*PER_TURN, *(extra for extra in EXTRA_PER_TURN if extra in row)):
        if not isinstance(row[name], list):
            return Refusal("bad_row", f"{name} is no list")
        if len(row[name]) != turns:
            return Refusal("wrong_length", f"{name} has {len(row[name])} entries for {turns} turns")
    return None
