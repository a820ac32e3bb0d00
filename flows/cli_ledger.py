"""Commands that read the ledger and write to it: history, rollback, recall, approve, copy-ledger. None waits for
Prefect."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data.errors import UserError
from flows.cli_models import Model, open_named, say
from flows.options import Debug, Json

if TYPE_CHECKING:
    from tasks.ledger import Signed

Reason = Annotated[str, typer.Option("--reason", "-r", help="Why, in a sentence; the ledger keeps it.")]


def history(model: Model = "edit-r2", as_json: Json = False, debug: Debug = False) -> None:
    """Show every entry of the ledger about a model: who, when, why."""
    from tasks.promotion import history as told

    books, _ = open_named(model, debug)
    chain = told(books)
    entries = [signed.entry.model_dump() | {"signed_by": signed.signer, "hash": signed.hash} for signed in chain]
    say(as_json, {"entries": entries}, "\n".join(_line(signed) for signed in chain) or "no entries")


def _line(signed: Signed) -> str:
    entry = signed.entry
    when, what = entry.time[:16], f"{entry.alias} v{entry.version}"
    return f"{entry.index:>4}  {when}  {entry.action:<8}  {what}  {entry.actor}: {entry.reason}"


def rollback(
    reason: Reason,
    model: Model = "edit-r2@champion",
    leaving: Annotated[
        int | None, typer.Option(help="The version to leave; without it, the same reason given again counts once.")
    ] = None,
    to: Annotated[int | None, typer.Option(help="The version to restore; default: the champion before.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make the champion before the present one champion again, once its files are verified."""
    from tasks.promotion import rollback as restore

    books, _ = open_named(model, debug)
    entry = restore(books, reason, leaving, to).entry
    line = f"version {entry.version} is {books.alias} again, since entry {entry.index} of {entry.time[:16]}"
    say(as_json, entry.model_dump(), line)


def recall(
    version: Annotated[int, typer.Argument(help="The version to mark.")],
    reason: Reason,
    model: Model = "edit-r2@champion",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Mark a version as recalled: every audit fails on it, and no rollback restores it."""
    from tasks.promotion import recall as mark

    books, _ = open_named(model, debug)
    entry = mark(books, version, reason).entry
    say(as_json, entry.model_dump(), f"version {version} is recalled")


def copy_ledger(as_json: Json = False, debug: Debug = False) -> None:
    """Bring the ledger that was kept in EDIT_R2_HOME into the bucket that is configured now, checked entry by entry."""
    from tasks.documents import FolderShelf, copy
    from tasks.ledger import read_chain
    from tasks.settings import settings

    books, _ = open_named("edit-r2", debug)
    source = FolderShelf(settings().folder("ledger"))
    if books.shelf == source:
        raise UserError("no bucket is configured, so there is nowhere to copy the ledger to", "Set EDIT_R2_S3_BUCKET")
    read_chain(source.lines(), books.keys)
    entries, documents = copy(source, books.shelf)
    line = f"{entries} entries and {documents} documents are in the bucket; the folder is as it was"
    say(as_json, {"entries": entries, "documents": documents}, line)


def approve(
    decision: Annotated[str, typer.Argument(help="SHA-256 of the gate decision.")],
    name: Annotated[str, typer.Option(help="Your name, which is that of your key.")],
    reason: Reason,
    out: Annotated[Path, typer.Option(help="Where to write the signed approval.")],
    new_key: Annotated[bool, typer.Option("--new-key", help="Make your key; its word counts on this machine.")] = False,
    override: Annotated[bool, typer.Option(help="Allow promotion against a refusal.")] = False,
    days: Annotated[float, typer.Option(help="How long it holds.")] = 1.0,
    resume: Annotated[str | None, typer.Option(help="Also pass it to the flow run (its id) that waits for it.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Sign your approval of a decision, or an override of a refusal, with your own key."""
    from model.atomic import write_atomically
    from tasks.approval import load_person, sign_approval

    books, _ = open_named("edit-r2", debug)
    kind: Any = "override" if override else "approve"
    person = load_person(books.keys, name, create=new_key)
    signed = sign_approval(kind, decision, person, reason, timedelta(days=days))
    write_atomically(out, signed)
    if resume:
        from flows.approving import resume as answer_to

        answer_to(resume, signed)
    say(as_json, {"kind": kind, "decision": decision, "signer": name}, f"signed by {name}: {out.name}")


def add_to(app: typer.Typer) -> None:
    """Give the command line these commands."""
    for command in (history, rollback, recall, approve, copy_ledger):
        app.command()(command)
