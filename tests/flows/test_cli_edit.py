"""The command that edits a picture, with the committed base model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from data.loader import render_scenes
from data.scenes import world_named
from model.pipeline import EditPipeline
from tasks.parameters import load
from tests.flows.test_cli import bare, call

__all__ = ["bare"]
ROOT = Path(__file__).parents[2]
BASE = ["--model", str(ROOT / "model" / "checkpoints" / "tiny")]
TURNS = ["add a red ball at top left", "remove the red ball"]


@pytest.fixture
def scene(bare, tmp_path):
    path = tmp_path / "scene.png"
    Image.fromarray(render_scenes(world_named("tiny"), 1, 5)[0]).save(path)
    return str(path)


def test_a_picture_is_edited_as_the_profile_judges_unless_told_otherwise(scene, tmp_path, monkeypatch, capsys):
    asked = []
    draw = EditPipeline.__call__

    def spy(self, *arguments, **options):
        asked.append(options)
        return draw(self, *arguments, **options)

    monkeypatch.setattr(EditPipeline, "__call__", spy)
    out = tmp_path / "strip.png"
    code, said, _ = call(monkeypatch, capsys, "edit", scene, *TURNS, *BASE, "--out", str(out), "--json")
    answer = json.loads(said)
    assert code == 0 and len(answer["traces"]) == 2 and "red ball" in answer["traces"][0]
    width, height = Image.open(out).size
    assert width > 3 * height / 2, "source and two pictures side by side"
    judged = load("tiny").evaluation.sampling
    assert (asked[0]["points"], asked[0]["noise_scale"]) == (judged.points, judged.noise_scale)

    call(monkeypatch, capsys, "edit", scene, *TURNS, *BASE, "--out", str(out), "--points", "3")
    assert (asked[1]["points"], asked[1]["noise_scale"]) == (3, judged.noise_scale)


@pytest.mark.parametrize(
    ("image", "said"), [("nowhere.png", "no readable picture"), ("7", "does not exist"), ("", "no readable picture")]
)
def test_a_picture_that_is_none_is_named(bare, tmp_path, monkeypatch, capsys, image, said):
    monkeypatch.setenv("EDIT_R2_ROOT", str(tmp_path))
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    code, _, error = call(monkeypatch, capsys, "edit", image, *TURNS, *BASE, "--out", str(tmp_path / "x.png"))
    assert code == 2 and said in error
