"""The promotion stage: scores of candidate, parent and champion on one benchmark go before the gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from data.errors import UserError
from mlflow_config.settings import Tag
from tasks import datasets, evaluation, models, tracking
from tasks.books import Books, open_books
from tasks.canonical import canonical
from tasks.datasets import Dataset
from tasks.decision import Decision
from tasks.evaluation import Evaluation
from tasks.failures import Refused
from tasks.models import ModelRecord
from tasks.parameters import Parameters
from tasks.policy import Policy, load_policy
from tasks.registry import AWAITS_TAG
from tasks.scores import Scores
from tasks.settings import settings
from tasks.work import work


@dataclass(frozen=True)
class Case:
    """A candidate with the decision on it, before anything is entered; without one it is champion already.

    `waits` tells that the gates let it pass and that the policy asks for a person's signature. What a person rolled
    back or recalled does not wait: nobody is asked again, though somebody may sign for what was rolled back.
    """

    alias: str
    model: ModelRecord
    decision: Decision | None
    champion: int | None
    waits: bool = False


@dataclass(frozen=True)
class Promotion:
    """What became of a candidate.

    `verdict`: promoted, refused, waiting (for a person), rolled back (a rollback had left these weights, and nobody has
    signed for their return), recalled (as these weights were before) or unchanged (it was champion). A candidate has a
    `version` once something about it was entered into the ledger.
    """

    verdict: str
    version: int | None
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
        if self.verdict == "waiting":
            return f"model {self.model_id} passed the gates and waits for a person's approval; {stays}"
        if self.verdict in ("rolled back", "recalled"):
            return f"model {self.model_id} is made of weights that were {self.verdict}; {stays}"
        return f"version {self.version} was refused; {stays}"

    @property
    def in_use(self) -> bool:
        """Whether the candidate is champion now."""
        return self.verdict in ("promoted", "unchanged")

    def as_json(self) -> dict[str, Any]:
        """For machines, without the long text."""
        return {key: value for key, value in asdict(self).items() if key != "details"}

    def raise_for_refusal(self) -> None:
        """Raise Refused unless the candidate is champion now."""
        if not self.in_use:
            raise Refused(self.line, "; ".join(self.reasons) or "See the decision in MLflow")


@work("decide")
def decide(
    parameters: Parameters,
    benchmark: Dataset,
    candidate: Evaluation,
    parent: Evaluation | None,
    parent_run: str | None = None,
) -> Case:
    """Let the gates decide on a candidate; the decision is kept with all that it was made from, and nothing is entered.

    Args:
        parameters: the profile; its policy, benchmark and evaluation count.
        benchmark: what everybody is compared on; the champion's scores on it are looked up.
        candidate: scores of the model that stands for promotion.
        parent: scores of the model that it was trained from; they stand in for a missing champion.
        parent_run: MLflow run of the retraining.

    Raises:
        UserError: the model was made for another profile, its statement or scores do not hold, or the champion has
            no scores on this benchmark.
    """
    from tasks import projection
    from tasks.approval import needs_approval
    from tasks.candidacy import Standing, assess
    from tasks.promotion import left_behind, recalled_as

    policy = policy_of(parameters.profile)
    books = open_books(alias=policy.alias)
    model = models.record(candidate.model_id)
    own = books.registry.model_tags(candidate.model_id).get(Tag.PROFILE)
    if own not in (None, parameters.profile):
        problem = f"model {candidate.model_id} is of profile {own}, and would be judged as one of {parameters.profile}"
        raise UserError(problem, f"Run again with --profile {own}")
    current = books.ledger.champion(books.registry.name, books.alias)
    if current is not None and current.model_digest == model.digest:
        projection.project(books)
        return Case(books.alias, model, None, current.version)
    locked, pushed = _data_state(parameters.profile)
    standing = Standing(
        candidate=_proven(books, candidate, parameters, benchmark, model),
        champion=_champion_scores(parameters, benchmark, books, parent_run),
        parent=_proven(books, parent, parameters, benchmark, models.record(parent.model_id)) if parent else None,
        benchmark_digest=benchmark.digest,
        locked=locked,
        pushed=pushed,
    )
    decision = assess(books, policy, model, standing)
    aside = left_behind(books, model.digest) or recalled_as(books, model.digest)
    waits = needs_approval(books, decision) and aside is None
    if waits:  # retention leaves alone what waits
        tracking.client().set_logged_model_tags(model.model_id, {AWAITS_TAG: decision.digest})
    return Case(books.alias, model, decision, current.version if current else None, waits)


@work("promote")
def promote(case: Case, parent_run: str | None = None, reason: str = "retrained", word: str | None = None) -> Promotion:
    """Enter a decision into the ledger, unless it waits for a person who has not signed yet.

    Args:
        case: what `decide` returned.
        parent_run: MLflow run of the retraining, which gets the decision.
        reason: why now, in a sentence.
        word: what a person signed with `edit-r2 approve`: an approval, or an override of a refusal.
    """
    from tasks.approval import Barred, how_to_approve
    from tasks.candidacy import enter

    if case.decision is None:
        return Promotion("unchanged", case.champion, case.alias, case.model.model_id, case.champion, (), None, "")
    if case.waits and word is None:
        made = _made(case, case.decision, "waiting", None)
        made = replace(made, reasons=(how_to_approve(case.decision, case.model.model_id),))
    else:
        signed = word.encode() if word else None
        try:
            outcome = enter(open_books(alias=case.alias), case.model, case.decision, reason, signed)
        except Barred as error:  # a verdict, not a failure: every retraining that changes nothing comes to it
            made = replace(_made(case, case.decision, error.verdict, None), reasons=(error.problem, error.remedy))
        else:
            made = _made(case, case.decision, "promoted" if outcome.promoted else "refused", outcome.version)
        tracking.client().set_logged_model_tags(case.model.model_id, {AWAITS_TAG: ""})
    if parent_run:
        _keep(parent_run, made, case.decision.document().decode())
    return made


def policy_of(profile: str) -> Policy:
    """The rules of a profile; the settings may ask for approval where the file does not.

    Raises:
        UserError: see `load_policy`.
    """
    policy = load_policy(profile)
    return policy.model_copy(update={"approval": "required"}) if settings().approval_required else policy


def reigning(profile: str) -> ModelRecord | None:
    """The model that is champion of a profile by the ledger, None when there is none."""
    from tasks.candidacy import champion_model

    return champion_model(open_books(alias=policy_of(profile).alias))


def _made(case: Case, decision: Decision, verdict: str, version: int | None) -> Promotion:
    return Promotion(
        verdict=verdict,
        version=version,
        alias=case.alias,
        model_id=case.model.model_id,
        champion=case.champion,
        reasons=tuple(decision.reasons),
        decision=decision.digest,
        details=decision.markdown(),
    )


def _champion_scores(parameters: Parameters, benchmark: Dataset, books: Books, parent_run: str | None) -> Scores | None:
    """Scores of the present champion on this benchmark, None when there is no champion."""
    from tasks.candidacy import champion_model

    champion = champion_model(books)
    if champion is None:
        return None
    try:
        # A decision takes no GPU: whoever asks for it has had the champion evaluated.
        with tracking.only_reuse(whoever_made_it=True):
            found: Evaluation = evaluation.evaluate.fn(parameters, benchmark, champion, parent_run, "champion")
    except tracking.NotFinished as error:
        problem = f"the champion, model {champion.model_id}, has no scores on {benchmark.title} {benchmark.digest[:12]}"
        raise UserError(problem, "Run `edit-r2 promote` again: another may have become champion just now") from error
    return _proven(books, found, parameters, benchmark, champion)


def _proven(books: Books, found: Evaluation, parameters: Parameters, benchmark: Dataset, model: ModelRecord) -> Scores:
    """The scores of a model, as signed for it."""
    wanted = evaluation.spec(parameters, benchmark, model)
    return found.proven(books, wanted, model.digest, benchmark.digest)


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
    client.set_tag(parent_run, str(Tag.DECISION), canonical(made.as_json()).decode()[:8000])
