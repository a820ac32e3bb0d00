"""Row-level facts of a built data set, computed before any expectation: tables of sessions, pictures and shares.

A column named after a defect holds the reason, or None where the row is sound: an expectation then says "this column is
null", and its failures explain themselves. Shards are read one row group at a time and only facts are kept, so memory
grows by some hundred bytes per picture, not by pictures.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from data.errors import UserError
from data.pictures import PictureError, inspect, unsafe_path
from data.rows import Refusal, parse_row, turn_error
from data.schema import EditType, Session, Track
from data.synthesis import SPLITS
from tasks.sources import Sources

if TYPE_CHECKING:
    import pandas as pd

SESSION_COLUMNS: Final = {
    "where": "object",
    "id": "object",
    "split": "object",
    "turns": "int64",
    "track": "object",
    "not_readable": "object",
    "bad_slots": "object",
    "unsafe_path": "object",
    "missing_pictures": "object",
    "shown_targets": "object",
    "nothing_to_keep": "object",
    "seen_elsewhere": "object",
    "looks_like": "object",
}
PICTURE_COLUMNS: Final = {
    "where": "object",
    "path": "object",
    "not_decodable": "object",
    "size": "object",
    "size_differs": "object",
    "sha256": "object",
    "recorded_sha256": "object",
}
SHARE_COLUMNS: Final = {"where": "object", "count": "int64", "share": "float64", "low": "float64", "high": "float64"}

PRACTICE: Final = "practice"
"""The split without ground truth."""
TYPE_BOUNDS: Final = (0.02, 0.35)
"""Share of one edit type among the turns of a split."""
TRACK_BOUNDS: Final = (0.2, 0.8)
"""Share of one track among the sessions of a split."""


@dataclass(frozen=True)
class Facts:
    """One row per session, per picture, and per share of an edit type or track in a split."""

    sessions: pd.DataFrame
    pictures: pd.DataFrame
    shares: pd.DataFrame


def collect(folder: Path, reference: Path | None = None) -> Facts:
    """Read a build. `reference` is another build (the training sessions) whose sources must not occur in this one."""
    import pandas as pd

    sources = Sources()
    if reference is not None:
        for path in _splits(reference):
            _note_reference(reference, path.stem, sources)
    tables: tuple[list[dict[str, Any]], ...] = ([], [], [])
    for path in _splits(folder):
        for table, rows in zip(tables, _split(folder, path, sources), strict=True):
            table += rows
    columns = (SESSION_COLUMNS, PICTURE_COLUMNS, SHARE_COLUMNS)
    frames = [
        pd.DataFrame(rows, columns=list(kinds)).astype(kinds) for rows, kinds in zip(tables, columns, strict=True)
    ]
    return Facts(*frames)


def _splits(folder: Path) -> list[Path]:
    """The session files of a build; an import keeps its quarantine beside them."""
    return [path for name in SPLITS if (path := folder / f"{name}.jsonl").is_file()]


def _split(folder: Path, path: Path, sources: Sources) -> tuple[list[dict[str, Any]], ...]:
    """The rows of one split for the three tables."""
    sessions: list[dict[str, Any]] = []
    by_image: dict[str, dict[str, Any]] = {}
    needed: list[tuple[dict[str, Any], list[str]]] = []
    types: Counter[str] = Counter()
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            facts, session = _session(line.rstrip(b"\n"), f"{path.name} line {number}")
            sessions.append(facts)
            if session is not None:
                by_image[session.image] = facts
                needed.append((facts, _shown(session)))
                types.update(str(turn.task_type) for turn in session.turns)
    pictures = _note_pictures(folder, path, by_image, sources)
    there = {facts["path"] for facts in pictures}
    for facts, names in needed:
        missing = [name for name in names if name not in there]
        facts["missing_pictures"] = f"no shard holds {', '.join(missing[:3])}" if missing else None
    if path.stem == PRACTICE:
        _note_targets(sessions, by_image, pictures)
    return sessions, pictures, _shares(path.name, sessions, types)


def _shown(session: Session) -> list[str]:
    """The pictures that must be there. Photographs have none after a turn: what they should show is not known."""
    whole = session.scene and session.split != PRACTICE
    return [session.picture(turn) for turn in (range(len(session.turns) + 1) if whole else range(1))]


def _note_targets(
    sessions: list[dict[str, Any]], by_image: dict[str, dict[str, Any]], pictures: list[dict[str, Any]]
) -> None:
    """Practice must not show what it asks for: every picture besides the sources is noted at its session."""
    owners = {str(PurePosixPath(image).parent): facts for image, facts in by_image.items()}
    for path in (facts["path"] for facts in pictures if facts["path"] not in by_image):
        owner = owners.get(str(PurePosixPath(path).parent), sessions[0])
        owner["shown_targets"] = f"a shard holds {path}"


def _note_pictures(
    folder: Path, path: Path, by_image: dict[str, dict[str, Any]], sources: Sources
) -> list[dict[str, Any]]:
    """Facts of every picture of a split; source pictures are compared with those seen so far."""
    pictures = []
    sizes: dict[str, str] = {}
    for facts, png in _pictures(folder, path.stem):
        pictures.append(facts)
        if facts["size"] is None:
            continue
        first = sizes.setdefault(str(PurePosixPath(facts["path"]).parent), facts["size"])
        facts["size_differs"] = f"{facts['size']} instead of {first}" if facts["size"] != first else None
        if owner := by_image.get(facts["path"]):
            owner["seen_elsewhere"], owner["looks_like"] = sources.note(png, path.name, owner["where"])
    return pictures


def _session(line: bytes, where: str) -> tuple[dict[str, Any], Session | None]:
    """The facts of one line; the session itself where it can be read."""
    facts: dict[str, Any] = dict.fromkeys(SESSION_COLUMNS) | {"where": where, "turns": 0}
    row = parse_row(line)
    if isinstance(row, Refusal):
        return facts | {"not_readable": row.reason}, None
    errors = [f"turn {k + 1}: {error.reason}" for k in range(row["turns"]) if (error := turn_error(row, k))]
    facts |= {"id": row.get("id"), "split": row.get("split"), "turns": row["turns"], "track": row.get("track")}
    facts |= {"bad_slots": "; ".join(errors) or None, "unsafe_path": unsafe_path(row["image"])}
    if errors:
        return facts, None
    try:
        session = Session.from_row(row)
    except (ValueError, TypeError, LookupError, AttributeError, UserError) as error:
        return facts | {"not_readable": " ".join(str(error).split())[:160]}, None
    return facts | {"nothing_to_keep": _unexplained(session)}, session


def _unexplained(session: Session) -> str | None:
    """Turns that list no object to keep although the source holds one that no turn so far touched.

    An empty list is a typed absence (consistency does not apply) only where nothing is left as it was. Photographs have
    no scene to compare with, so their empty lists stand as published.
    """
    if session.scene is None:
        return None
    left, turns = set(session.scene.source.occupied()), []
    for number, (turn, touched) in enumerate(zip(session.turns, session.scene.touched, strict=True), start=1):
        left -= set(touched)
        if left and not turn.unchanged_objects:
            turns.append(str(number))
    return f"turn {', '.join(turns)}: objects stay, but unchanged_objects is empty" if turns else None


def _pictures(folder: Path, split: str) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Facts and encoded bytes of every picture of a split, one row group in memory at a time."""
    import pyarrow.parquet as pq

    for shard in sorted(folder.glob(f"images-{split}-*.parquet")):
        try:
            file = pq.ParquetFile(shard)
        except (OSError, ValueError) as error:
            raise UserError(f"{shard} is not a readable shard", "Rebuild the data set") from error
        number = 0
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=["path", "png", "sha256"]).to_pylist()
            for row in rows:
                yield _picture(row, f"{shard.name} row {number} ({row['path']})"), row["png"]
                number += 1


def _picture(row: dict[str, Any], where: str) -> dict[str, Any]:
    found = inspect(row["png"], row["path"])
    return {
        "where": where,
        "path": row["path"],
        "not_decodable": found.reason if isinstance(found, PictureError) else None,
        "size": None if isinstance(found, PictureError) else f"{found.width}x{found.height}",
        "sha256": hashlib.sha256(row["png"]).hexdigest(),
        "recorded_sha256": row["sha256"],
    }


def _shares(split: str, sessions: list[dict[str, Any]], types: Counter[str]) -> list[dict[str, Any]]:
    """Shares of edit types and tracks, with bounds widened by three standard errors of a sample of this size."""
    tracks = Counter(str(facts["track"]) for facts in sessions if facts["track"])
    rows = []
    for counts, names, bounds in ((types, EditType, TYPE_BOUNDS), (tracks, Track, TRACK_BOUNDS)):
        total = counts.total()
        for name in names if total else ():
            low, high = (
                bound + side * _three_errors(bound, total) for side, bound in zip((-1, 1), bounds, strict=True)
            )
            share = counts[str(name)] / total
            rows.append(
                {"where": f"{split} {name}", "count": counts[str(name)], "share": share, "low": low, "high": high}
            )
    return rows


def _three_errors(share: float, count: int) -> float:
    """Three standard errors of a share that was measured on `count` draws."""
    return 3 * (share * (1 - share) / count) ** 0.5


def _note_reference(folder: Path, split: str, sources: Sources) -> None:
    """Remember the sources of another build; its unreadable rows are its own validation's business."""
    owner = f"{folder.parent.name}/{folder.name}"
    lines = (folder / f"{split}.jsonl").read_bytes().splitlines()
    images = {row["image"]: number for number, line in enumerate(lines, 1) if isinstance(row := parse_row(line), dict)}
    for facts, png in _pictures(folder, split):
        if facts["path"] in images and facts["not_decodable"] is None:
            sources.note(png, owner, f"{owner}/{split}.jsonl line {images[facts['path']]}")
