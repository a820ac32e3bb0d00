"""Import and export of MICE-Bench annotations in their published form: one JSON object per line.

    read_mice(Path("cm_train_metadata.jsonl")) -> ImportResult(sessions, quarantine, counts)

A defective row or turn goes to the quarantine with its line, turn, reason and the fate of its session (see
`data.quarantine`); bad content never raises. Published rows carry no id, track or split: the id is then the image file
name without suffix (`-2`, `-3`, ... where one image starts several sessions), and the track is `cm` where the first
instruction states a standing constraint, else `cu`, because the published files hold these two only. Rows that this
project wrote carry them, and may carry a scene; they go through the same code.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from data.errors import UserError
from data.pictures import Facts, inspect_file, unsafe_path
from data.quarantine import Defect, write_lines
from data.rows import Refusal, parse_row, turn_error
from data.schema import Session, Track
from data.slots import EDIT_TYPES, SlotError

CONSTRAINT_MARK: Final = "with this rule active"
"""All six published constraint templates end with it, before the first edit."""


@dataclass(frozen=True)
class Counts:
    """What came in, what was kept and what was not."""

    sessions_read: int
    sessions_kept: int
    sessions_shortened: int
    """Kept, but only up to the turn before a defective one."""
    turns_read: int
    turns_kept: int
    turns_quarantined: int
    turns_left_out: int
    """Sound turns that went with a defective one. turns_read = kept + quarantined + left out."""
    rows_quarantined: int
    """Lines that are no session at all."""
    by_type: dict[str, int]
    """Turns kept, per edit type."""
    by_track: dict[str, int]
    """Sessions kept, per track."""
    by_reason: dict[str, int]
    """Quarantined rows and turns, per code."""


@dataclass(frozen=True)
class ImportResult:
    """Sessions in the order of the file, what was quarantined, and the counts of both."""

    sessions: tuple[Session, ...]
    quarantine: tuple[Defect, ...]
    counts: Counts

    def as_json(self) -> dict[str, Any]:
        """The counts, for `--json`."""
        return asdict(self.counts)


def read_mice(path: Path, images: Path | None = None, split: str = "", strip_prefix: str = "") -> ImportResult:
    """Read a JSONL file of sessions.

    Args:
        path: the file.
        images: where the source images lie; when given, every one must be there, decode and be of bearable size.
        split: the split of rows that name none.
        strip_prefix: removed from the front of image paths; some published files carry the authors' absolute paths.

    Raises:
        UserError: the file cannot be read, or holds no line at all.
    """
    reader = Reader(images, split, strip_prefix)
    for number, line in _lines(path):
        reader.take(number, line)
    if not reader.lines:
        raise UserError(f"{path} holds no line", "Name a JSONL file with one session per line")
    return reader.result()


def write_mice(sessions: Iterable[Session], path: Path) -> int:
    """Write sessions as rows, atomically; return their number. What was read comes out field for field."""
    return write_lines((json.dumps(published_row(session), ensure_ascii=False) for session in sessions), path)


def published_row(session: Session) -> dict[str, Any]:
    """A session as a row, with columns beyond the published ones only where a reader could not derive them."""
    row = session.to_row()
    derived = (PurePosixPath(session.image).stem, track_of(session.turns[0].instruction), "")
    if (session.id, session.track, session.split) == derived and session.scene is None:
        for name in ("id", "track", "split"):
            row.pop(name, None)
    elif "id" not in row:
        row.update(id=session.id, track=None, split=session.split)
    return row


def track_of(first_instruction: str) -> Track:
    """`cm` where the first instruction states a standing constraint, else `cu`."""
    return Track.CM if CONSTRAINT_MARK in first_instruction.lower() else Track.CU


class Reader:
    """One pass over a file of any format that can be told as rows: sessions and defects as they come."""

    def __init__(self, images: Path | None, split: str, strip_prefix: str) -> None:
        self.images, self.split, self.strip_prefix = images, split, strip_prefix
        self.sessions: list[Session] = []
        self.defects: list[Defect] = []
        self.ids: set[str] = set()
        self.lines = self.shortened = self.refused = self.turns_read = 0

    def take(self, number: int, line: bytes, row: dict[str, Any] | None = None) -> None:
        """One line of the file: a session, defects, or both.

        A line of another format comes with the row that it amounts to; the line itself goes to the quarantine.
        """
        self.lines += 1
        read = parse_row(line if row is None else json.dumps(row).encode())
        if isinstance(read, Refusal):
            return self.refuse(number, line, read)
        row = read
        self.turns_read += row["turns"]
        row["image"] = row["image"].removeprefix(self.strip_prefix)
        problem = self._image_problem(row["image"]) or self._identify(row)
        if problem:
            return self.refuse(number, line, problem, row["turns"])
        errors = {k: error for k in range(row["turns"]) if (error := turn_error(row, k))}
        # Scenes of later turns follow from earlier ones, so a rendered row stands or falls as a whole.
        kept = 0 if errors and row.get("scene") is not None else min(errors, default=row["turns"])
        session = _session(row, kept) if kept else None
        if isinstance(session, Refusal):
            return self.refuse(number, line, session, row["turns"], row["id"])
        if session:
            self.sessions.append(session)
            self.shortened += bool(errors)
        self._quarantine(number, line, row, errors, kept)
        return None

    def _quarantine(
        self, number: int, line: bytes, row: dict[str, Any], errors: dict[int, SlotError], kept: int
    ) -> None:
        outcome = f"kept up to turn {kept}" if kept else "left out"
        lost = tuple(k + 1 for k in range(kept, row["turns"]) if k not in errors)
        for k, error in errors.items():
            defect = Defect(number, k + 1, error.code, error.reason, row["id"], outcome, lost, _text(line))
            self.defects.append(defect)

    def refuse(self, number: int, line: bytes, why: Refusal, turns: int = 0, name: str | None = None) -> None:
        """A line that is no session. `take` counts the lines that it is given; others must be counted by the caller."""
        self.refused += 1
        lost = tuple(range(1, turns + 1))
        self.defects.append(Defect(number, None, why.code, why.reason, name, "left out", lost, _text(line)))

    def _identify(self, row: dict[str, Any]) -> Refusal | None:
        """Complete id, track and split; an id that is given must be new and fit for a file name."""
        name = row.get("id")
        if name is None:
            stem = PurePosixPath(row["image"]).stem
            copies = (f"{stem}-{number}" for number in range(2, len(self.ids) + 3))
            name = stem if stem not in self.ids else next(copy for copy in copies if copy not in self.ids)
        elif not isinstance(name, str) or "/" in name or unsafe_path(name):
            return Refusal("bad_row", "id is no plain name")
        elif name in self.ids:
            return Refusal("duplicate_id", f"the id {name[:60]!r} occurs before")
        self.ids.add(name)
        row.update(id=name, split=row.get("split") or self.split)
        if "track" not in row and isinstance(row["instruction"][0], str):
            row["track"] = track_of(row["instruction"][0])
        return None

    def _image_problem(self, image: str) -> Refusal | None:
        if problem := unsafe_path(image):
            return Refusal("unsafe_path", f"image path {image[:120]!r}: {problem}")
        found = inspect_file(self.images, image) if self.images else None
        return None if found is None or isinstance(found, Facts) else Refusal(found.code, found.reason)

    def result(self) -> ImportResult:
        """Everything taken so far."""
        types = Counter(str(turn.task_type) for session in self.sessions for turn in session.turns)
        tracks = Counter(str(session.track) for session in self.sessions if session.track)
        quarantined = sum(defect.turn is not None for defect in self.defects)
        counts = Counts(
            sessions_read=self.lines,
            sessions_kept=len(self.sessions),
            sessions_shortened=self.shortened,
            turns_read=self.turns_read,
            turns_kept=types.total(),
            turns_quarantined=quarantined,
            turns_left_out=self.turns_read - types.total() - quarantined,
            rows_quarantined=self.refused,
            by_type={name: types[name] for name in EDIT_TYPES},
            by_track={str(name): tracks[name] for name in Track},
            by_reason=dict(sorted(Counter(defect.code for defect in self.defects).items())),
        )
        return ImportResult(tuple(self.sessions), tuple(self.defects), counts)


def _session(row: dict[str, Any], kept: int) -> Session | Refusal:
    """The first `kept` turns of a checked row."""
    whole = kept == row["turns"]
    lists = {name: column[:kept] for name, column in row.items() if isinstance(column, list)}
    try:
        return Session.from_row(row if whole else {**row, **lists, "turns": kept})
    # A scene block may be anything: its own reader raises what it stumbles over.
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, UserError) as error:
        return Refusal("bad_row", f"no valid session: {' '.join(str(error).split())[:160]}")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not blank, without their line ends."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                content = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if content.strip():
                    yield number, content.rstrip(b"\r\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "Name a readable JSONL file") from error


def _text(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape")
