from __future__ import annotations

import dataclasses
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from data.errors import UserError
from tasks import experiment, experiment_jobs, experiment_runs, parameters, shown
from tasks.experiment_measured import _differences, labelled, saw
from tasks.experiment_plots import learning_curve

WRITTEN = """
headline: rl
figures: [base]
variants:
  base: {stage: base, about: start}
  sft: {stage: sft, parent: base, about: all}
  longer: {stage: sft, parent: base, about: more, only: [smoke], profiles: {smoke: {sft: {optimisation: {steps: 77}}}}}
  text: {stage: rl, parent: sft, about: text only, rl: {policies: [text]}, evaluation: {sampling: {points: 4}}}
  rl: {stage: rl, parent: sft, about: all}
"""


def load(tmp_path, text=WRITTEN, profile="smoke"):
    file = tmp_path / "experiments.yaml"
    file.write_text(text)
    return experiment.load(profile, file)


@pytest.mark.parametrize(
    ("profile", "left_out"),
    [
        ("tiny", set()),
        ("smoke", {"sft-many", "sft-many-longer", "edit-r2-many"}),
        ("small", {"sft-longer", "sft-few-longer", "sft-many", "sft-many-longer", "edit-r2-many"}),
    ],
)
def test_every_variant_of_the_repository_is_a_set_of_parameters_where_it_is_written_for_the_profile(profile, left_out):
    plan = experiment.load(profile)
    chosen = plan.chosen(())
    for variant in chosen:
        assert plan.parameters(variant, 3).profile == profile
    assert set(plan.variants) - {variant.name for variant in chosen} == left_out
    assert plan.headline == "edit-r2" and plan.lineage("rl-without-trace")[1].name == "sft-without-trace"


def test_an_override_changes_what_it_names_and_nothing_else(tmp_path):
    plan = load(tmp_path)
    plain, text = parameters.load("smoke"), plan.parameters(plan.variants["text"], 0)
    assert text.rl.policies == ("text",) and text.evaluation.sampling.points == 4
    changed = {name for name, value in asdict(text.rl).items() if value != asdict(plain.rl)[name]}
    assert changed == {"policies"} and text.sft == plain.sft and text.model == plain.model


def test_seed_0_of_a_variant_without_overrides_is_the_profile_itself(tmp_path):
    """So that a table reuses what a retraining did, and the other way round."""
    plan = load(tmp_path)
    assert plan.parameters(plan.variants["rl"], 0) == parameters.load("smoke")


def test_a_seed_is_that_of_the_variants_own_training(tmp_path):
    plan = load(tmp_path)
    sft, rl = (plan.parameters(plan.variants[name], 5) for name in ("sft", "rl"))
    assert (sft.sft.optimisation.seed, sft.rl.optimisation.seed) == (5, 0)
    assert (rl.sft.optimisation.seed, rl.rl.optimisation.seed, rl.evaluation.seed) == (0, 5, 0)
    assert plan.parameters(plan.variants["base"], 5) == parameters.load("smoke")


def test_a_job_is_another_when_its_variant_or_what_that_starts_from_is_edited(tmp_path, monkeypatch):
    def key(text=WRITTEN, name="text", seed=0):
        plan = load(tmp_path, text)
        return experiment_runs.fingerprint(plan, experiment_runs.Job(plan.variants[name], seed))

    edited = WRITTEN.replace("policies: [text]", "policies: [image]")
    parent = WRITTEN.replace("about: all}", "about: all, sft: {optimisation: {steps: 78}}}", 1)
    keys = [key(), key(seed=1), key(edited), key(parent)]
    assert len(set(keys)) == 4 and key() == keys[0] and key(edited, "rl") == key(name="rl")
    monkeypatch.setattr("tasks.identity.whole_code", lambda: "0" * 64)
    assert key() != keys[0]


def test_a_number_of_one_profile_holds_for_that_profile_only(tmp_path):
    plan = load(tmp_path)
    assert plan.parameters(plan.variants["longer"], 0).sft.optimisation.steps == 77
    other = load(tmp_path, profile="tiny")
    with pytest.raises(UserError, match="longer is not written for profile tiny"):
        other.parameters(other.variants["longer"], 0)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("headline: rl", "headline: best", "'best' is no variant"),
        ("headline: rl", "headline: rl\nlabels: {rl: [best]}", "'best' is no variant"),
        ("parent: sft, about: text", "parent: sft, against: [best], about: text", "'best' is no variant"),
        ("parent: sft, about: all", "parent: nobody, about: all", "parent 'nobody' is no variant"),
        ("sft: {stage: sft, parent: base", "sft: {stage: sft, parent: longer", "its parent is no earlier stage"),
        ("base: {stage: base", "base: {stage: base, parent: sft", "a base has no parent"),
        ("rl: {policies: [text]}", "sft: {noise_draws: 2}", "`sft` has no effect on a variant of stage rl"),
        ("only: [smoke]", "only: [tiny]", "longer: numbers for smoke, which `only` leaves out"),
        ("only: [smoke]", "only: [smok]", "longer: 'smok' is no profile"),
        ("about: start", "about: start, speed: 3", "speed"),
        ("stage: base", "stage: play", "stage"),
        ("headline: rl", "headline: [", "not readable YAML"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(tmp_path, old, new, said):
    with pytest.raises(UserError, match=r"experiments\.yaml") as refused:
        load(tmp_path, WRITTEN.replace(old, new, 1))
    assert said in str(refused.value)


def test_a_wrong_key_of_a_section_is_refused(tmp_path):
    plan = load(tmp_path, WRITTEN.replace("policies: [text]", "policy: text"))
    with pytest.raises(UserError, match=r"experiments\.yaml: text: rl\.policy"):
        plan.parameters(plan.variants["text"], 0)


def test_pairs_are_the_headline_with_all_and_each_other_with_its_parent(tmp_path):
    plan = load(tmp_path)
    assert plan.pairs(list(plan.variants)) == [
        *(("rl", "base"), ("rl", "sft"), ("rl", "longer"), ("rl", "text")),
        *(("sft", "base"), ("longer", "base"), ("text", "sft")),
    ]
    assert plan.pairs(["sft", "text"]) == [("text", "sft")]
    with pytest.raises(UserError, match="no variant 'best'"):
        plan.chosen(["best"])


def test_a_variant_is_also_compared_with_what_it_names(tmp_path):
    plan = load(tmp_path, WRITTEN.replace("about: text only", "about: text only, against: [longer]"))
    assert plan.pairs(["sft", "longer", "text"]) == [("text", "sft"), ("text", "longer")]
    assert plan.pairs(["sft", "text"]) == [("text", "sft")]


def test_parents_come_first_and_the_base_once(tmp_path):
    jobs = experiment_runs.jobs(load(tmp_path), (), (0, 1))
    assert [job.label for job in jobs][:3] == ["base", "sft seed 0", "sft seed 1"] and len(jobs) == 9


def test_a_variant_takes_the_first_of_the_seeds_where_it_says_how_many(tmp_path):
    plan = load(tmp_path, WRITTEN.replace("about: more,", "about: more, seeds: 2,"))
    made = [(job.variant.name, job.seed) for job in experiment_runs.jobs(plan, ("base", "longer", "sft"), (4, 5, 6))]
    assert made == [("base", 4), ("sft", 4), ("sft", 5), ("sft", 6), ("longer", 4), ("longer", 5)]
    with pytest.raises(UserError, match="seeds"):
        load(tmp_path, WRITTEN.replace("about: more,", "about: more, seeds: 0,"))


def test_variants_are_compared_on_the_seeds_that_both_have(monkeypatch, tmp_path):
    plan = load(tmp_path)
    trained = {"base": (0,), "longer": (0, 1), "rl": (0, 1, 2)}
    rows = {
        name: SimpleNamespace(
            variant=plan.variants[name],
            trainings=[SimpleNamespace(seed=seed, scores=(name, seed)) for seed in seeds],
        )
        for name, seeds in trained.items()
    }
    monkeypatch.setattr("tasks.experiment_statistics.differences", lambda *both: both)
    assert _differences(rows, "rl", "longer") == ([("rl", 0), ("rl", 1)], [("longer", 0), ("longer", 1)])
    assert _differences(rows, "rl", "base") == ([("rl", 0), ("rl", 1), ("rl", 2)], [("base", 0)] * 3)


def test_what_a_variant_saw_follows_its_parameters(tmp_path):
    plan = experiment.load("smoke")
    data, steps = saw(plan.variants["rl-single-turn"], plan.parameters(plan.variants["rl-single-turn"], 0))
    assert data.endswith(", cut after turn 1: source picture and instructions only; beside them SFT's 48 sessions")
    assert steps.endswith("× 8 judged trajectories")
    data, steps = saw(plan.variants["sft"], plan.parameters(plan.variants["sft"], 0))
    assert data == "48 sessions of 2–3 turns with ground truth" and steps == "10 × 4 sessions"
    few = dataclasses.replace(plan.parameters(plan.variants["sft"], 0).sft, labelled=5)
    data, _ = saw(plan.variants["sft"], dataclasses.replace(plan.parameters(plan.variants["sft"], 0), sft=few))
    assert data == "5 sessions of 2–3 turns with ground truth"
    assert labelled(plan.variants["base"], plan.parameters(plan.variants["base"], 0)) is None
    assert saw(plan.variants["base"], plan.parameters(plan.variants["base"], 0)) == (shown.BASE, "12 × 6 lessons")
    card = (Path(__file__).parents[2] / "model/checkpoints/tiny/README.md").read_text()
    assert shown.BASE in " ".join(card.split())


def test_a_learning_curve_is_the_mean_of_seeds_smoothed():
    iterations, means = learning_curve([[0, 1, 2, 3, 4, 5], [2, 3, 4, 5, 6, 7, 8]])
    assert iterations == [3.0, 4.0] and means == pytest.approx([3.0, 4.0])
    assert learning_curve([[0.5]]) == ([1.0], [0.5])


# --- side by side -----------------------------------------------------------------------------------------------------


@pytest.fixture
def started(home, monkeypatch):
    """Jobs as processes that end at once; `codes` says how."""
    order, codes = [], {}

    def start(job: experiment_runs.Job, _profile, _parent, _width):
        order.append(job.label)
        experiment_jobs._log(job).write_text("starting\nerror: no memory\n")
        return subprocess.Popen([sys.executable, "-S", "-c", f"raise SystemExit({codes.get(job.label, 0)})"])

    monkeypatch.setattr(experiment_jobs, "_start", start)
    monkeypatch.setattr(experiment_jobs, "POLL_SECONDS", 0.01)
    return order, codes


def test_a_job_waits_for_its_parent(started, tmp_path):
    order, _ = started
    planned = experiment_runs.jobs(load(tmp_path), (), (0, 1))
    done = [job.label for job in experiment_jobs.side_by_side(planned, "smoke", "run", 3)]
    assert sorted(done) == sorted(order) and len(done) == 9 and order[0] == "base"
    assert order.index("rl seed 1") > done.index("sft seed 1") and order.index("longer seed 0") > done.index("base")


def test_a_job_that_fails_takes_only_what_starts_from_it_along(started, tmp_path):
    order, codes = started
    codes["sft seed 1"] = 2
    planned = experiment_runs.jobs(load(tmp_path), (), (0, 1))
    done = []
    with pytest.raises(UserError, match="sft seed 1 said: no memory") as failed:
        done.extend(job.label for job in experiment_jobs.side_by_side(planned, "smoke", "run", 2))
    for label in ("rl seed 1", "text seed 1"):
        assert label not in order and label in str(failed.value)
    assert "rl seed 0" in order and "longer seed 1" in order


def test_a_job_gets_its_share_of_the_threads(home, tmp_path, monkeypatch):
    seen = {}

    def popen(command, **options):
        seen.update(options, command=command)

    monkeypatch.setattr(experiment_jobs.subprocess, "Popen", popen)
    monkeypatch.setenv("EDIT_R2_THREADS", "6")
    experiment_jobs.settings.cache_clear()
    job = experiment_runs.jobs(load(tmp_path), ("text",), (4,))[0]
    experiment_jobs._start(job, "smoke", "abc", 2)
    assert seen["env"]["OMP_NUM_THREADS"] == "3"
    words = " ".join(seen["command"][3:])
    assert words == "experiment run text --seed 4 --profile smoke --parent-run abc"
    assert Path(seen["stdout"].name).name == "experiment-text-seed-4.log"
