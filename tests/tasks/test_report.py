from __future__ import annotations

import base64
import io
import json
import re

import pytest
from rich.console import Console

from tasks import report
from tasks.canonical import sha256
from tasks.evaluation import Evaluation
from tasks.settings import settings
from tests.tasks.stages import score_sheet


@pytest.fixture
def evaluations(home):
    made = []
    for name, quality in (("base", 0.1), ("sft", 0.4), ("rl", 0.6)):
        sheet = json.dumps(score_sheet(quality)).encode()
        folder = settings().folder("scores") / sha256(sheet)[:12]
        (folder / "strips").mkdir(parents=True)
        (folder / "scores.json").write_bytes(sheet)
        made.append(Evaluation(name, f"m-{name}", "run", sha256(sheet), "0" * 64))
    from PIL import Image

    Image.new("RGB", (8, 8), "red").save(folder / "strips" / "s1.png")
    return made


def test_the_table_has_a_row_per_model_and_the_scores_of_both_tracks(evaluations):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(report.table("smoke", report.sheets(evaluations)))
    shown = console.export_text()
    assert [line.split()[1] for line in shown.splitlines() if "0." in line] == ["base", "sft", "rl"]
    assert shown.count("0.600") == 7 and "6 benchmark sessions" in shown


def test_an_absent_score_is_a_dash_and_not_zero():
    assert report.shown(report.mean({"cm": {"GA": {"mean": None, "n": 0}}}, "cm", "GA")) == "–"
    assert report.mean({}, "cm", "GA") is None


def test_the_page_stands_alone(evaluations):
    page = report.page("smoke", evaluations, "version 1 <was> promoted", "why", {"commit": "abc"})
    assert "version 1 &lt;was&gt; promoted" in page and "<script" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    pictures = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    assert len(pictures) == 4  # three plots and a strip
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)


def test_the_summary_for_prefect_names_reasons(evaluations):
    text = report.markdown("smoke", report.sheets(evaluations), "refused", ["IF is too low"])
    assert "* IF is too low" in text and "| rl | 0.600" in text


def test_where_to_look_is_a_url_where_there_is_a_server(home, monkeypatch):
    assert report.where_to_look("1", "r").startswith("edit-r2 up")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000/")
    settings.cache_clear()
    assert report.where_to_look("1", "r") == "http://mlflow.example:5000/#/experiments/1/runs/r"
