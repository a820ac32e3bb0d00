"""The ledger: who made which model champion, when, why, and on what evidence.

Entries are DSSE envelopes, one per line. Each names the SHA-256 of the line before it, so no entry can be altered,
removed or inserted without breaking every later one. A change of champion is a compare-and-set: it states the champion
that it was decided against, and fails when that is no longer the champion. MLflow's alias only mirrors the ledger.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from data.errors import UserError
from tasks.canonical import canonical, sha256
from tasks.documents import Shelf
from tasks.redaction import redact
from tasks.signing import Identity, SignatureError, sign, trusted_keys, verify

ENTRY_TYPE = "application/vnd.edit-r2.ledger+json"
GENESIS = "0" * 64
Action = Literal["promote", "refuse", "override", "rollback", "recall", "repair", "retire"]
CROWNING: tuple[Action, ...] = ("promote", "override", "rollback")
ATTEMPTS = 500


class Conflict(UserError):
    """The champion changed between the decision and its entry in the ledger."""

    exit_code = 5


class LedgerError(UserError):
    """The ledger itself does not hold: an entry is altered, missing, out of order or not signed by a trusted key."""

    exit_code = 6


class Draft(BaseModel):
    """What an entry says, before it gets its place.

    `model` and `alias` name what is decided about, `version` and `model_digest` the model version that the entry is
    about. `expected` is the digest of the champion that the decision was made against (None: there is none). The
    documents `statement`, `decision` and `approval` are named by their SHA-256.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Action
    model: str
    alias: str
    version: int
    model_digest: str
    expected: str | None = None
    actor: str
    reason: str
    statement: str | None = None
    decision: str | None = None
    approval: str | None = None

    @property
    def operation(self) -> str:
        """Identity of the act: a repetition after a crash is the same act, whoever repeats it.

        A repair may be needed again and again; its reason says after which entry, and so tells one from the next.
        """
        told = {"actor"} if self.action == "repair" else {"actor", "reason"}
        return sha256(canonical(self.model_dump(include=set(Draft.model_fields) - told)))


class Entry(Draft):
    """A draft with its place in the chain."""

    format: Literal[1] = 1
    index: int
    previous: str
    time: str


@dataclass(frozen=True)
class Signed:
    """An entry as it stands in the ledger: its line's SHA-256 and the name of the key that signed it."""

    entry: Entry
    hash: str
    signer: str


def read_chain(lines: Sequence[bytes], keys: Path) -> list[Signed]:
    """Every entry, with signature, place and link checked.

    Raises:
        LedgerError: it names the first entry that does not hold.
    """
    trusted, chain, previous = trusted_keys(keys), list[Signed](), GENESIS
    for index, line in enumerate(lines):
        try:
            payload, signer = verify(line, ENTRY_TYPE, trusted)
            entry = Entry.model_validate(payload)
        except (SignatureError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            remedy = "Restore the ledger; if another machine of yours wrote it, trust that machine's key (its .pub.pem)"
            raise LedgerError(f"ledger entry {index} does not hold: {reason}", remedy) from error
        if entry.index != index or entry.previous != previous:
            problem = f"ledger entry {index} does not follow entry {index - 1}"
            raise LedgerError(problem, "Restore the ledger: an entry was removed, inserted or moved")
        previous = sha256(line)
        chain.append(Signed(entry, previous, signer))
    return chain


def champion(chain: Sequence[Signed], model: str, alias: str) -> Entry | None:
    """The entry that made the present champion."""
    return next((signed.entry for signed in reversed(chain) if _crowns(signed.entry, model, alias)), None)


def crownings(chain: Sequence[Signed], model: str, alias: str) -> list[Entry]:
    """Every entry that made a champion, the present one last."""
    return [signed.entry for signed in chain if _crowns(signed.entry, model, alias)]


def _crowns(entry: Entry, model: str, alias: str) -> bool:
    return entry.action in CROWNING and (entry.model, entry.alias) == (model, alias)


def reigns(chain: Sequence[Signed], model: str, alias: str) -> tuple[list[Entry], dict[str, Entry]]:
    """Who was champion, in order, and what rollbacks have left behind.

    Returns:
        The entries that crowned a version, without those that a rollback has left behind since; and, by digest of its
        weights, the rollback that left a version behind, unless something has crowned those weights again.
    """
    standing: list[Entry] = []
    left: dict[str, Entry] = {}
    for entry in crownings(chain, model, alias):
        if entry.action == "rollback":
            back = max((index for index, reign in enumerate(standing) if reign.version == entry.version), default=-1)
            left |= dict.fromkeys((reign.model_digest for reign in standing[back + 1 :]), entry)
            del standing[back + 1 :]
        else:
            standing.append(entry)
        left.pop(entry.model_digest, None)
    return standing, left


def latest(chain: Sequence[Signed], model: str, version: int) -> Entry | None:
    """The newest entry about a version that names its statement and the decision on it."""
    said = (signed.entry for signed in reversed(chain) if signed.entry.statement and signed.entry.decision)
    return next((entry for entry in said if (entry.model, entry.version) == (model, version)), None)


def spoken(chain: Sequence[Signed], entry: Entry) -> Entry | None:
    """The entry about the same decision that carries a person's word, also where a later one repeats the decision."""
    same = (entry.model, entry.version, entry.decision)
    about = (signed.entry for signed in reversed(chain))
    return next((e for e in about if e.approval and (e.model, e.version, e.decision) == same), None)


def recalled(chain: Sequence[Signed], model: str) -> dict[int, Entry]:
    """Versions that were recalled, with the entry that says why."""
    entries = (signed.entry for signed in chain)
    return {entry.version: entry for entry in entries if entry.action == "recall" and entry.model == model}


@dataclass
class Ledger:
    """The ledger on a shelf, written under one identity and checked against every trusted key in `keys`."""

    shelf: Shelf
    keys: Path
    identity: Identity
    _seen: tuple[tuple[bytes, ...], list[Signed]] = field(default=((), []), repr=False)

    def chain(self) -> list[Signed]:
        """Every entry, checked; what was checked before by this object is not checked again.

        Raises:
            LedgerError: see `read_chain`.
        """
        lines = tuple(self.shelf.lines())
        if lines != self._seen[0]:
            self._seen = (lines, read_chain(lines, self.keys))
        return list(self._seen[1])

    def champion(self, model: str, alias: str) -> Entry | None:
        """The entry that made the present champion."""
        return champion(self.chain(), model, alias)

    def append(self, draft: Draft) -> Signed:
        """Enter a draft, its free text redacted. An act that the ledger holds already is not entered twice.

        Names and digests stay as they are: where a secret happens to equal one, another model would be entered.

        Raises:
            Conflict: the draft would change the champion, and the champion is not the expected one (any more).
            LedgerError: the ledger does not hold, so nothing may be added to it.
        """
        draft = draft.model_copy(update=redact({"reason": draft.reason, "actor": draft.actor}))
        for attempt in range(ATTEMPTS):
            chain = self.chain()
            done = _already(chain, draft)
            if done is not None:
                return done
            if draft.action in CROWNING:
                _expect(champion(chain, draft.model, draft.alias), draft)
            previous = chain[-1].hash if chain else GENESIS
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            entry = Entry(**draft.model_dump(), index=len(chain), previous=previous, time=now)
            line = sign(entry.model_dump(mode="json"), ENTRY_TYPE, self.identity)
            if self.shelf.append(entry.index, line):
                return Signed(entry, sha256(line), self.identity.name)
            time.sleep(random.uniform(0, min(0.05, 0.002 * (attempt + 1))))
        raise UserError("the ledger is too busy", "Try again later")


def _already(chain: Sequence[Signed], draft: Draft) -> Signed | None:
    """The same act in the ledger, if nothing has undone it: a crowning counts only while it is the last one."""
    if draft.action not in CROWNING:
        return next((found for found in chain if found.entry.operation == draft.operation), None)
    last = next((found for found in reversed(chain) if _crowns(found.entry, draft.model, draft.alias)), None)
    return last if last is not None and last.entry.operation == draft.operation else None


def _expect(current: Entry | None, draft: Draft) -> None:
    found = current.model_digest if current else None
    if found != draft.expected:
        who = f"version {current.version}" if current else "nobody"
        problem = f"version {draft.version} was judged against another champion: now it is {who}"
        raise Conflict(problem, "Evaluate and decide again against the present champion")
