"""Commands that prove where a model comes from: lineage, audit, doctor. None runs a flow, so none waits for Prefect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from flows.cli_models import BROKEN, Model, named, open_named, say, view_of
from flows.options import Debug, Json


class Defaulting(typer.core.TyperGroup):
    """A group whose first command is meant when none is named: `edit-r2 audit edit-r2@champion`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default command before arguments that name none."""
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)


audits = typer.Typer(cls=Defaulting, help="Check a version back to its data, or write a folder for an auditor.")
lineages = typer.Typer(cls=Defaulting, help="Show where a version comes from, or which versions used something.")


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
    found = pedigree(view_of(books), version)
    if picture is not None:
        write_atomically(picture.resolve(), draw(found).encode())
    say(as_json, {"entry": found.entry.model_dump(), "statement": found.release}, tree(found))


@lineages.command("card")
def card(model: Model = "edit-r2@champion", as_json: Json = False, debug: Debug = False) -> None:
    """Print the model card of a version, in Markdown."""
    from tasks.card import card as write
    from tasks.pedigree import pedigree

    books, version = open_named(model, debug)
    text = write(pedigree(view_of(books), version))
    say(as_json, {"card": text}, text)


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
    found = pedigree.who_used(view_of(books), wanted)
    lines = [f"version {version}: {what}" for version, what in found] or ["no version"]
    say(as_json, {"versions": [{"version": version, "what": what} for version, what in found]}, "\n".join(lines))


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
    from tasks.view import exported, exported_version

    if folder is not None:
        report = walk(exported(folder, keys), named(model)[2] or exported_version(folder))
    else:
        books, version = open_named(model, debug)
        report = walk(view_of(books), version)
        if replay and report.ok:
            from tasks.replay import replay as run_again

            run_again(report, view_of(books), version, replay)
    say(as_json, report.as_json(), report.line)
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
    report = write(view_of(books), folder.resolve(), version, weights)
    say(as_json, report.as_json(), report.line)
    if not report.ok:
        raise typer.Exit(BROKEN)


def doctor(
    model: Model = "edit-r2",
    repair: Annotated[bool, typer.Option(help="Mend what can be mended; nothing is deleted.")] = False,
    gone: Annotated[
        str | None, typer.Option(metavar="RUN", help="Close this run first: its machine is gone for good.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find what crashes and hands have left behind: dead runs, moved aliases, torn lines, half-registered versions."""
    books, _ = open_named(model, debug)
    from tasks.checkup import visit

    found = visit(books.registry.name, repair, gone)
    say(as_json, found.as_json(), found.text())
    if found.unmended:
        raise typer.Exit(BROKEN)


def add_to(app: typer.Typer) -> None:
    """Give the command line these commands."""
    app.add_typer(audits, name="audit")
    app.add_typer(lineages, name="lineage")
    app.command()(doctor)
