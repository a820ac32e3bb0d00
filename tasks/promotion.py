"""Promotion, rollback and recall: verified first, entered into the ledger, and only then shown in MLflow.

Every act can be repeated after a crash at any point: documents are named by their content, signatures are
deterministic, the ledger takes the same act once, and the projection is made from the ledger each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from data.errors import UserError
from mlflow_config.settings import Tag
from tasks import lineage
from tasks.approval import Recalled, heard
from tasks.books import Books
from tasks.decision import Decision
from tasks.filing import remake, verify_model
from tasks.ledger import Action, Conflict, Draft, Entry, Signed, champion, latest, recalled, reigns
from tasks.locks import file_lock
from tasks.projection import project
from tasks.redaction import redact
from tasks.registry import RECALLED_TAG, STATEMENT_TAG, UNDECIDED, VERDICT_TAG, record_digest
from tasks.signing import sign_weights

LONGEST_WAIT = 600.0  # seconds for which a promotion waits for another one of the same model, or for retention


@dataclass(frozen=True)
class Candidate:
    """A logged model that stands for promotion. `statement` is the digest of the statement made with it."""

    model_id: str
    run_id: str
    digest: str
    statement: str


@dataclass(frozen=True)
class Outcome:
    """What became of a candidate: its registered version, the decision, and its entry in the ledger."""

    version: int
    promoted: bool
    decision: Decision
    decision_digest: str
    entry: Signed


def promote(books: Books, candidate: Candidate, decision: Decision, reason: str, word: bytes | None = None) -> Outcome:
    """Make a candidate champion if its decision says so, or if a person overrides it; else enter the refusal.

    Args:
        books: where everything is kept.
        candidate: the model; its statement and every file of it are verified first.
        decision: made by `tasks.filing.file_decision`, against the present champion.
        reason: why now, in a sentence.
        word: a person's signed word (`tasks.approval`): an approval where the policy asks for one, an override of a
            refusal.

    Raises:
        Conflict: the champion is no longer the one that the decision was made against.
        NotApproved: the policy asks for an approval, and there is none.
        RolledBack: the weights were champion until a rollback left them, and no person has signed for their return.
        Recalled: the same weights were recalled.
        UserError: statement, files, approval or override do not hold.
    """
    with model_lock(books, candidate.model_id):
        return _promote(books, candidate, decision, reason, word)


@contextmanager
def model_lock(books: Books, model_id: str, wait: float = LONGEST_WAIT) -> Iterator[None]:
    """Keep retention away from the files of a model while it is promoted. Raises Busy after `wait` seconds."""
    with file_lock(books.state / "locks" / f"{model_id}.lock", wait):
        yield


def _promote(books: Books, candidate: Candidate, decision: Decision, reason: str, word: bytes | None) -> Outcome:
    verify_model(books, candidate.model_id, candidate.digest, candidate.statement)
    if decision.model_digest != candidate.digest or remake(books.shelf, decision.digest)[1] != decision:
        raise UserError("the decision is not about this model, or cannot be made again", "Decide again")
    if decision.promote or word is not None:
        _not_recalled(books, candidate.digest)
    left = left_behind(books, candidate.digest)
    approval, said = heard(books, decision, word, left)
    statement = _release(books, candidate, decision)
    action: Action = "promote" if decision.promote else "override" if approval else "refuse"
    version = _register(books, candidate, decision.profile)
    draft = Draft(
        action=action,
        model=books.registry.name,
        alias=books.alias,
        version=version,
        model_digest=candidate.digest,
        expected=decision.champion_digest,
        actor=books.actor,
        reason="; ".join([reason, *said] if action != "refuse" else decision.reasons),
        statement=statement,
        decision=decision.digest,
        approval=approval,
    )
    entry = _enter(books, draft, left)
    project(books)
    return Outcome(version, action != "refuse", decision, decision.digest, entry)


def _release(books: Books, candidate: Candidate, decision: Decision) -> str:
    """The statement with scores, decision and the signature of the weights; the same bytes whenever it is made."""
    signature = books.state / "signatures" / f"{candidate.digest}.sig"
    if not signature.exists():  # the layout's signatures hold a random number, so one is made once
        with books.registry.model_folder(candidate.model_id) as folder:
            sign_weights(folder, books.keys, signature)
    runs = books.registry.evaluations(candidate.model_id, decision.benchmark_digest)
    records = {run_id: record_digest(books.registry.run_record(run_id)) for run_id in runs}
    kept = books.shelf.put(signature.read_bytes())
    return lineage.release(candidate.statement, books.shelf, books.identity, books.trusted, decision, records, kept)


def _enter(books: Books, draft: Draft, left: Entry | None) -> Signed:
    """Enter a decision; its version shows the verdict from then on, and `undecided` if it could not be entered."""
    try:
        _not_rolled_back_since(books, draft, left)
        entry = books.ledger.append(draft)
    except Conflict:
        if all(signed.entry.version != draft.version for signed in history(books)):
            books.registry.tag(draft.version, VERDICT_TAG, UNDECIDED)
        raise
    current = books.ledger.champion(draft.model, draft.alias)
    if current is None or current.version != draft.version:  # of the champion, `project` shows what made it champion
        books.registry.tag(draft.version, VERDICT_TAG, draft.action)
        books.registry.tag(draft.version, STATEMENT_TAG, str(draft.statement))
    return entry


def _register(books: Books, candidate: Candidate, profile: str) -> int:
    tags = {str(Tag.DIGEST): candidate.digest, str(Tag.PROFILE): profile}
    with file_lock(books.state / "registry.lock"):
        return books.registry.register(candidate.model_id, candidate.run_id, tags)


def _not_recalled(books: Books, digest: str) -> None:
    entry = recalled_as(books, digest)
    if entry is not None:
        problem = f"these weights were recalled as version {entry.version} at entry {entry.index}: {entry.reason}"
        raise Recalled(problem, "Train another model: what was recalled does not become champion again")


def recalled_as(books: Books, digest: str) -> Entry | None:
    """The recall of these weights: under another version number they are still the same."""
    entries = recalled(books.ledger.chain(), books.registry.name).values()
    return next((entry for entry in entries if entry.model_digest == digest), None)


def left_behind(books: Books, digest: str) -> Entry | None:
    """The rollback that left these weights behind, if nothing has crowned them since.

    It goes by the weights: a retraining that changed nothing makes the same ones, and a decision on them that is new.
    """
    return reigns(books.ledger.chain(), books.registry.name, books.alias)[1].get(digest)


def _not_rolled_back_since(books: Books, draft: Draft, left: Entry | None) -> None:
    """A repeated promotion may meet a rollback that came after it had asked whether a person's word is needed."""
    now = left_behind(books, draft.model_digest)
    if now is not None and now != left and draft.action != "refuse":
        raise Conflict(f"entry {now.index} rolled version {draft.version} back meanwhile", "Promote it again")


def rollback(books: Books, reason: str, leaving: int | None = None, to: int | None = None) -> Signed:
    """Make an earlier champion champion again, once its files are verified.

    Args:
        books: where everything is kept.
        reason: why, in a sentence.
        leaving: the version to leave, by default the present champion. A repetition after a crash is answered with the
            entry that is there already: it names the same version, or else gives the same reason by the same actor.
        to: the version to restore, by default the champion before the one that is left.

    Raises:
        Conflict: another version than `leaving` is champion.
        UserError: no such champion before, it was recalled, or its files no longer hold.
    """
    chain = books.ledger.chain()
    now = champion(chain, books.registry.name, books.alias)
    if now is None:
        raise UserError("there is no champion to leave", "Promote a version first")
    last = next(signed for signed in chain if signed.entry == now)
    if to in (None, now.version) and _repeats(chain, now, books, reason, leaving):
        project(books)
        return last
    if leaving is not None and now.version != leaving:
        raise Conflict(f"version {now.version} is champion, not {leaving}", "See `edit-r2 history`")
    target = _earlier(chain, books, now.version, to)
    if target.version in recalled(chain, books.registry.name):
        raise UserError(f"version {target.version} was recalled", "Choose another with --to")
    verify_model(books, books.registry.version(target.version).model_id, target.model_digest, str(target.statement))
    change = {"action": "rollback", "expected": now.model_digest, "actor": books.actor, "reason": reason}
    fields = target.model_dump(include=set(Draft.model_fields)) | change | {"approval": None}
    entry = books.ledger.append(Draft.model_validate(fields))
    project(books)
    return entry


def _repeats(chain: list[Signed], now: Entry, books: Books, reason: str, leaving: int | None) -> bool:
    """Whether what is asked for is the rollback that made the present champion: an error after its entry, or the
    wish to be sure, must not go back one further. It must where that champion was recalled since."""
    if now.action != "rollback" or now.version in recalled(chain, books.registry.name):
        return False
    if leaving is None:
        return (now.actor, now.reason) == (redact(books.actor), redact(reason))
    return leaving != now.version and _left(chain, now.expected) == leaving


def _left(chain: list[Signed], digest: str | None) -> int | None:
    """Version of the model with this digest."""
    return next((signed.entry.version for signed in reversed(chain) if signed.entry.model_digest == digest), None)


def _earlier(chain: list[Signed], books: Books, leaving: int, to: int | None) -> Draft:
    """The entry that crowned the version to restore: `to`, or the newest one before that was not itself left since."""
    standing, _ = reigns(chain, books.registry.name, books.alias)
    wanted = [entry for entry in standing if entry.version != leaving and (to is None or entry.version == to)]
    if not wanted:
        what = f"version {to} was never champion" if to else "there is no champion before this one"
        raise UserError(what, "See `edit-r2 history`")
    return wanted[-1]


def recall(books: Books, version: int, reason: str) -> Signed:
    """Mark a version as recalled, with the reason; whoever looks at it sees it, and no rollback restores it.

    Raises:
        UserError: there is no such version, or nothing in the ledger says which weights it holds: a tag may be altered.
    """
    books.registry.version(version)
    known = latest(books.ledger.chain(), books.registry.name, version)
    if known is None:
        problem = f"the ledger has no decision on version {version}, so nothing says which weights it holds"
        raise UserError(problem, "Let the gates decide on its model first: `edit-r2 promote MODEL`")
    draft = Draft(
        action="recall",
        model=books.registry.name,
        alias=books.alias,
        version=version,
        model_digest=known.model_digest,
        actor=books.actor,
        reason=reason,
        statement=known.statement,
    )
    entry = books.ledger.append(draft)
    books.registry.tag(version, RECALLED_TAG, entry.entry.reason)
    project(books)
    return entry


def history(books: Books) -> list[Signed]:
    """Every entry about this model, the oldest first, with the chain checked."""
    return [signed for signed in books.ledger.chain() if signed.entry.model == books.registry.name]
