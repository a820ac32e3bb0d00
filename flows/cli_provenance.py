"""Commands that prove where a model comes from and that act on the ledger: lineage, audit, history, rollback, doctor.

None of them runs a flow, so none waits for Prefect.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from flows.cli_retention import retention
from flows.options import Debug, Json

if TYPE_CHECKING:
    from tasks.books import Books
    from tasks.ledger import Signed
    from tasks.view import View

BROKEN = 6  # exit code: an audit found a broken link, the doctor something that is not mended
Model = Annotated[str, typer.Argument(help="A version: edit-r2@champion (an alias) or edit-r2/3 (a number).")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why, in a sentence; the ledger keeps it.")]


class Defaulting(typer.core.TyperGroup):
    """A group whose first command is meant when none is named: `edit-r2 audit edit-r2@champion`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default command before arguments that name none."""
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)


audits = typer.Typer(cls=Defaulting, help="Check a version back to its data, or write a folder for an auditor.")
lineages = typer.Typer(cls=Defaulting, help="Show where a version comes from, or which versions used something.")


def open_named(model: str, debug: bool = False) -> tuple[Books, int | None]:
    """The books of a registered model, and the version that `model` names (None: whatever the alias names)."""
    from data.errors import UserError
    from flows.session import hush
    from tasks.books import open_books
    from tasks.registry import Registry
    from tasks.services import require_reachable
    from tasks.settings import prepare

    chosen = prepare(debug)
    require_reachable(chosen)
    if not debug:
        hush()
    name, _, alias = model.partition("@")
    name, _, number = name.partition("/")
    if not name or (number and not number.isdigit()):
        raise UserError(f"{model!r} names no version", "Write edit-r2@champion or edit-r2/3")
    books = open_books(chosen, alias=alias or "champion")
    books = replace(books, registry=Registry(books.registry.client, name))
    return books, int(number) if number else None


def _view(books: Books) -> View:
    from tasks.settings import settings
    from tasks.view import live_from

    return live_from(settings(), books)


def _say(as_json: bool, result: dict[str, Any], text: str) -> None:
    from flows.session import answer

    if as_json:
        answer(result)
    else:
        typer.echo(text)


@lineages.command("show")
def lineage(
    model: Model = "edit-r2@champion",
    picture: Annotated[Path | None, typer.Option(help="Also draw the chain into this SVG file.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw where a version comes from: decision, scores, models, code, data."""
    from model.atomic import write_atomically
    from tasks.pedigree import pedigree, tree
    from tasks.picture import draw

    books, version = open_named(model, debug)
    found = pedigree(_view(books), version)
    if picture is not None:
        write_atomically(picture.resolve(), draw(found).encode())
    _say(as_json, {"entry": found.entry.model_dump(), "statement": found.release}, tree(found))


@lineages.command("card")
def card(model: Model = "edit-r2@champion", as_json: Json = False, debug: Debug = False) -> None:
    """Print the model card of a version, in Markdown."""
    from tasks.card import card as write
    from tasks.pedigree import pedigree

    books, version = open_named(model, debug)
    text = write(pedigree(_view(books), version))
    _say(as_json, {"card": text}, text)


@lineages.command("who-used")
def who_used(
    wanted: Annotated[str, typer.Argument(help="A dataset, a session's id, a picture's path, or a digest.")],
    model: Model = "edit-r2",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the versions that saw a dataset, a session, a picture, a model or a commit."""
    from tasks import pedigree

    books, _ = open_named(model, debug)
    found = pedigree.who_used(_view(books), wanted)
    lines = [f"version {version}: {what}" for version, what in found] or ["no version"]
    _say(as_json, {"versions": [{"version": version, "what": what} for version, what in found]}, "\n".join(lines))


@audits.command("run")
def audit(
    model: Model = "edit-r2@champion",
    folder: Annotated[Path | None, typer.Option(help="Check an exported folder instead of this installation.")] = None,
    keys: Annotated[Path | None, typer.Option(help="Trusted public keys for an exported folder.")] = None,
    replay: Annotated[int, typer.Option(help="Also run this many benchmark sessions again.", min=0)] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compute every digest again, check every signature, and name the first broken link (exit code 6)."""
    from tasks.audit import audit as walk
    from tasks.view import exported

    if folder is not None:
        report = walk(exported(folder, keys))
    else:
        books, version = open_named(model, debug)
        report = walk(_view(books), version)
        if replay and report.ok:
            from tasks.replay import replay as run_again

            run_again(report, _view(books), version, replay)
    _say(as_json, report.as_json(), report.line)
    if not report.ok:
        raise typer.Exit(BROKEN)


@audits.command("export")
def export(
    folder: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
    model: Model = "edit-r2@champion",
    weights: Annotated[bool, typer.Option(help="Include the files of the model.")] = True,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a version's whole chain to a folder that verifies with no server: `edit-r2 audit --folder FOLDER`."""
    from tasks.export import export as write

    books, version = open_named(model, debug)
    report = write(_view(books), folder.resolve(), version, weights)
    _say(as_json, report.as_json(), report.line)


def history(model: Model = "edit-r2", as_json: Json = False, debug: Debug = False) -> None:
    """Show every entry of the ledger about a model: who, when, why."""
    from tasks.promotion import history as told

    books, _ = open_named(model, debug)
    chain = told(books)
    entries = [signed.entry.model_dump() | {"signed_by": signed.signer, "hash": signed.hash} for signed in chain]
    _say(as_json, {"entries": entries}, "\n".join(_line(signed) for signed in chain) or "no entries")


def _line(signed: Signed) -> str:
    entry = signed.entry
    when, what = entry.time[:16], f"{entry.alias} v{entry.version}"
    return f"{entry.index:>4}  {when}  {entry.action:<8}  {what}  {entry.actor}: {entry.reason}"


def rollback(
    reason: Reason,
    model: Model = "edit-r2@champion",
    leaving: Annotated[
        int | None, typer.Option(help="The version to leave; names it when repeating a command.")
    ] = None,
    to: Annotated[int | None, typer.Option(help="The version to restore; default: the champion before.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make the champion before the present one champion again, once its files are verified."""
    from tasks.promotion import rollback as restore

    books, _ = open_named(model, debug)
    entry = restore(books, reason, leaving, to).entry
    _say(as_json, entry.model_dump(), f"version {entry.version} is {books.alias} again")


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
    _say(as_json, entry.model_dump(), f"version {version} is recalled")


def approve(
    decision: Annotated[str, typer.Argument(help="SHA-256 of the gate decision.")],
    name: Annotated[str, typer.Option(help="Your name; your key is created on first use.")],
    reason: Reason,
    out: Annotated[Path, typer.Option(help="Where to write the signed approval.")],
    override: Annotated[bool, typer.Option(help="Allow promotion against a refusal.")] = False,
    days: Annotated[float, typer.Option(help="How long it holds.")] = 1.0,
    resume: Annotated[str | None, typer.Option(help="Also pass it to the flow run (its id) that waits for it.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Sign your approval of a decision, or an override of a refusal, with your own key."""
    from model.atomic import write_atomically
    from tasks.approval import sign_approval
    from tasks.signing import load_identity

    books, _ = open_named("edit-r2", debug)
    kind: Any = "override" if override else "approve"
    signed = sign_approval(kind, decision, load_identity(books.keys, name), reason, timedelta(days=days))
    write_atomically(out, signed)
    if resume:
        from flows.approving import resume as answer_to

        answer_to(resume, signed)
    _say(as_json, {"kind": kind, "decision": decision, "signer": name}, f"signed by {name}: {out.name}")


def doctor(
    model: Model = "edit-r2",
    repair: Annotated[bool, typer.Option(help="Mend what can be mended; nothing is deleted.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find what crashes and hands have left behind: dead runs, moved aliases, torn lines, half-registered versions."""
    books, _ = open_named(model, debug)
    from tasks.checkup import visit

    found = visit(books.registry.name, repair)
    _say(as_json, found.as_json(), found.text())
    if found.unmended:
        raise typer.Exit(BROKEN)


def add_to(app: typer.Typer) -> None:
    """Give the command line these commands."""
    app.add_typer(audits, name="audit")
    app.add_typer(lineages, name="lineage")
    for command in (history, rollback, recall, approve, doctor, retention):
        app.command()(command)
