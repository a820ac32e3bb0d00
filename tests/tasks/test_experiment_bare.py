"""The table of a folder that a machine without MLflow has filled."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from data.errors import UserError
from data.parameters import read_profile
from flows.cli import app
from tasks import experiment_bare
from tasks.settings import settings
from tests.tasks.stages import score_sheet


@pytest.fixture
def filled(home, tmp_path):
    folder = tmp_path / "runs"
    for stage, quality in (("base", 0.2), ("sft", 0.4), ("rl", 0.6)):
        strips = folder / f"evaluate-{stage}" / "strips"
        strips.mkdir(parents=True)
        Image.new("RGB", (32, 16), "red").save(strips / "s0.png")
        (strips.parent / "scores.json").write_text(json.dumps(score_sheet(quality)))
    parameters = read_profile("smoke", settings().root / "params.yaml")
    about = {"profile": "smoke", "parameters": parameters, "device": "one GPU", "seconds": {"sft": 12.0, "rl": 30.5}}
    (folder / "stages.json").write_text(json.dumps(about))
    looks = ({"stage": "sft", "step": step, "sft/validation_score": score} for step, score in ((4, 0.3), (9, 0.2)))
    rewards = ({"stage": "rl", "step": step, "rl/reward": 0.5 + step / 10} for step in range(3))
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in (*looks, *rewards)))
    return folder


def test_a_bare_folder_has_the_table_of_its_three_models(filled, tmp_path):
    asked = CliRunner().invoke(app, ["experiment", "bare", str(filled), "--write", str(tmp_path / "docs"), "--json"])
    found = json.loads(asked.stdout)
    means = {name: cells["IF"]["mean"] for name, cells in found["variants"].items()}
    assert means == pytest.approx({"base": 0.2, "sft": 0.4, "edit-r2": 0.6})
    assert found["paired"]["edit-r2 - sft"]["session_success"]["mean"] == pytest.approx(0.2)
    page = (tmp_path / "docs" / "results.md").read_text()
    assert "one GPU, nothing of which is tracked" in page and "edit-r2 experiment bare FOLDER" in page
    assert "of all attempts where a training was interrupted" in page
    (sft,) = [line for line in page.splitlines() if line.startswith("| sft | 0 |")]
    assert sft.startswith("| sft | 0 | – | – | – | 12 | 5 |"), "untracked, 12 seconds, best after 5 steps"
    assert (tmp_path / "docs" / "results" / "strip-s0.png").exists()
    assert experiment_bare.measured(filled).rows["edit-r2"].trainings[0].rewards == (0.5, 0.6, 0.7)


def test_an_iteration_that_was_done_again_counts_once(filled):
    again = ({"stage": "rl", "step": step, "rl/reward": 0.8} for step in (1, 2, 3))
    with (filled / "metrics.jsonl").open("a") as metrics:
        metrics.writelines(f"{json.dumps(row)}\n" for row in again)
    assert experiment_bare.measured(filled).rows["edit-r2"].trainings[0].rewards == (0.5, 0.8, 0.8, 0.8)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("stages.json", "[]", "stages.json"),
        ("stages.json", '{"profile": "smoke", "device": "d", "seconds": {}, "parameters": {}}', "other parameters"),
        ("metrics.jsonl", "{}\n{", "metrics.jsonl"),
        ("evaluate-sft/scores.json", '{"format": 1}', "scores.json"),
        ("evaluate-rl/scores.json", None, "scores.json"),
    ],
)
def test_what_cannot_be_read_is_named(filled, name, text, said):
    (filled / name).unlink() if text is None else (filled / name).write_text(text)
    with pytest.raises(UserError, match=said):
        experiment_bare.measured(filled)
