"""A person's signed word: an override of a refusal, or the approval of a promotion.

The server that passes an answer on cannot know who gave it, so the answer is a document signed with a person's own key.
It is bound to one decision by digest and ends at a stated time.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.errors import UserError
from tasks.books import Books
from tasks.signing import Identity, SignatureError, sign, verify

APPROVAL_TYPE = "application/vnd.edit-r2.approval+json"
LONGEST = timedelta(days=30)


class Approval(BaseModel):
    """Who allows what, why, and until when. `decision` is the SHA-256 of the gate decision that it is about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["approve", "override"]
    decision: str = Field(pattern=r"^[0-9a-f]{64}$")
    signer: str
    reason: str = Field(min_length=10)
    given: datetime
    expires: datetime


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
        first = error.errors()[0]
        raise UserError(f"{first['loc'][0]}: {first['msg']}", "Give the reason in a sentence") from error
    return sign(given.model_dump(mode="json"), APPROVAL_TYPE, identity)


def check_approval(envelope: bytes, kind: str, decision: str, books: Books, at: datetime | None = None) -> Approval:
    """The approval, when it holds for this decision at this time (now, if none is given).

    Raises:
        UserError: not signed by a trusted person's key, for another decision, of another kind, or expired.
    """
    try:
        payload, signer = verify(envelope, APPROVAL_TYPE, books.trusted)
        given = Approval.model_validate(payload)
    except (SignatureError, ValidationError) as error:
        raise UserError("the approval does not hold: " + str(error).splitlines()[0], "Sign it again") from error
    now = at or datetime.now(UTC)
    problems = {
        "the approval is signed with another person's key": given.signer != signer,
        "the pipeline's own key cannot approve": signer == books.identity.name,
        f"the approval is for another act than {kind}": given.kind != kind,
        "the approval is for another decision": given.decision != decision,
        "the approval has expired": not given.given <= now <= given.expires,
    }
    problem = next((text for text, found in problems.items() if found), None)
    if problem:
        raise UserError(problem, "Ask for a new one: `edit-r2 approve`")
    return given
