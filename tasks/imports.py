"""Imports as one call per format: sessions and their pictures into a folder like a built one, defects beside them.

The folder holds `<split>.jsonl`, `quarantine.jsonl`, `counts.json` and, where the pictures are known, shards that
`data.loader` reads. It appears whole or not at all. Images may lie in a folder or below an `s3://` address.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from data.errors import UserError
from data.mice import ImportResult, read_mice, write_mice
from data.pictures import Fit, as_png, load
from data.quarantine import write_lines, write_quarantine
from data.schema import Session

Format = Literal["mice", "edival", "magicbrush", "photographs"]


def run(
    form: Format,
    source: Path,
    out: Path,
    images: str | None = None,
    split: str = "test",
    fit: Fit | None = None,
    strip_prefix: str = "",
) -> ImportResult:
    """Import `source` (a file, or for MagicBrush a folder of parquet files) into the new folder `out`.

    Args:
        images: folder or s3:// address of the source images; needed for photographs, optional for mice and edival.
        fit: (width, height) -> the size to store pictures in; None keeps them.

    Raises:
        UserError: `out` exists and is not empty, the source cannot be read, or the images cannot be fetched.
    """
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} exists and is not empty", "Name another folder, or remove it")
    with _local(images) as folder, _whole(out) as partial:
        result = _read(form, source, folder, split, strip_prefix)
        pictures = _pictures(form, source, folder, result.sessions, fit)
        # Pictures lie as in built folders; without any, sessions keep the names that their images were published by.
        housed = [_housed(session) if pictures else session for session in result.sessions]
        write_mice(housed, partial / f"{split}.jsonl")
        write_quarantine(result.quarantine, partial / "quarantine.jsonl")
        write_lines([json.dumps(result.as_json(), indent=1)], partial / "counts.json")
        _write_pictures(partial, split, pictures)
    return result


def _read(form: Format, source: Path, images: Path | None, split: str, strip_prefix: str) -> ImportResult:
    """The sessions of a source."""
    from data import edival, magicbrush, photographs

    if form == "magicbrush":
        return magicbrush.read_magicbrush(_parquet(source), split)
    if form == "edival":
        return edival.read_edival(source, images, split=split)
    if form == "mice":
        return read_mice(source, images, split, strip_prefix)
    if images is None:
        raise UserError("photographs need their images", "Name the folder or s3:// address with --images")
    return photographs.synthesise(source, images, split=split)


def _pictures(
    form: Format, source: Path, images: Path | None, sessions: Sequence[Session], fit: Fit | None
) -> Iterator[tuple[str, bytes]] | None:
    """A stream of names and PNG bytes, or None where the images are not given."""
    from data import magicbrush

    if form == "magicbrush":
        return magicbrush.read_pictures(_parquet(source), sessions, fit)
    if images is None:
        return None
    return ((_housed(session).image, as_png(load(images, session.image), fit)) for session in sessions)


def _parquet(source: Path) -> list[Path]:
    return sorted(source.glob("*.parquet")) if source.is_dir() else [source]


def _housed(session: Session) -> Session:
    """The session with its image where built folders have it."""
    return session.model_copy(update={"image": f"images/{session.split}/{session.id}/0.png"})


def _write_pictures(folder: Path, split: str, pictures: Iterator[tuple[str, bytes]] | None) -> None:
    from data.build import Shards

    if pictures is None:
        return
    with Shards(folder, split) as shards:
        for name, png in pictures:
            shards.add(name, png)


@contextmanager
def _local(images: str | None) -> Iterator[Path | None]:
    """The images as a local folder; those of a store are fetched for the duration."""
    if images is None or not images.startswith("s3://"):
        yield Path(images) if images else None
        return
    from tasks.settings import settings
    from tasks.storage import Storage

    store = Storage.at(images, settings().s3_endpoint, region=settings().s3_region)
    with tempfile.TemporaryDirectory(prefix="edit-r2-images-") as temporary:
        store.get_folder("", Path(temporary) / "images")
        yield Path(temporary) / "images"


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when all went well."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}", "Choose another folder or free some space") from error
    try:
        yield partial
        partial.chmod(0o755)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}", "Choose another folder or free some space") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
