"""What every command on a registered model needs: its name read, the installation's books opened, an answer given."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tasks.books import Books
    from tasks.view import View

BROKEN = 6  # exit code: an audit found a broken link, the doctor something that is not mended
Model = Annotated[str, typer.Argument(help="A version: edit-r2@champion (an alias) or edit-r2/3 (a number).")]


def open_named(model: str, debug: bool = False) -> tuple[Books, int | None]:
    """The books of a registered model, and the version that `model` names (None: whatever the alias names)."""
    from flows.session import hush
    from tasks.books import open_books
    from tasks.registry import Registry
    from tasks.services import require_reachable
    from tasks.settings import prepare

    chosen = prepare(debug)
    require_reachable(chosen)
    if not debug:
        hush()
    name, alias, version = named(model)
    books = open_books(chosen, alias=alias)
    return replace(books, registry=Registry(books.registry.client, name)), version


def named(model: str) -> tuple[str, str, int | None]:
    """Registered model, alias and version of `edit-r2@champion` or `edit-r2/3` (None: whatever the alias names)."""
    from data.errors import UserError

    name, _, alias = model.partition("@")
    name, _, number = name.partition("/")
    if not name or (number and not number.isdigit()):
        raise UserError(f"{model!r} names no version", "Write edit-r2@champion or edit-r2/3")
    return name, alias or "champion", int(number) if number else None


def view_of(books: Books) -> View:
    """All that an audit looks at."""
    from tasks.settings import settings
    from tasks.view import live_from

    return live_from(settings(), books)


def say(as_json: bool, result: dict[str, Any], text: str) -> None:
    """Answer with the result for machines or the text for people."""
    from flows.session import answer

    if as_json:
        answer(result)
    else:
        typer.echo(text)
