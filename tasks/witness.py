"""Signed notes about what a stage found out: score sheets, and that a data set met its expectations.

MLflow holds both, and whoever may write there could put other numbers in their place before the gates read them. A note
lies among the kept documents, as the statements of models do, and names the bytes by their digest.
"""

from __future__ import annotations

from collections.abc import Mapping

from tasks.books import Books
from tasks.documents import Missing
from tasks.signing import SignatureError, sign, verify

NOTE_TYPE = "application/vnd.edit-r2.note+json"


def witness(books: Books, found: str, about: Mapping[str, str]) -> str:
    """Sign what was found about something.

    Args:
        books: where the note is kept, and who signs.
        found: SHA-256 of the bytes that say what was found.
        about: what they are, and of what, by digest.

    Returns:
        SHA-256 of the signed note.
    """
    return books.shelf.put(sign({"sha256": found, "about": dict(about)}, NOTE_TYPE, books.identity))


def found_about(books: Books, note: object, about: Mapping[str, str]) -> str:
    """SHA-256 of what was found about something, as signed in a note; `note` may come from anywhere.

    Raises:
        SignatureError: there is no such note, it bears no trusted signature, or it is about something else.
        UserError: the store of the documents does not answer.
    """
    if not note:
        raise SignatureError("nobody signed for it")
    try:
        envelope = books.shelf.get(str(note))
    except Missing as error:
        raise SignatureError(str(error)) from error
    payload, _ = verify(envelope, NOTE_TYPE, books.trusted)
    if payload["about"] != dict(about):
        raise SignatureError("what was signed is something else")
    return str(payload["sha256"])


def scores_of(model: str, benchmark: str, fingerprint: str) -> dict[str, str]:
    """What a note about a score sheet is about: model and benchmark by digest, and the evaluation's fingerprint."""
    return {"what": "scores", "model": model, "benchmark": benchmark, "fingerprint": fingerprint}


def expectations_of(dataset: str) -> dict[str, str]:
    """What a note about the report on a data set that met its expectations is about: its digest."""
    return {"what": "met expectations", "dataset": dataset}
