"""Where defective rows and turns go: a JSONL file with line, turn, reason, outcome and the row itself.

Nothing is dropped in silence and one bad row never stops a build. What happens to a session is stated per defect:

- a defect of the row itself (unreadable, wrong lengths, unsafe path, missing image): the whole session is left out;
- a defect of turn k > 1: the session is kept up to turn k-1, because later turns build on the edit that cannot be read;
- a defect of turn 1: nothing precedes it, the whole session is left out.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from data.errors import UserError


@dataclass(frozen=True)
class Defect:
    """One quarantined row (`turn` is None) or turn (counted from 1)."""

    line: int
    turn: int | None
    code: str
    """Stable and machine-readable, e.g. `empty_text_slot`, `leaked_answer`, `bad_json`, `missing_image`."""
    reason: str
    session: str | None
    """The session's id, when the row could be read that far."""
    outcome: str
    """What became of the session: `left out` or `kept up to turn N`."""
    left_out: tuple[int, ...]
    """Sound turns (counted from 1) that went with it."""
    row: str
    """The line as read. Bytes that are no UTF-8 stand as lone surrogates (surrogateescape), so none is lost."""

    def sentence(self) -> str:
        """One line for a terminal."""
        turn = "" if self.turn is None else f", turn {self.turn}"
        return f"line {self.line}{turn}: {self.reason} (session {self.outcome})"


def write_quarantine(defects: Iterable[Defect], path: Path) -> int:
    """Write one defect per line, atomically; return their number."""
    # Pure ASCII escapes carry lone surrogates, which UTF-8 itself cannot.
    return write_lines((json.dumps(asdict(defect), ensure_ascii=True) for defect in defects), path)


def read_quarantine(path: Path) -> Iterator[Defect]:
    """Read back what `write_quarantine` wrote."""
    with path.open(encoding="ascii") as file:
        for line in file:
            record = json.loads(line)
            yield Defect(**{**record, "left_out": tuple(record["left_out"])})


def original_lines(defects: Iterable[Defect]) -> Iterator[bytes]:
    """The quarantined lines, byte for byte and each once, in the order of the file they came from."""
    rows = {defect.line: defect.row for defect in defects}
    for line in sorted(rows):
        yield rows[line].encode("utf-8", "surrogateescape")


def write_lines(lines: Iterable[str], path: Path) -> int:
    """Write text lines (newline added) through a temporary file in the same folder; return their number.

    Raises:
        UserError: the folder cannot be made or written, or the disk is full. Nothing half written is left behind.
    """
    count = 0
    name = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            for line in lines:
                file.write(line + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
        name = None
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}", "Choose another folder or free some space") from error
    finally:
        if name is not None:
            Path(name).unlink(missing_ok=True)
    return count
