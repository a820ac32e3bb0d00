"""Signed notes about what a stage found out: score sheets, and whether a data set passed its expectations.

MLflow holds both, and whoever may write there could put other numbers in their place before the gates read them. A note
lies among the kept documents, as the statements of models do, and names the bytes by their digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data.errors import UserError
from tasks.books import Books
from tasks.canonical import sha256
from tasks.signing import SignatureError, sign, verify

NOTE_TYPE = "application/vnd.edit-r2.note+json"


def witness(books: Books, found: bytes, about: Mapping[str, str]) -> str:
    """Sign that these bytes were found about something.

    Args:
        books: where the note is kept, and who signs.
        found: the bytes.
        about: what they are, and of what, by digest.

    Returns:
        SHA-256 of the signed note.
    """
    return books.shelf.put(sign({"sha256": sha256(found), "about": dict(about)}, NOTE_TYPE, books.identity))


def read(books: Books, note: str | None) -> dict[str, Any]:
    """What a note says: `sha256` of the bytes, and what they are `about`.

    Raises:
        SignatureError: there is no such note, or it bears no trusted signature.
    """
    if not note:
        raise SignatureError("nobody signed for it")
    try:
        envelope = books.shelf.get(note)
    except UserError as error:
        raise SignatureError(str(error)) from error
    return dict(verify(envelope, NOTE_TYPE, books.trusted)[0])


def check(books: Books, note: str | None, found: bytes, about: Mapping[str, str]) -> None:
    """Hold bytes against their note.

    Raises:
        SignatureError: it does not hold, or it is about other bytes or about something else.
    """
    if read(books, note) != {"sha256": sha256(found), "about": dict(about)}:
        raise SignatureError("what was signed is something else")


def holds(books: Books, note: str | None, found: bytes, about: Mapping[str, str]) -> bool:
    """Whether `check` finds nothing."""
    try:
        check(books, note, found, about)
    except SignatureError:
        return False
    return True


def scores_of(model: str, benchmark: str) -> dict[str, str]:
    """What a note about a score sheet is about: digests of model and benchmark."""
    return {"what": "scores", "model": model, "benchmark": benchmark}


def expectations_of(dataset: str, verdict: str) -> dict[str, str]:
    """What a note about the report on a data set is about: its digest, and whether it passed."""
    return {"what": "expectations", "dataset": dataset, "verdict": verdict}
