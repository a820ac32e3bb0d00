"""The results table with stand-ins for builds, trainers and judge; flows, tracking, statistics and pages are real."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from data.errors import UserError
from flows.experiment import _make, experiment_table_flow, experiment_variant
from mlflow_config.settings import EXPERIMENT, Tag
from tasks import datasets, experiment, experiment_page, experiment_runs, tracking
from tests.tasks.stages import Trainers, datasets_of, install, passed, score_sheet

SEEDS, VARIANTS = (0, 1), ("base", "sft", "edit-r2")


@pytest.fixture
def trainers(home, prefect, tmp_path, monkeypatch):
    """Models whose content says what made them; the judge gives each stage a quality of its own."""
    made = Trainers()
    install(monkeypatch, made)
    ready = datasets_of(tmp_path)

    def tuned(name):
        def train(config, parent, _sessions, folder, report):
            print_ = f"{name} {config.optimisation.seed} {config.optimisation.steps} {getattr(config, 'policies', '')}"
            for step, score in enumerate((0.3, 0.5, 0.5, 0.4) if name == "sft" else ()):
                report(step, {"sft/validation_score": score})
            return made.train(name, folder, report, f"{print_} of {(parent / 'model.safetensors').read_text()}")

        return train

    def judge(_config, model, _benchmark, folder, report):
        made.calls.append("judge")
        (folder / "strips").mkdir(parents=True)
        content = (model / "model.safetensors").read_text()
        quality = 0.2 * len(content.split(" of ")) + 0.02 * ("sft 1 " in content)
        (folder / "scores.json").write_text(json.dumps(score_sheet(quality)))
        for index in range(2):
            Image.new("RGB", (32, 16), "red").save(folder / "strips" / f"s{index}.png")
        report(0, {"progress": 1.0})
        return folder / "scores.json"

    monkeypatch.setattr("model.sft.train_sft", tuned("sft"))
    monkeypatch.setattr("model.rl.train_rl", tuned("rl"))
    monkeypatch.setattr("model.evaluation.evaluate", judge)
    monkeypatch.setattr(datasets, "build", lambda _profile, name, push=True: ready[name])
    monkeypatch.setattr(datasets, "locked", lambda _profile, name: ready[name])
    monkeypatch.setattr(datasets, "push_dataset", lambda _dataset: None)
    monkeypatch.setattr("tasks.expectations.validate", passed)
    return made


def test_a_table_is_made_from_every_variant_and_seed_once_and_then_reused(trainers, tmp_path):
    first = experiment_table_flow("smoke", SEEDS, VARIANTS, write=str(tmp_path / "docs"))
    assert trainers.calls == ["vae", "base", "judge", *["sft", "judge"] * 2, *["rl", "judge"] * 2]
    found = json.loads((tmp_path / "docs" / "results.json").read_text())
    assert found == first.results and found["profile"] == "smoke" and found["seeds"] == [0, 1]
    assert list(found["variants"]) == ["base", "sft", "edit-r2"]
    means = {name: cells["IF"]["mean"] for name, cells in found["variants"].items()}
    assert means == pytest.approx({"base": 0.2, "sft": 0.41, "edit-r2": 0.61})
    assert found["variants"]["sft"]["IF"]["n"] == 24 and found["variants"]["base"]["IF"]["n"] == 12
    assert found["paired"]["edit-r2 - sft"]["cm/session_success"]["mean"] == pytest.approx(0.2)
    assert set(found["paired"]) == {"edit-r2 - base", "edit-r2 - sft", "sft - base"}
    new, shown = found["parts"]["held out"], found["parts"]["shown in training"]
    assert (new["sessions"], shown["sessions"]) == (1, 5) and set(shown["paired"]) == set(found["paired"])
    assert [part["variants"]["sft"]["IF"]["n"] for part in (new, shown)] == [4, 20]

    (run,) = tracking.find("smoke", EXPERIMENT)
    assert run.info.status == "FINISHED"
    children = tracking.client().search_runs([run.info.experiment_id], f"tags.`{Tag.PARENT_RUN}` = '{run.info.run_id}'")
    names = {child.info.run_name for child in children}
    assert {"train_sft sft seed 1", "train_rl edit-r2 seed 0", "evaluate edit-r2 seed 1", "evaluate base"} <= names
    kept = {file.path for file in tracking.client().list_artifacts(run.info.run_id)}
    assert kept == {"results.md", "results.json", "results"}

    trainers.calls.clear()
    again = experiment_table_flow("smoke", SEEDS, VARIANTS)
    assert trainers.calls == [] and again.results == first.results and len(tracking.find("smoke", EXPERIMENT)) == 1


def test_the_page_names_its_pictures_its_denominators_and_no_more_than_its_numbers(trainers, tmp_path):
    made = experiment_table_flow("smoke", (0,), ("sft", "edit-r2"), write=str(tmp_path))
    page = (tmp_path / "results.md").read_text()
    for path in re.findall(r"\]\(([^)]+)\)", page):
        assert (tmp_path / path).read_bytes().startswith(b"\x89PNG")
    assert "- all variants: IF 12," in page and "- all variants: IF 2," in page
    assert "rule family is held out. Sessions: 1." in page and "Nothing is held out. Sessions: 5." in page
    assert "| sft | 0.400 [0.400, 0.400] |" in page and "48 sessions of 2–3 turns with ground truth" in page
    assert "- edit-r2 against sft: higher in IF" in page and "improve" not in page
    runs = [line.split(" | ") for line in page.partition("## Runs")[2].splitlines() if line.startswith("| ")]
    assert [row[runs[0].index("best step")] for row in runs[2:]] == ["2", "last"]
    assert "--seeds 0 --variants sft,edit-r2\n" in page
    (said,) = made.reading
    assert said.startswith("edit-r2 against sft: higher in IF") and "lower" not in said
    pictures = {path.name for path in (tmp_path / "results").iterdir()}
    assert {"by-turn.png", "ga-by-distance.png", "learning-curves.png", "differences.png", "strip-s0.png"} <= pictures
    assert "by-labels.png" not in pictures  # all saw the same sessions


def test_variants_that_saw_more_and_fewer_labelled_sessions_are_drawn_over_them(trainers, tmp_path):
    experiment_table_flow("smoke", (0,), ("sft", "sft-few", "edit-r2"), write=str(tmp_path))
    page = (tmp_path / "results.md").read_text()
    assert "6 sessions of 2–3 turns with ground truth" in page and "What labels are worth" in page
    assert (tmp_path / "results" / "by-labels.png").exists()


def test_a_retraining_of_one_variant_is_reused_and_a_missing_parent_is_made_first(trainers):
    one = experiment_variant("smoke", "edit-r2", 1)
    assert trainers.calls == ["vae", "base", "sft", "rl", "judge"] and one.model.name == "rl"
    trainers.calls.clear()
    experiment_table_flow("smoke", (1,), ("edit-r2",))
    assert trainers.calls == []


def test_a_table_that_broke_goes_on_where_it_was(trainers):
    trainers.broken = "rl"
    with pytest.raises(UserError, match="not finite"):
        experiment_table_flow("smoke", (0,), VARIANTS)
    (run,) = tracking.find("smoke", EXPERIMENT)
    assert run.info.status == "FAILED"
    trainers.broken, trainers.calls = None, []
    experiment_table_flow("smoke", (0,), VARIANTS)
    assert trainers.calls == ["rl", "judge"]
    assert [one.info.status for one in tracking.find("smoke", EXPERIMENT)] == ["FINISHED"]


def test_a_job_on_a_worker_is_known_by_all_that_makes_it(monkeypatch):
    asked = []
    monkeypatch.setattr("flows.experiment.stage", lambda _flow, key, **_arguments: asked.append(key))
    plan = experiment.load("smoke")
    planned = experiment_runs.jobs(plan, ("sft", "edit-r2"), (0,))
    assert list(_make(planned, "smoke", "r", 1)) == planned
    assert asked == [experiment_runs.fingerprint(plan, job) for job in planned]


def test_words_follow_the_intervals():
    from tasks.comparison import Slice
    from tasks.experiment_statistics import Estimate

    found = {
        Slice("IF", "overall"): Estimate(0.1, 0.05, 0.15, 9),
        Slice("CC", "overall"): Estimate(-0.1, -0.2, -0.01, 9),
        Slice("GA", "overall"): Estimate(0.1, 0.0, 0.2, 9),
    }
    assert experiment_page._verdicts(found) == ["higher in IF", "lower in CC", "no difference shown in GA per prefix"]


def test_denominators_are_told_once_for_all_that_share_them():
    from tasks.experiment_statistics import Estimate

    counts = {"base": 96, "sft": 288, "edit-r2": 288}
    by_name = {name: {"cm/IF": Estimate(0.5, 0.4, 0.6, n)} for name, n in counts.items()}
    lines = experiment_page._denominators(by_name, "cm/")
    assert [line.split(", CC")[0] for line in lines[2:]] == ["- base: IF 96", "- all other variants: IF 288"]
    assert experiment_page.cell(Estimate(-0.0001, -0.2, 0.0004, 1), signed=True) == "+0.000 [-0.200, +0.000]"
    assert experiment_page.cell(None) == "–"


def test_fewer_seeds_and_trainings_of_two_names_are_told():
    def row(*runs, seeded=True):
        return SimpleNamespace(
            variant=SimpleNamespace(seeded=seeded), trainings=[SimpleNamespace(run_id=run) for run in runs]
        )

    rows = {"base": row("b", seeded=False), "sft": row("s", "t"), "edit-r2": row("e", "f")}
    assert experiment_page.made_of(SimpleNamespace(rows=rows)) == []
    rows |= {"text": row("e", "f"), "few": row("g")}
    assert experiment_page.made_of(SimpleNamespace(rows=rows)) == [
        "- seeds: 2 of a variant, but 1 of few",
        "- the same trainings: edit-r2, text",
    ]
    bare = {"sft": row(None), "edit-r2": row(None)}
    assert experiment_page.made_of(SimpleNamespace(rows=bare)) == []


def test_files_of_an_earlier_table_make_room(tmp_path):
    from tasks import experiment_table

    new, target = tmp_path / "new", tmp_path / "docs"
    (new / "results").mkdir(parents=True)
    (new / "results.md").write_text("new")
    (new / "results" / "a.png").write_bytes(b"a")
    (target / "results").mkdir(parents=True)
    (target / "results" / "old.png").write_bytes(b"old")
    (target / "other.md").write_text("kept")
    written = experiment_table._publish(new, target)
    assert [Path(path).name for path in written] == [["results", "a.png"][1], "results.md"]
    assert sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file()) == [
        "other.md",
        "results.md",
        "results/a.png",
    ]
