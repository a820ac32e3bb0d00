"""A person's signed word: an override of a refusal, or the approval of a promotion.

The server that passes an answer on cannot know who gave it, so the answer is a document signed with a person's own key.
It is bound to one decision by digest and ends at a stated time. A key that lies among those of machines is nobody's: a
worker, whose key is trusted for what it made, must not let its own model in.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.errors import UserError
from tasks.books import Books
from tasks.decision import Decision
from tasks.ledger import Entry
from tasks.policy import Policy
from tasks.signing import PEOPLE, Identity, SignatureError, load_identity, sign, trusted_keys, verify

if TYPE_CHECKING:
    from tasks.view import View

APPROVAL_TYPE = "application/vnd.edit-r2.approval+json"
LONGEST = timedelta(days=30)


class NotApproved(UserError):
    """The gates let the candidate pass, and the policy asks for a person's signature that is not there."""

    exit_code = 3


class Barred(UserError):
    """The gates let the candidate pass, but a person has put these weights aside: they were `verdict`."""

    exit_code = 3
    verdict: str


class RolledBack(Barred):
    """A rollback left these weights, and no person has signed for their return."""

    verdict = "rolled back"


class Recalled(Barred):
    """These weights were recalled, and nothing brings them back."""

    verdict = "recalled"


class Approval(BaseModel):
    """Who allows what, why, and until when. `decision` is the SHA-256 of the gate decision that it is about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["approve", "override"]
    decision: str = Field(pattern=r"^[0-9a-f]{64}$")
    signer: str
    reason: str = Field(min_length=10)
    given: datetime
    expires: datetime

    @property
    def line(self) -> str:
        """One line for people; an override tells until when it was good."""
        if self.kind == "approve":
            return f"approved by {self.signer}: {self.reason}"
        return f"overridden by {self.signer} until {self.expires:%Y-%m-%d %H:%M}: {self.reason}"


def load_person(keys: Path, name: str, create: bool = False) -> Identity:
    """The key of a person, below the folder of the machines' keys.

    Raises:
        UserError: as `load_identity`, or the name is that of a machine's key.
    """
    if (keys / f"{name}.pub.pem").exists():
        raise _not_a_person(name)
    return load_identity(keys / PEOPLE, name, create=create)


def _not_a_person(name: str) -> UserError:
    problem = f"the key {name} lies among the keys of machines, which cannot approve"
    remedy = f"If {name} is a person, move {name}.pem and {name}.pub.pem from keys/ to keys/{PEOPLE}/"
    return UserError(problem, remedy)


def sign_approval(
    kind: Literal["approve", "override"], decision: str, identity: Identity, reason: str, lasts: timedelta
) -> bytes:
    """A signed approval under the name of the key.

    Raises:
        UserError: the reason is too short to be one, or it would last for more than 30 days.
    """
    if not timedelta(0) < lasts <= LONGEST:
        raise UserError(f"an approval cannot last {lasts}", f"Let it end within {LONGEST.days} days")
    now = datetime.now(UTC)
    try:
        given = Approval(
            kind=kind, decision=decision, signer=identity.name, reason=reason, given=now, expires=now + lasts
        )
    except ValidationError as error:
        raise UserError(_first(error), "Give the reason in a sentence") from error
    return sign(given.model_dump(mode="json"), APPROVAL_TYPE, identity)


def read_approval(envelope: bytes, books: Books | View) -> Approval:
    """What a person signed, whatever it is about.

    Raises:
        UserError: it is malformed, or not signed with the key of the person whom it names.
    """
    machines = books.trusted
    try:
        people = trusted_keys(books.keys / PEOPLE)
        payload, signer = verify(envelope, APPROVAL_TYPE, people | machines)
        given = Approval.model_validate(payload)
    except SignatureError as error:
        raise UserError(f"the approval does not hold: {error}", "Sign it again") from error
    except ValidationError as error:
        raise UserError(f"the approval does not hold: {_first(error)}", "Sign it again") from error
    if signer in machines or people[signer].keyid in {key.keyid for key in machines.values()}:
        raise _not_a_person(signer)
    if given.signer != signer:
        raise UserError("the approval is signed with another person's key", "Ask for a new one: `edit-r2 approve`")
    return given


def check_approval(
    envelope: bytes, kind: str, decision: str, books: Books | View, at: datetime | None = None
) -> Approval:
    """The approval, when it holds for this decision at this time (now, if none is given).

    Raises:
        UserError: not signed by a trusted person's key, for another decision, of another kind, or not valid now.
    """
    given = read_approval(envelope, books)
    now = at or datetime.now(UTC)
    problems = {
        f"the approval is for another act than {kind}": given.kind != kind,
        f"the approval is for another decision{_about(given.decision, books)}": given.decision != decision,
        f"the approval lasts longer than {LONGEST.days} days": given.expires - given.given > LONGEST,
        f"the approval is not valid before {given.given:%Y-%m-%d %H:%M}": now < given.given,
        f"the approval has expired: it ended at {given.expires:%Y-%m-%d %H:%M}": given.expires < now,
    }
    problem = next((text for text, found in problems.items() if found), None)
    if problem:
        raise UserError(problem, "Ask for a new one: `edit-r2 approve`")
    return given


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    return f"{'.'.join(str(part) for part in found['loc'])}: {found['msg']}"


def _about(decision: str, books: Books | View) -> str:
    """Which model another decision is about, where it is kept here."""
    try:
        found = Decision.model_validate_json(books.shelf.get(decision))
    except (UserError, ValidationError):
        return ""
    return f", about model {found.model_digest[:12]}"


def needs_approval(books: Books, decision: Decision) -> bool:
    """Whether a decision to promote takes effect only with a person's signature, by the policy that it was made by."""
    policy = Policy.model_validate_json(books.shelf.get(decision.inputs.policy))
    return decision.promote and policy.approval == "required"


def how_to_approve(decision: Decision, model: str = "MODEL") -> str:
    """The two commands by which a person lets a model in."""
    kind, flag = ("approval", "") if decision.promote else ("override", " --override")
    sign = f"edit-r2 approve {decision.digest}{flag} --name NAME --reason WHY --out FILE"
    act = f"edit-r2 promote {model} --profile {decision.profile} --{kind} FILE"
    return f"sign decision {decision.digest[:12]}: `{sign}`, then `{act}`"


def _rolled_back(left: Entry, decision: Decision, lacks: str) -> RolledBack:
    found = f"the rollback to version {left.version} at entry {left.index} left these weights"
    return RolledBack(f"{found}, and {lacks}: {left.reason}", f"To take that back, {how_to_approve(decision)}")


def heard(
    books: Books, decision: Decision, word: bytes | None, left: Entry | None = None
) -> tuple[str | None, list[str]]:
    """Digest of the signed word that takes part in an act, now kept, and what it adds to the reason.

    Args:
        books: where the word is kept.
        decision: what it is about.
        word: what a person signed, if anything.
        left: the rollback that left these weights behind; only a person's word that came after it lets them come back.

    Raises:
        NotApproved: the policy asks for a word, and there is none.
        RolledBack: `left` asks for one, and there is none.
        UserError: the word does not hold.
    """
    back = left if decision.promote else None
    needed = back is not None or needs_approval(books, decision)
    if word is None and back is not None:
        raise _rolled_back(back, decision, "nobody has signed for their return")
    if word is None and needed:
        problem = f"decision {decision.digest} waits for a person's approval"
        raise NotApproved(problem, f"To let it become champion, {how_to_approve(decision)}")
    if word is None:
        return None, []
    try:
        given = check_approval(word, "approve" if decision.promote else "override", decision.digest, books)
    except UserError:
        if decision.promote and not needed:  # what nobody asked for need not hold
            return None, []
        raise
    if left is not None and given.given < datetime.fromisoformat(left.time):
        raise _rolled_back(left, decision, f"{given.signer} signed before that")
    return books.shelf.put(word), [given.line]
