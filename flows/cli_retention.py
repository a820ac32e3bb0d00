"""The command that frees room: what no chain needs any more."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from flows.cli_models import open_named
from flows.options import Debug, Json
from flows.session import answer


def retention(
    profile: Annotated[str | None, typer.Option("--profile", "-p", help="Only this profile; default: all.")] = None,
    keep_last: Annotated[int, typer.Option(min=0, help="Newest models that stay, of base, SFT and RL each.")] = 3,
    older_than: Annotated[float, typer.Option(min=0, help="Days; nothing younger goes.")] = 30.0,
    delete: Annotated[bool, typer.Option("--delete", help="Do it; without this, only show what would go.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show, or delete, models, checkpoints and cached copies that no chain needs.

    What a promoted, restored or recalled version was made from always stays, and so does what an alias names. Only
    files go: runs, scores, statements and decisions stay, and each deletion is on record. DVC's data is left alone.
    """
    from tasks import retiring
    from tasks.retention import Rule, readable

    books, _ = open_named("edit-r2", debug)
    choices = retiring.consider(books, Rule(keep_last, timedelta(days=older_than)), profile)
    if delete:
        choices = retiring.retire(books, choices)
    freed = sum(choice.item.size for choice in choices if not choice.keep)
    if as_json:
        answer({"deleted": delete, "bytes": freed, "items": [choice.as_json() for choice in choices]})
        return
    for choice in choices:
        typer.echo(choice.line)
    typer.echo(f"{readable(freed)} freed" if delete else f"{readable(freed)} would be freed; --delete does it")
