"""Decisions and statements on file: kept with all that they were made from, opened again, held against the files."""

from __future__ import annotations

from data.errors import UserError
from tasks import lineage
from tasks.books import Books
from tasks.canonical import canonical
from tasks.decision import Decision, Evidence
from tasks.documents import Shelf
from tasks.gates import decide
from tasks.models import manifest
from tasks.policy import Policy
from tasks.redaction import leaks
from tasks.scores import Scores
from tasks.signing import SignatureError


def file_decision(
    shelf: Shelf,
    policy: Policy,
    candidate: Scores,
    champion_scores: Scores | None,
    evidence: Evidence,
    parent: Scores | None = None,
) -> Decision:
    """Decide, and keep the decision with every document that it was made from.

    Raises:
        UserError: the evaluation's settings would give away a secret or a path.
    """
    leak = next(leaks(canonical(candidate.settings).decode()), None)
    if leak:
        raise UserError(f"the settings of the evaluation hold {leak}", "Take it out of params.yaml")
    decision = decide(policy, candidate, champion_scores, evidence, parent)
    for document in (policy, candidate, champion_scores, evidence, parent, decision):
        if document is not None:
            shelf.put(document.document())
    return decision


def remake(shelf: Shelf, digest: str) -> tuple[Decision, Decision]:
    """A kept decision, and the same decision made again from the documents that it names.

    Raises:
        UserError: a document is not kept here.
        ValueError: a document cannot be read.
    """
    kept = Decision.model_validate_json(shelf.get(digest))
    named = kept.inputs

    def scores(found: str | None) -> Scores | None:
        return Scores.model_validate_json(shelf.get(found)) if found else None

    candidate = Scores.model_validate_json(shelf.get(named.candidate))
    policy = Policy.model_validate_json(shelf.get(named.policy))
    evidence = Evidence.model_validate_json(shelf.get(named.evidence))
    return kept, decide(policy, candidate, scores(named.champion), evidence, scores(named.parent))


def verify_model(books: Books, model_id: str, digest: str, statement: str) -> None:
    """Check the statement of a model and every one of its files.

    Raises:
        UserError: it names what does not hold.
    """
    try:
        payload = lineage.opened(statement, books.shelf, books.trusted)
    except SignatureError as error:
        raise UserError(f"the statement of model {model_id} does not hold: {error}", "Train it again") from error
    if lineage.model_digest(payload) != digest:
        raise UserError(f"the statement of model {model_id} is about another model", "Train it again")
    with books.registry.model_folder(model_id) as folder:
        found, stated = manifest(folder), lineage.files(payload)
    changed = sorted(path for path in found.keys() | stated.keys() if found.get(path) != stated.get(path))
    if changed:
        raise UserError(f"{changed[0]} of model {model_id} differs from its statement", "Restore the artifact store")
