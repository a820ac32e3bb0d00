"""Making of the variants: each is a chain of the usual stages, and each of their runs is reused where it is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from data.errors import UserError
from mlflow_config.settings import EXPERIMENT
from tasks import building, evaluation, identity, retraining, tracking, training
from tasks.evaluation import Evaluation
from tasks.experiment import Experiment, Variant
from tasks.models import ModelRecord
from tasks.parameters import Parameters


@dataclass(frozen=True)
class Job:
    """One variant with one seed. Variants that no seed changes have one job, with the first seed."""

    variant: Variant
    seed: int

    @property
    def label(self) -> str:
        """How its runs are called where several of one stage stand together."""
        return f"{self.variant.name} seed {self.seed}" if self.variant.seeded else self.variant.name


@dataclass(frozen=True)
class Outcome:
    """A job that is done: the model and its scores."""

    job: Job
    model: ModelRecord
    evaluation: Evaluation


def jobs(experiment: Experiment, names: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """All jobs of a table, those that others start from first."""
    chosen = sorted(experiment.chosen(names), key=lambda variant: len(experiment.lineage(variant.name)))
    return [Job(variant, seed) for variant in chosen for seed in variant.takes(seeds)]


@contextmanager
def tracked(experiment: Experiment, planned: Sequence[Job], profile: Parameters) -> Iterator[tracking.ActiveRun]:
    """The run of a whole table: parent of what it makes, and where its pages are kept."""
    retraining.close_dead(experiment.profile)
    chosen = {job.label: experiment.parameters(job.variant, job.seed) for job in planned}
    fingerprint = identity.fingerprint(EXPERIMENT, {"profile": profile, "jobs": chosen}, code=identity.whole_code())
    with tracking.stage(tracking.Spec(EXPERIMENT, experiment.profile, fingerprint)) as run:
        yield run


def fingerprint(experiment: Experiment, job: Job) -> str:
    """Identity of a job: the code of every stage, and the parameters of the variant and of all it starts from."""
    chain = experiment.lineage(job.variant.name)
    return identity.fingerprint(
        EXPERIMENT, [experiment.parameters(each, job.seed) for each in chain], code=identity.whole_code()
    )


def make(experiment: Experiment, job: Job, parent_run: str | None) -> Outcome:
    """Train a variant, its ancestors first, and evaluate it; whatever is there already is reused."""
    base, *trained = experiment.lineage(job.variant.name)
    model = training.pretrain_base(experiment.parameters(base, job.seed), parent_run)
    for variant in trained:
        model = _train(experiment, Job(variant, job.seed), model, parent_run)
    chosen = experiment.parameters(job.variant, job.seed)
    benchmark = building.current(chosen, "benchmark")
    return Outcome(job, model, evaluation.evaluate(chosen, benchmark, model, parent_run, job.label))


def _train(experiment: Experiment, job: Job, parent: ModelRecord, parent_run: str | None) -> ModelRecord:
    chosen = experiment.parameters(job.variant, job.seed)
    train = {"sft": training.train_sft, "rl": training.train_rl}[job.variant.stage]
    made: ModelRecord = train(chosen, building.current(chosen, "sessions"), parent, parent_run, job.label)
    return made


def found(experiment: Experiment, job: Job, parent_run: str | None, whoever_made_it: bool = False) -> Outcome | None:
    """What a job came to, if it is done for the code, parameters and data as they are now."""
    try:
        with tracking.only_reuse(whoever_made_it):
            return make(experiment, job, parent_run)
    except tracking.NotFinished:
        return None


def all_found(experiment: Experiment, planned: Sequence[Job], parent_run: str | None) -> list[Outcome]:
    """What all jobs came to. Raises UserError when one is not there, as after a change of code underway."""
    outcomes = [(job, found(experiment, job, parent_run, whoever_made_it=True)) for job in planned]
    if gone := [job.label for job, outcome in outcomes if outcome is None]:
        problem = f"{', '.join(gone)}: there is no result for the code, parameters and data as they are now"
        raise UserError(problem, "Was something changed meanwhile? Run the same command again")
    return [outcome for _, outcome in outcomes if outcome is not None]
