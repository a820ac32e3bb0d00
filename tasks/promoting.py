"""The promotion stage: scores of candidate, parent and champion on one benchmark go before the gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mlflow_config.settings import Tag
from tasks import datasets, evaluation, identity, models, tracking
from tasks.datasets import Dataset
from tasks.evaluation import Evaluation
from tasks.failures import Refused
from tasks.models import ModelRecord
from tasks.parameters import Parameters
from tasks.scores import Scores, read_scores
from tasks.work import work


@dataclass(frozen=True)
class Promotion:
    """What became of a candidate. `verdict` is promoted, refused or unchanged (it was champion already)."""

    verdict: str
    version: int
    alias: str
    model_id: str
    champion: int | None
    reasons: tuple[str, ...]
    decision: str | None
    details: str

    @property
    def line(self) -> str:
        """One line for people."""
        if self.verdict == "promoted":
            return f"version {self.version} was promoted to {self.alias}"
        if self.verdict == "unchanged":
            return f"version {self.version} is {self.alias} already"
        stays = f"version {self.champion} stays {self.alias}" if self.champion else "there is no champion"
        return f"version {self.version} was refused; {stays}"

    def as_json(self) -> dict[str, Any]:
        """For machines, without the long text."""
        return {key: value for key, value in asdict(self).items() if key != "details"}

    def raise_for_refusal(self) -> None:
        """Raise Refused unless the candidate is champion now."""
        if self.verdict == "refused":
            raise Refused(self.line, "; ".join(self.reasons) or "See the decision in MLflow")


@work("promote")
def promote(
    parameters: Parameters,
    benchmark: Dataset,
    candidate: Evaluation,
    parent: Evaluation | None,
    parent_run: str | None = None,
    reason: str = "retrained",
    override: str | None = None,
) -> Promotion:
    """Let the gates decide on a candidate and enter the decision into the ledger.

    Args:
        parameters: the profile; its policy, benchmark and evaluation count.
        benchmark: what everybody is compared on; the champion is evaluated on it when it has not been yet.
        candidate: scores of the model that stands for promotion.
        parent: scores of the model that it was trained from; they stand in for a missing champion.
        parent_run: MLflow run of the retraining, which gets the decision.
        reason: why now, in a sentence.
        override: a person's signed approval (`edit-r2 approve --override`) of a promotion that the gates refuse.
    """
    from tasks import projection
    from tasks.books import open_books
    from tasks.candidacy import Standing, champion_model, consider
    from tasks.policy import load_policy

    policy = load_policy(parameters.profile)
    books = open_books(alias=policy.alias)
    model = models.record(candidate.model_id)
    reigning = books.ledger.champion(books.registry.name, books.alias)
    if reigning is not None and reigning.model_digest == model.digest:
        projection.project(books)
        return Promotion("unchanged", reigning.version, books.alias, model.model_id, reigning.version, (), None, "")
    locked, pushed = _data_state(parameters.profile)
    standing = Standing(
        candidate=_scores(candidate),
        champion=_champion_scores(parameters, benchmark, champion_model(books), parent_run),
        parent=_scores(parent) if parent else None,
        benchmark_digest=benchmark.digest,
        locked=locked,
        pushed=pushed,
    )
    outcome = consider(books, policy, model, standing, reason, override.encode() if override else None)
    verdict = "promoted" if outcome.promoted else "refused"
    made = Promotion(
        verdict=verdict,
        version=outcome.version,
        alias=books.alias,
        model_id=model.model_id,
        champion=reigning.version if reigning else None,
        reasons=tuple(outcome.decision.reasons),
        decision=outcome.decision_digest,
        details=outcome.decision.markdown(),
    )
    if parent_run:
        _keep(parent_run, made, outcome.decision.document().decode())
    return made


def _champion_scores(
    parameters: Parameters, benchmark: Dataset, champion: ModelRecord | None, parent_run: str | None
) -> Scores | None:
    """Scores of the present champion on this benchmark; they are in MLflow already unless the benchmark is new."""
    if champion is None:
        return None
    named = replace(champion, name="champion")
    return _scores(evaluation.evaluate.fn(parameters, benchmark, named, parent_run))


def _scores(found: Evaluation) -> Scores:
    return read_scores(found.path())


def _data_state(profile: str) -> tuple[dict[str, str], dict[str, bool]]:
    """By data set: the digest in dvc.lock, and whether the remote holds its files."""
    names: Sequence[datasets.Name] = ("sessions", "benchmark")
    found = {name: datasets.locked(profile, name) for name in names}
    locked = {dataset.title: dataset.digest for dataset in found.values()}
    return locked, {dataset.title: datasets.is_pushed(profile, name) for name, dataset in found.items()}


def _keep(parent_run: str, made: Promotion, document: str) -> None:
    client = tracking.client()
    client.log_text(parent_run, document, "decision.json")
    client.log_text(parent_run, made.details, "decision.md")
    client.set_tag(parent_run, str(Tag.DECISION), identity.canonical(made.as_json())[:8000])
