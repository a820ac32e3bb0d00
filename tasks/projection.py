"""The registry made to show what the ledger says: alias, tags of the champion, and the newest entry it has seen."""

from __future__ import annotations

from tasks.books import Books
from tasks.ledger import Entry, champion
from tasks.registry import OVERRIDE_TAG, STATEMENT_TAG, VERDICT_TAG


def project(books: Books) -> int | None:
    """Set MLflow's alias to what the ledger says, read it back, and repeat until both agree; the champion's version.

    Two processes may project at once, and the slower may write what the ledger no longer says. Each therefore looks at
    the ledger again after it wrote, so the last one to write has seen the newest entry.
    """
    registry = books.registry
    while True:
        chain = books.ledger.chain()
        now = champion(chain, registry.name, books.alias)
        number = now.version if now else None
        if chain and (registry.head() or (-1, ""))[0] < len(chain) - 1:
            registry.anchor(len(chain) - 1, chain[-1].hash)
        if now is not None:
            _show(books, now)
        if registry.alias(books.alias) != number:
            registry.point(books.alias, number)
        if len(books.ledger.chain()) == len(chain) and registry.alias(books.alias) == number:
            return number


def _show(books: Books, now: Entry) -> None:
    """Tags of the champion, as its entry has them."""
    shown = {VERDICT_TAG: now.action, STATEMENT_TAG: str(now.statement)}
    if now.action == "override":
        shown[OVERRIDE_TAG] = now.reason
    known = books.registry.version(now.version).tags
    for key, value in shown.items():
        if known.get(key) != value:
            books.registry.tag(now.version, key, value)
