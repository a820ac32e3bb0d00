"""The doctor's visit as a whole: books, runs and servers, for the command and for the scheduled flow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from data.errors import UserError
from tasks.books import open_books
from tasks.complaints import Complaint
from tasks.doctor import examine
from tasks.doctor_runs import give_up
from tasks.doctor_services import ask_services
from tasks.registry import Registry
from tasks.settings import settings
from tasks.work import work


class Unmended(UserError):
    """Something is wrong that this visit has not put right."""

    exit_code = 6


@dataclass(frozen=True)
class Checkup:
    """What a visit found."""

    complaints: tuple[Complaint, ...]

    @property
    def unmended(self) -> tuple[Complaint, ...]:
        """What is still wrong."""
        return tuple(complaint for complaint in self.complaints if not complaint.mended)

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {"complaints": [{**vars(complaint), "line": complaint.line} for complaint in self.complaints]}

    def text(self) -> str:
        """For people, one line each."""
        return "\n".join(complaint.line for complaint in self.complaints) or "all is well"

    def raise_for_unmended(self) -> None:
        """Raise Unmended with everything that is still wrong."""
        if self.unmended:
            problem = "; ".join(complaint.line for complaint in self.unmended)
            raise Unmended(f"{len(self.unmended)} things are wrong: {problem}", "See `edit-r2 doctor`")


def visit(model: str | None = None, repair: bool = False, gone: str | None = None) -> Checkup:
    """Look at the books of a registered model (by default that of the settings), at its runs, and at the servers.

    Args:
        model: its name.
        repair: mend what can be mended.
        gone: id of a run whose machine does not come back; it is closed first.
    """
    books = open_books()
    if model is not None:
        books = replace(books, registry=Registry(books.registry.client, model))
    if gone is not None:
        give_up(books, gone)
    found = examine(books, settings().root, repair) + ask_services(settings(), repair)
    return Checkup(tuple(found))


@work("doctor")
def examine_everything(model: str | None, repair: bool) -> Checkup:
    """`visit` as a task."""
    return visit(model, repair)


def show(found: Checkup) -> None:
    """The page of the visit in Prefect."""
    from prefect.artifacts import create_table_artifact

    rows = [
        {"what": complaint.kind, "which": complaint.subject, "problem": complaint.problem, "mended": complaint.mended}
        for complaint in found.complaints
    ]
    create_table_artifact(key="doctor", table=rows, description=found.text())
