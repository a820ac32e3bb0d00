"""The doctor: finds what crashes and hands have left behind, mends what can be mended, and says why for each.

Run on a schedule or by `edit-r2 doctor`. Nothing is deleted. The ledger is never rewritten: a torn last line, which was
never acknowledged, is set aside; anything else that is wrong with it is for a person to judge.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from data.errors import UserError
from tasks.books import Books
from tasks.canonical import sha256
from tasks.complaints import Complaint
from tasks.decision import Decision
from tasks.doctor_runs import dead_runs
from tasks.documents import FolderShelf, Missing
from tasks.failures import explain, transient
from tasks.ledger import Draft, Entry, LedgerError, Signed, crownings
from tasks.locks import Busy
from tasks.policy import Policy
from tasks.projection import project
from tasks.promotion import model_lock
from tasks.registry import AWAITS_TAG, STATEMENT_TAG, UNDECIDED, VERDICT_TAG, pages
from tasks.settings import settings
from tasks.signing import load_identity

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

GIB = 2**30
LEAST_FREE = 2 * GIB


def examine(books: Books, root: Path, repair: bool = False) -> list[Complaint]:
    """Look at everything; an empty list means that all is well.

    Args:
        books: the installation.
        root: the checkout, where no private key may be tracked.
        repair: mend what can be mended.

    Raises:
        Exception: MLflow's, where it does not answer; what else was found is found again.
    """
    found = list(_torn(books, repair))
    try:
        chain = books.ledger.chain()  # once: in a bucket every entry is a request
    except LedgerError as error:  # nothing that rests on the ledger can be judged
        return [*found, Complaint("ledger", "chain", error.problem, error.remedy)]
    checks: dict[str, Iterator[Complaint]] = {
        "aliases": _aliases(books, chain, repair),
        "versions": _versions(books, chain, repair),
        "runs": dead_runs(books, repair),
        "models": _pending_models(books, repair),
        "waiting": _waiting(books, repair),
        "documents": _documents(books, chain),
        "keys": _keys(books, root),
        "disk": _disk(books.state),
    }
    unreachable: Exception | None = None
    for name, check in checks.items():
        try:
            found.extend(check)
        except Exception as error:  # the others can still tell, and what is mended already is told
            if transient(error) and not isinstance(error, UserError):
                unreachable = unreachable or error
            why = explain(error)
            found.append(Complaint("check", name, f"it came to no end: {why.problem}", why.remedy))
    if unreachable is not None:  # nothing is wrong that a person could judge: to be tried again
        raise unreachable
    return found


def _torn(books: Books, repair: bool) -> Iterator[Complaint]:
    shelf = books.shelf
    if isinstance(shelf, FolderShelf) and shelf.file.exists() and not shelf.file.read_bytes().endswith(b"\n"):
        mended = repair and (shelf.recover() or True)
        remedy = "Run `edit-r2 doctor --repair`"
        yield Complaint("ledger", "last line", "it was torn by a crash before it counted", remedy, mended)


def _aliases(books: Books, chain: Sequence[Signed], repair: bool) -> Iterator[Complaint]:
    """Aliases that do not name the ledger's champion."""
    registry = books.registry
    numbers = {version.number for version in registry.versions()}
    lost = False
    for alias in sorted({signed.entry.alias for signed in chain if signed.entry.model == registry.name}):
        crowned = crownings(chain, registry.name, alias)
        if crowned and crowned[-1].version not in numbers:
            lost = True
            problem = f"the ledger made it {alias}, and MLflow's registry does not hold it any more"
            remedy = "Restore MLflow's database, or make another champion: `edit-r2 rollback --to VERSION`"
            yield Complaint("version", str(crowned[-1].version), problem, remedy)
        elif crowned:
            yield from _alias(replace(books, alias=alias), crowned, len(chain) - 1, repair)
    head = registry.head()
    if chain and not lost and (head is None or head[0] < len(chain) - 1):
        if repair:
            project(books)
        else:
            remedy = "Run `edit-r2 doctor --repair`"
            yield Complaint("ledger", "newest entry", "the registry has not seen it", remedy)


def _alias(books: Books, crowned: Sequence[Entry], newest: int, repair: bool) -> Iterator[Complaint]:
    """One alias against the entries that made its champions, the last of which it should name.

    A promotion enters its decision first and moves the alias then, so an alias that still names the champion before is
    explained by the ledger: the promotion is under way or was cut off, and only has to be finished. Any other move is
    some hand's, and its repair is itself entered.
    """
    entry, named = crowned[-1], books.registry.alias(books.alias)
    if named == entry.version:
        yield from _tags(books, entry, repair)
        return
    if books.ledger.champion(entry.model, books.alias) != entry:
        return  # a promotion came after the chain was read, and sets the alias itself
    if repair:
        before = crowned[-2].version if len(crowned) > 1 else None
        if named != before:
            fields = entry.model_dump(include=set(Draft.model_fields)) | {"approval": None, "actor": books.actor}
            reason = f"alias {books.alias} named version {named} after entry {newest}"
            books.ledger.append(Draft.model_validate(fields | {"action": "repair", "reason": reason}))
        project(books)
    problem = f"it names version {named}, the ledger says {entry.version}"
    yield Complaint("alias", books.alias, problem, "Run `edit-r2 doctor --repair`", repair)


def _tags(books: Books, entry: Entry, repair: bool) -> Iterator[Complaint]:
    """A champion that does not show the statement which made it champion."""
    if books.registry.version(entry.version).tags.get(STATEMENT_TAG) != entry.statement:
        if repair:
            project(books)
        problem = "its tag does not name the statement that the ledger names"
        yield Complaint("version", str(entry.version), problem, "Run `edit-r2 doctor --repair`", repair)


def _versions(books: Books, chain: Sequence[Signed], repair: bool) -> Iterator[Complaint]:
    """Versions that were registered by a promotion that never came to its entry in the ledger."""
    known = _decided(books, chain)
    for version in books.registry.versions():
        if version.number in known or version.tags.get(VERDICT_TAG) == UNDECIDED:
            continue
        try:
            with model_lock(books, version.model_id, wait=0):  # its promotion may be under way
                if version.number in _decided(books, books.ledger.chain()):  # or has ended since the chain was read
                    continue
                if repair:
                    books.registry.tag(version.number, VERDICT_TAG, UNDECIDED)
        except Busy:
            continue
        problem = "it is registered, and the ledger has no decision on it"
        remedy = "Promote its model again, or mark it with `edit-r2 doctor --repair`"
        yield Complaint("version", str(version.number), problem, remedy, repair)


def _decided(books: Books, chain: Sequence[Signed]) -> set[int]:
    return {signed.entry.version for signed in chain if signed.entry.model == books.registry.name}


def _models(books: Books) -> Iterator[LoggedModel]:
    """Every logged model of this project."""
    client, experiments = books.registry.client, list(books.registry.experiments())
    if experiments:
        yield from pages(lambda token: client.search_logged_models(experiments, page_token=token))


def _waiting(books: Books, repair: bool) -> Iterator[Complaint]:
    """Candidates that wait for a person on a decision that cannot be entered any more."""
    waiting = [model for model in _models(books) if model.tags.get(AWAITS_TAG)]
    for model in waiting if books.registry.name == settings().registry_name else ():  # where candidates stand
        try:
            decision = Decision.model_validate_json(books.shelf.get(model.tags[AWAITS_TAG]))
            policy = Policy.model_validate_json(books.shelf.get(decision.inputs.policy))
        except (Missing, ValidationError):  # the tag was altered, or this ledger or program is older than the decision
            problem = "it waits for a person on a decision that cannot be read here"
            yield Complaint("model", model.model_id, problem, f"Decide again: `edit-r2 promote {model.model_id}`")
            continue
        now = books.ledger.champion(books.registry.name, policy.alias)  # it may have waited since the chain was read
        if decision.champion_digest == (now.model_digest if now else None):
            continue
        if repair:
            books.registry.client.set_logged_model_tags(model.model_id, {AWAITS_TAG: ""})
        problem = "it waits for a person on a decision against a former champion"
        yield Complaint("model", model.model_id, problem, "Run `edit-r2 doctor --repair`", repair)


def _pending_models(books: Books, repair: bool) -> Iterator[Complaint]:
    """Logged models whose files never came whole, of runs that are over."""
    client = books.registry.client
    for model in _models(books):
        if model.status != "PENDING":
            continue
        run = client.get_run(model.source_run_id) if model.source_run_id else None
        if run is not None and run.info.status == "RUNNING":
            continue
        if repair:
            client.finalize_logged_model(model.model_id, "FAILED")
        problem = "its upload was cut off"
        yield Complaint("model", model.model_id, problem, "Run `edit-r2 doctor --repair`", repair)


def _documents(books: Books, chain: Sequence[Signed]) -> Iterator[Complaint]:
    """Documents that entries name and that are missing or altered."""
    for entry in (signed.entry for signed in chain if signed.entry.model == books.registry.name):
        for kind in ("statement", "decision", "approval"):
            digest = getattr(entry, kind)
            try:
                if digest and sha256(books.shelf.get(digest)) != digest:
                    raise UserError("altered", "")
            except UserError:
                problem = f"the {kind} of version {entry.version} is missing or altered"
                yield Complaint("document", digest[:12], problem, "Restore the ledger's folder from a backup")


def _keys(books: Books, root: Path) -> Iterator[Complaint]:
    """Private keys that others can read or that git tracks, and pairs that do not match."""
    for path in sorted(books.keys.rglob("*.pem")):
        if path.name.endswith(".pub.pem"):
            continue
        if path.stat().st_mode & 0o077:
            yield Complaint("key", path.name, "others can read it", f"Run: chmod 600 {path.name}")
        elif path.stem == books.identity.name:
            try:
                load_identity(books.keys, path.stem)
            except UserError as error:
                yield Complaint("key", path.name, error.problem, error.remedy)
    tracked = subprocess.run(["git", "ls-files", "*.pem"], cwd=root, capture_output=True, text=True, check=False)
    for name in tracked.stdout.split():
        if not name.endswith(".pub.pem"):
            yield Complaint("key", name, "git tracks it", "Remove it from the repository and make a new key")


def _disk(state: Path) -> Iterator[Complaint]:
    free = shutil.disk_usage(state).free
    if free < LEAST_FREE:
        yield Complaint("disk", state.name, f"only {free / GIB:.1f} GiB are free", "Free some space")
