"""What the trainings of a table say: scores with intervals, differences, costs and learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from data.parameters import section
from mlflow_config.settings import Tag
from tasks import experiment_statistics as statistics
from tasks import identity, shown, tracking
from tasks.comparison import Slice
from tasks.experiment import Experiment, Variant
from tasks.experiment_runs import Outcome
from tasks.experiment_statistics import Estimate
from tasks.parameters import Parameters
from tasks.scores import Scores, read_scores

if TYPE_CHECKING:
    from data.build import SessionsConfig

Estimates = Mapping[Slice, Estimate]


@dataclass(frozen=True)
class Training:
    """One training with the evaluation of its model; no runs and no commit where nothing is tracked. `rewards`: mean
    reward by iteration, of RL only. `best`: the number of steps whose weights validation sessions chose; None where the
    last ones were kept."""

    seed: int
    run_id: str | None
    evaluation_run: str | None
    commit: str | None
    seconds: float | None
    rewards: tuple[float, ...]
    best: int | None
    scores: Scores
    strips: Path


@dataclass(frozen=True)
class Row:
    """One variant, measured. `data`, `labelled`, `steps`: of its own training, not of its parent's."""

    variant: Variant
    data: str
    labelled: int | None
    steps: str
    trainings: tuple[Training, ...]
    means: Estimates
    by_distance: Mapping[int, Estimate]
    gap: Estimates

    @property
    def seconds(self) -> float | None:
        """Mean wall time of its training over the seeds, in seconds."""
        known = [one.seconds for one in self.trainings if one.seconds is not None]
        return sum(known) / len(known) if known and self.variant.seeded else None


@dataclass(frozen=True)
class Part:
    """The sessions that hold something that no training shows, or the others: scores and differences on them alone."""

    held_out: bool
    sessions: int
    means: Mapping[str, Estimates]
    paired: Mapping[tuple[str, str], Estimates]


@dataclass(frozen=True)
class Measured:
    """A table. `commit` is where the code stands now; a training that was reused may name another one. `source` says
    what it was made from, and `command` by what."""

    commit: str
    source: str
    command: str
    profile: str
    whole: bool  # has all variants of the file
    seeds: tuple[int, ...]
    headline: str
    figures: tuple[str, ...]
    labels: Mapping[str, tuple[str, ...]]
    rows: Mapping[str, Row]
    paired: Mapping[tuple[str, str], Estimates]
    parts: tuple[Part, ...]

    @property
    def any_scores(self) -> Scores:
        """Scores of one run: benchmark, judge and sessions are those of all."""
        return next(iter(self.rows.values())).trainings[0].scores


def measure(plan: Experiment, outcomes: Sequence[Outcome]) -> Measured:
    """Read the tracked runs of a table and compute everything that its pages show."""
    trainings: dict[str, list[Training]] = {}
    for one in outcomes:
        trainings.setdefault(one.job.variant.name, []).append(_training(one))
    made = compute(plan, trainings, "the tracked runs at the end", "")
    some = "" if made.whole else f" --variants {','.join(made.rows)}"
    seeds = ",".join(map(str, made.seeds))
    command = f"edit-r2 experiment table --profile {plan.profile} --seeds {seeds}{some}"
    return replace(made, command=command)


def compute(plan: Experiment, trainings: Mapping[str, Sequence[Training]], source: str, command: str) -> Measured:
    """Everything that the pages of a table show, from the trainings of each of its variants."""
    names = [name for name in plan.variants if name in trainings]
    rows = {name: _row(plan, plan.variants[name], tuple(trainings[name])) for name in names}
    seeds = tuple(dict.fromkeys(one.seed for found in trainings.values() for one in found))
    pairs = plan.pairs(names)
    paired = {pair: _differences(rows, *pair) for pair in pairs}
    parts = tuple(found for held_out in (False, True) if (found := _part(rows, pairs, held_out)).sessions)
    git = identity.git()
    commit = f"{git.commit or 'unknown'}{'-dirty' if git.dirty else ''}"
    figures = tuple(name for name in plan.figures if name in rows) or tuple(rows)
    parts = parts if len(parts) > 1 else ()
    whole = len(names) == len(plan.variants)
    labels = {key: shown for key, of in plan.labels.items() if (shown := tuple(name for name in of if name in rows))}
    return Measured(
        commit, source, command, plan.profile, whole, seeds, plan.headline, figures, labels, rows, paired, parts
    )


def _row(plan: Experiment, variant: Variant, trainings: tuple[Training, ...]) -> Row:
    runs = [one.scores for one in trainings]
    chosen = plan.parameters(variant, trainings[0].seed)
    (data, steps), known = saw(variant, chosen), labelled(variant, chosen)
    means, gap = statistics.means(runs), statistics.contamination(runs)
    return Row(variant, data, known, steps, trainings, means, statistics.by_distance(runs), gap)


def _training(outcome: Outcome) -> Training:
    run = tracking.client().get_run(outcome.model.run_id)
    looks = _history(outcome.model.run_id, "sft/validation_score")
    path = outcome.evaluation.path()
    return Training(
        seed=outcome.job.seed,
        run_id=outcome.model.run_id,
        evaluation_run=outcome.evaluation.run_id,
        commit=run.data.tags.get(Tag.COMMIT, "unknown")[:10] + "-dirty" * (run.data.tags.get(Tag.DIRTY) == "true"),
        seconds=run.data.metrics.get("system/seconds"),
        rewards=tuple(value for _, value in _history(outcome.model.run_id, "rl/reward")),
        best=max(looks, key=lambda look: look[1])[0] + 1 if looks else None,
        scores=read_scores(path),
        strips=path.parent / "strips",
    )


def _history(run_id: str, metric: str) -> list[tuple[int, float]]:
    """Steps, counted from 0, and values, in order."""
    return sorted((one.step, one.value) for one in tracking.client().get_metric_history(run_id, metric))


def _part(rows: Mapping[str, Row], pairs: Sequence[tuple[str, str]], held_out: bool) -> Part:
    cut: dict[str, Row] = {}
    for name, row in rows.items():
        kept = (replace(one, scores=statistics.part(one.scores, held_out)) for one in row.trainings)
        cut[name] = replace(row, trainings=tuple(kept))
    sessions = len(next(iter(cut.values())).trainings[0].scores.sessions)
    if not sessions:
        return Part(held_out, 0, {}, {})
    means = {name: statistics.means([one.scores for one in row.trainings]) for name, row in cut.items()}
    return Part(held_out, sessions, means, {pair: _differences(cut, *pair) for pair in pairs})


def _differences(rows: Mapping[str, Row], ours: str, theirs: str) -> Estimates:
    """Paired over the seeds that both have; the base, which has none, stands against each of the other's."""
    runs = {name: {one.seed: one.scores for one in rows[name].trainings} for name in (ours, theirs)}
    seeded = [set(by_seed) for name, by_seed in runs.items() if rows[name].variant.seeded]
    seeds = sorted(set.intersection(*seeded)) if seeded else [0]
    both = [[by_seed.get(seed, next(iter(by_seed.values()))) for seed in seeds] for by_seed in runs.values()]
    return statistics.differences(*both)


def saw(variant: Variant, chosen: Parameters) -> tuple[str, str]:
    """What the training of a variant is shown, and how often, in words."""
    sessions = _sessions(chosen)
    if variant.stage == "base":
        ready, steps = chosen.model.checkpoint, chosen.base.optimisation
        return (
            shown.BASE,
            f"ready: `{ready}`" if ready else f"{steps.steps:,} × {steps.batch_size} lessons",
        )
    if variant.stage == "sft":
        steps = chosen.sft.optimisation
        data = f"{labelled(variant, chosen):,} sessions of {_span(sessions.turns)} turns with ground truth"
        most = "at most " if chosen.sft.validation.patience else ""  # it stops when it gets no better
        return data, f"{most}{steps.steps:,} × {steps.batch_size} sessions"
    if sessions.practice:
        data = f"{sessions.practice:,} other sessions of {_span(sessions.practice_turns)} turns"
    else:
        data = f"the same {sessions.train:,} sessions of {_span(sessions.turns)} turns"
    data += f", cut after turn {chosen.rl.max_turns}" if chosen.rl.max_turns else ""
    data += ": source picture and instructions only"
    if known := labelled(variant, chosen):
        data += f"; beside them SFT's {known:,} sessions"
    return data, f"{chosen.rl.optimisation.steps:,} × {chosen.rl.sessions * chosen.rl.group_size} judged trajectories"


def labelled(variant: Variant, chosen: Parameters) -> int | None:
    """Ground-truth sessions that a variant's own training sees; None where it sees none."""
    built, anchor = _sessions(chosen).train, chosen.rl.anchor
    if variant.stage == "sft":
        return min(chosen.sft.labelled or built, built)
    return min(anchor.labelled or built, built) if variant.stage == "rl" and anchor.sessions else None


def _sessions(chosen: Parameters) -> SessionsConfig:
    from data.build import SessionsConfig

    return section({"sessions": chosen.sessions}, "sessions", SessionsConfig)


def _span(turns: tuple[int, int]) -> str:
    return str(turns[0]) if turns[0] == turns[1] else f"{turns[0]}–{turns[1]}"
