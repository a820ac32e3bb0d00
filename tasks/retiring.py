"""Retention in the stores: the plan for what lies there, and the deletion itself, on record.

Files are deleted; runs, metrics, statements and decisions stay. A model whose files went says so in a tag, and its
registered version also in the ledger. Run it where promotions run: what keeps the two apart is a lock on a file.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from data.errors import UserError
from mlflow_config.settings import Tag
from tasks.books import Books
from tasks.holdings import at_work, folder_of, look, needed, unchanged
from tasks.ledger import Draft
from tasks.locks import Busy, file_lock
from tasks.models import copy_lock
from tasks.projection import project
from tasks.promotion import model_lock
from tasks.registry import RETIRED_TAG
from tasks.retention import Choice, Item, Rule, plan
from tasks.signing import SignatureError

COME_TO = "someone has come to it since"


def consider(books: Books, rule: Rule, profile: str | None = None, now: datetime | None = None) -> list[Choice]:
    """The plan for everything that lies in the stores now; nothing is changed.

    Raises:
        UserError: a chain cannot be followed to its base, so nobody can say what it needs.
    """
    try:
        wanted = needed(books)
    except SignatureError as error:
        problem = f"a chain in the ledger does not hold ({error}), so nobody can say what it needs"
        raise UserError(problem, "See `edit-r2 audit`; nothing was deleted") from error
    return plan(list(look(books)), wanted, rule, now or datetime.now(UTC), profile)


def retire(books: Books, choices: Iterable[Choice]) -> list[Choice]:
    """Delete what a plan says may go, each under its lock and after one more look; what became of every item.

    Each deletion is written down before it begins. A repetition after a crash goes on where it stopped: a model is
    marked before its files are deleted.
    """
    return [choice if choice.keep else _delete(books, choice) for choice in choices]


def _delete(books: Books, choice: Choice) -> Choice:
    try:
        with _lock(books, choice):
            reason = _why_not(books, choice.item)
            if reason is not None:
                return replace(choice, keep=True, reason=reason)
            _write_down(books, choice)
            if choice.item.kind == "model":
                _delete_model(books, choice)
            else:
                shutil.rmtree(folder_of(books, choice.item))
            return choice
    except Busy:
        return replace(choice, keep=True, reason=COME_TO)


def _why_not(books: Books, item: Item) -> str | None:
    """Why an item has to stay after all: time has passed since the plan was made."""
    if item.kind == "model":
        return needed(books).get(item.name) or (COME_TO if at_work(books, item.name) else None)
    return None if unchanged(books, item) else COME_TO


def _write_down(books: Books, choice: Choice) -> None:
    log = books.state / "logs" / "retention.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    told = {"time": datetime.now(UTC).isoformat(), "actor": books.actor} | choice.as_json()
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(told) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _lock(books: Books, choice: Choice) -> AbstractContextManager[object]:
    if choice.item.kind == "model":
        return model_lock(books, choice.item.name, wait=0)
    if choice.item.kind == "copy":
        return copy_lock(books.state, Path(choice.item.name).name, wait=0)
    return file_lock(books.state / "runs" / f"{choice.item.name}.lock", wait=0)


def _delete_model(books: Books, choice: Choice) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    name, client = choice.item.name, books.registry.client
    _enter(books, choice)
    found = client.get_logged_model(name)
    if RETIRED_TAG not in found.tags:
        told = f"{datetime.now(UTC):%Y-%m-%d} by {books.actor}: {choice.reason}"
        client.set_logged_model_tags(name, {RETIRED_TAG: told})
    get_artifact_repository(found.artifact_location, tracking_uri=client.tracking_uri).delete_artifacts()


def _enter(books: Books, choice: Choice) -> None:
    """Tell the ledger, when the model is a registered version: one that was refused, or never decided upon."""
    for version in books.registry.versions():
        if version.model_id == choice.item.name:
            books.ledger.append(
                Draft(
                    action="retire",
                    model=books.registry.name,
                    alias=books.alias,
                    version=version.number,
                    model_digest=version.tags[Tag.DIGEST],
                    actor=books.actor,
                    reason=choice.reason,
                )
            )
            project(books)
