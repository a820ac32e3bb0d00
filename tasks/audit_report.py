"""What an audit finds: one link of the chain after the other, and the verdict that they come to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data.errors import UserError
from tasks.signing import SignatureError

_FAULTS = (UserError, SignatureError, ValidationError, ValueError, KeyError, TypeError, OSError)


class Broken(Exception):
    """A link that does not hold; the message says what differs."""


class NotHere(Exception):
    """What a link would be checked against was left out of an exported folder on purpose, or was made elsewhere."""


@dataclass(frozen=True)
class Link:
    """One link of the chain. `holds` is None where there was nothing to check it against here."""

    name: str
    subject: str
    holds: bool | None
    detail: str


@dataclass
class AuditReport:
    """All links, in the order of the walk."""

    model: str
    alias: str
    version: int | None = None
    champion: bool = False
    links: list[Link] = field(default_factory=list)

    @property
    def broken(self) -> Link | None:
        """The first broken link."""
        return next((link for link in self.links if link.holds is False), None)

    @property
    def ok(self) -> bool:
        """Whether every link that could be checked holds."""
        return bool(self.links) and self.broken is None

    @property
    def line(self) -> str:
        """The verdict in one line."""
        who = f"{self.model}@{self.alias}" + (f" (version {self.version})" if self.version else "")
        if self.broken:
            return f"{who}: broken at {self.broken.name} ({self.broken.subject}): {self.broken.detail}"
        unchecked = sum(link.holds is None for link in self.links)
        rest = f", {unchecked} could not be checked here" if unchecked else ""
        return f"{who}: {sum(link.holds is True for link in self.links)} links hold{rest}"

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        about = {"model": self.model, "alias": self.alias, "version": self.version, "ok": self.ok, "line": self.line}
        return about | {"links": [asdict(link) for link in self.links]}

    @contextmanager
    def link(self, name: str, subject: str, detail: str = "holds") -> Iterator[None]:
        """Check one link in the body: any fault there breaks it, and is told without a path."""
        try:
            yield
        except NotHere as error:
            self.links.append(Link(name, subject, None, str(error)))
        except Broken as error:
            self.links.append(Link(name, subject, False, str(error)))
        except LookupError as error:
            self.links.append(Link(name, subject, False, f"{error} is missing"))
        except _FAULTS as error:
            self.links.append(Link(name, subject, False, _said(error)))
        else:
            self.links.append(Link(name, subject, True, detail))

    def unchecked(self, name: str, subject: str, why: str) -> None:
        """A link that has nothing to be checked against here."""
        self.links.append(Link(name, subject, None, why))


def _said(error: BaseException) -> str:
    if isinstance(error, UserError):
        return error.problem
    if isinstance(error, OSError):
        return f"{Path(str(error.filename or 'a file')).name}: {error.strerror or error}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def expect(holds: bool, otherwise: str) -> None:
    """Raise Broken with `otherwise` unless `holds`."""
    if not holds:
        raise Broken(otherwise)


def differing(found: Mapping[str, str], stated: Mapping[str, str]) -> str | None:
    """The first path whose digests differ, or that only one side has."""
    return next((path for path in sorted(found.keys() | stated.keys()) if found.get(path) != stated.get(path)), None)
