"""Flow: the results table, every variant with every seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prefect import flow

from flows.build_benchmark import build_benchmark
from flows.build_dataset import build_dataset
from flows.dispatch import stage
from mlflow_config.settings import Stage
from tasks import experiment, experiment_jobs, experiment_runs, experiment_table, parameters, progress
from tasks.experiment import Experiment
from tasks.experiment_runs import Job, Outcome
from tasks.experiment_table import Table


@flow(name="experiment-variant", flow_run_name="{variant}-{seed}-{profile}")
def experiment_variant(profile: str, variant: str, seed: int = 0, parent_run: str | None = None) -> Outcome:
    """Train and evaluate one variant with one seed, what it starts from first; what is there already is reused.

    Args:
        profile: name in params.yaml.
        variant: name in experiments.yaml.
        seed: of the trainings; data and base stay the same.
        parent_run: MLflow run of the table that this belongs to.
    """
    return experiment_runs.make(*_named(profile, variant, seed), parent_run)


def make_variant(profile: str, variant: str, seed: int, parent_run: str | None) -> Outcome:
    """`experiment_variant` where stages run, known there by everything that makes it."""
    key = experiment_runs.fingerprint(*_named(profile, variant, seed))
    made: Outcome = stage(experiment_variant, key, profile=profile, variant=variant, seed=seed, parent_run=parent_run)
    return made


def _named(profile: str, variant: str, seed: int) -> tuple[Experiment, Job]:
    plan = experiment.load(profile)
    (chosen,) = plan.chosen([variant])
    return plan, Job(chosen, seed)


@flow(name="experiment", flow_run_name="experiment-{profile}")
def experiment_table_flow(
    profile: str = "tiny",
    seeds: Sequence[int] = (0, 1, 2),
    variants: Sequence[str] = (),
    side_by_side: int = 1,
    write: str | None = None,
) -> Table:
    """Make what is missing of the variants, and compare all on the held-out sessions.

    Args:
        profile: name in params.yaml.
        seeds: each variant is trained once with each.
        variants: names in experiments.yaml; none means all.
        side_by_side: trainings at a time, each in a process of its own.
        write: folder for `results.md`, `results.json` and `results/*.png`; the MLflow run keeps them in any case.
    """
    plan = experiment.load(profile)
    jobs = experiment_runs.jobs(plan, variants, seeds)
    with experiment_runs.tracked(plan, jobs, parameters.load(profile)) as parent:
        common = {"profile": profile, "parent_run": parent.run_id}
        stage(build_dataset, Stage.BUILD_DATASET, **common)
        stage(build_benchmark, Stage.BUILD_BENCHMARK, **common)
        missing = [job for job in jobs if experiment_runs.found(plan, job, parent.run_id) is None]
        with progress.shown(f"{len(missing)} of {len(jobs)} variants", f"experiment-{profile}") as advance:
            for number, done in enumerate(_make(missing, profile, parent.run_id, side_by_side), start=1):
                advance(number / len(missing), done.label)
        outcomes = experiment_runs.all_found(plan, jobs, parent.run_id)
        return experiment_table.conclude(parent, plan, outcomes, write)


def _make(missing: Sequence[Job], profile: str, parent_run: str, width: int) -> Iterator[Job]:
    """Make jobs in this process (or on a worker, where stages are sent there), or several at a time."""
    if width > 1:
        yield from experiment_jobs.side_by_side(missing, profile, parent_run, width)
        return
    for job in missing:
        make_variant(profile, job.variant.name, job.seed, parent_run)
        yield job
