"""A retraining as a whole: its parent run in MLflow, and what it came to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from mlflow_config.settings import RETRAIN, Stage, Tag
from tasks import identity, progress, report, tracking
from tasks.doctor_services import close_flow_run
from tasks.evaluation import Evaluation
from tasks.parameters import Parameters
from tasks.promoting import Promotion


@dataclass(frozen=True)
class Retraining:
    """The outcome of a retraining."""

    profile: str
    run_id: str
    experiment_id: str
    evaluations: tuple[Evaluation, ...]
    promotion: Promotion

    @property
    def where(self) -> str:
        """Where to look at it."""
        return report.where_to_look(self.experiment_id, self.run_id)

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        sheets = report.sheets(self.evaluations)
        return {
            "profile": self.profile,
            "run_id": self.run_id,
            "models": {found.name: found.model_id for found in self.evaluations},
            "scores": {name: sheet["summary"] for name, sheet in sheets.items()},
            "promotion": self.promotion.as_json(),
            "where": self.where,
        }


@contextmanager
def tracked(parameters: Parameters) -> Iterator[tracking.ActiveRun]:
    """The parent run of a retraining with these parameters and this code; runs that died here before are closed."""
    close_dead(parameters.profile)
    warn_of_changes()
    fingerprint = identity.fingerprint(RETRAIN, parameters, code=identity.whole_code())
    spec = tracking.Spec(RETRAIN, parameters.profile, fingerprint)
    with tracking.stage(spec) as run:
        yield run


def warn_of_changes() -> None:
    """Say before hours of training, not after them, that the gates will ask for a commit."""
    git = identity.git()
    if git.commit is None:
        progress.say("[yellow]no commit[/yellow]: this is no git checkout, and the gates ask which commit made a model")
    elif git.changed:
        shown = ", ".join(git.changed[:5]) + (f" and {len(git.changed) - 5} more" if len(git.changed) > 5 else "")
        progress.say(f"[yellow]not committed[/yellow]: {shown}. The gates ask for a clean tree; commit, then run")


def close_dead(profile: str) -> None:
    """Close the runs of a profile whose process died on this machine, in MLflow and in Prefect."""
    for dead in tracking.sweep(profile):
        progress.say(f"[yellow]closed[/yellow] run {dead.info.run_id}, whose process died")
        close_flow_run(dead.data.tags.get(Tag.FLOW_RUN))


def conclude(
    run: tracking.ActiveRun, parameters: Parameters, scores: Sequence[Evaluation], decision: Promotion
) -> Retraining:
    """Write the report and put the outcome on record, again where a reused run tells of another one; and return it."""
    made = Retraining(parameters.profile, run.run_id, run.experiment_id, tuple(scores), decision)
    handed_on = {
        "models": {found.name: found.model_id for found in scores},
        "evaluations": [asdict(found) for found in scores],
        # Reasons can be many, and a tag is short: they stand in decision.json.
        "promotion": {name: value for name, value in decision.as_json().items() if name != "reasons"},
    }
    if not run.reused:
        _log_scores(run, scores)
    if _is_news(run.result.get("promotion", {}), decision):
        _publish(run, made)
        run.finish(handed_on)
    _summarise(made)
    return made


def _is_news(told: Mapping[str, Any], found: Promotion) -> bool:
    """Whether a run's result tells of another verdict: a reused run was perhaps waiting, or was rolled back since."""
    still = found.verdict == "unchanged" and told.get("verdict") in ("promoted", "unchanged")
    return not still and (told.get("verdict"), told.get("decision")) != (found.verdict, found.decision)


def _publish(run: tracking.ActiveRun, made: Retraining) -> None:
    git = identity.git()
    facts = {
        "profile": made.profile,
        "commit": f"{git.commit or 'unknown'}{' (with uncommitted changes)' if git.dirty else ''}",
        "MLflow run": made.run_id,
        "model": made.promotion.model_id,
        "decision": made.promotion.decision or "–",
        **{f"scores of {found.name}": found.digest for found in made.evaluations},
    }
    page = report.page(made.profile, made.evaluations, made.promotion.line, made.promotion.details, facts)
    run.text(page, "report.html")


def _log_scores(run: tracking.ActiveRun, evaluations: Sequence[Evaluation]) -> None:
    for found in evaluations:
        summary = found.scores()["summary"]
        values = {
            f"evaluation/{found.name}/{name}": report.mean(summary, name)
            for name in (*report.METRICS, "session_success")
        }
        run.report(0, {name: value for name, value in values.items() if value is not None})


def _summarise(made: Retraining) -> None:
    """The markdown page of the flow run in Prefect."""
    sheets = report.sheets(made.evaluations)
    text = report.markdown(made.profile, sheets, made.promotion.line, made.promotion.reasons)
    progress.page(f"{Stage.PROMOTE}-{made.profile}", text, "What it came to")
