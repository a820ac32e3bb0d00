"""What the doctor says of one thing that is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Complaint:
    """One thing that is wrong. `mended` tells whether this visit has put it right."""

    kind: Literal["ledger", "alias", "version", "model", "run", "document", "key", "disk", "service", "check"]
    subject: str
    problem: str
    remedy: str
    mended: bool = False

    @property
    def line(self) -> str:
        """One line for people."""
        return f"{self.kind} {self.subject}: {self.problem}. {'Mended.' if self.mended else self.remedy}"
