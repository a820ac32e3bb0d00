"""From an evaluated model to an entry in the ledger: evidence, decision, promotion, in one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from data.errors import UserError
from tasks import attestation
from tasks.books import Books
from tasks.decision import Decision
from tasks.filing import file_decision
from tasks.models import ModelRecord
from tasks.policy import Policy
from tasks.promotion import Candidate, Outcome, promote
from tasks.scores import Scores


@dataclass(frozen=True)
class Standing:
    """What a decision is made from: scores on one benchmark, and the state of the data in DVC.

    `champion` are the scores of the present champion, taken on the same benchmark; `locked` and `pushed` tell, by
    dataset name, the digest in dvc.lock and whether the remote holds it.
    """

    candidate: Scores
    champion: Scores | None
    parent: Scores | None
    benchmark_digest: str
    locked: Mapping[str, str]
    pushed: Mapping[str, bool]


def enter(books: Books, model: ModelRecord, decision: Decision, reason: str, word: bytes | None = None) -> Outcome:
    """Enter a decision about a model: it becomes champion, or its refusal is on record.

    Raises: see `tasks.promotion.promote`.
    """
    statement = attestation.statement_of(books, model.model_id)
    candidate = Candidate(model.model_id, model.run_id, model.digest, statement)
    return promote(books, candidate, decision, reason, word)


def assess(books: Books, policy: Policy, model: ModelRecord, standing: Standing) -> Decision:
    """Decide and keep the decision, without entering anything: what a dry run shows, what a person approves.

    Raises:
        UserError: the statement does not hold, or what MLflow says of the model's run or parent differs from it.
    """
    named = standing.candidate.benchmark.name
    known = attestation.evidence(books, model, standing.benchmark_digest, standing.locked, standing.pushed, named)
    if standing.parent is not None and standing.parent.model_digest != known.parent_digest:
        problem = f"MLflow names another parent of model {model.model_id} than its statement"
        raise UserError(problem, "Find out who changed its tags, and restore the registry")
    return file_decision(books.shelf, policy, standing.candidate, standing.champion, known, standing.parent)


def champion_model(books: Books) -> ModelRecord | None:
    """The model that is champion by the ledger, for evaluation on the present benchmark; None when there is none."""
    entry = books.ledger.champion(books.registry.name, books.alias)
    if entry is None:
        return None
    version = books.registry.version(entry.version)
    found = books.registry.client.get_logged_model(version.model_id)
    return ModelRecord(found.name, version.model_id, entry.model_digest, version.run_id)
