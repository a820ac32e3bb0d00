import json

import numpy as np
import pytest
from PIL import Image

from data.build import BenchmarkConfig, build
from model.bundle import load
from model.config import EvaluationConfig, SamplingConfig
from model.evaluation import contamination_gap, evaluate, run_sessions, score_sheet, session_row
from model.strips import MARGIN, WIDTH, draw_strip
from tests.model.toys import toy_bundle

CONFIG = EvaluationConfig(sampling=SamplingConfig(points=3, max_trace=4), batch_size=3, strips=2)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    return build(BenchmarkConfig(test=5, turns=(2, 3)), tmp_path_factory.mktemp("data") / "benchmark", "benchmark")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return toy_bundle().save(tmp_path_factory.mktemp("model") / "model")


def test_every_session_and_turn_is_on_the_sheet_with_its_denominators(model, benchmark, tmp_path):
    path = evaluate(CONFIG, model, benchmark, tmp_path / "scores", lambda step, metrics: None)
    sheet = json.loads(path.read_text())
    rows = [json.loads(line) for line in (benchmark / "test.jsonl").read_text().splitlines()]
    assert [s["id"] for s in sheet["sessions"]] == [row["id"] for row in rows]
    assert [[t["instruction"] for t in s["turns"]] for s in sheet["sessions"]] == [row["instruction"] for row in rows]
    held_out = [row["scene"].get("held_out", []) for row in rows]
    assert [s["held_out"] for s in sheet["sessions"]] == held_out and any(held_out)
    turns = [t for s in sheet["sessions"] for t in s["turns"]]
    for name in ("IF", "CC", "GA"):
        present = [t[name] for t in turns if name in t]
        cell = sheet["summary"][name]
        assert cell["n"] == len(present) and len(present) + sum(name in t["absent"] for t in turns) == len(turns)
        assert cell["mean"] == pytest.approx(np.mean(present)) if present else cell["mean"] is None
    assert sum(cell["IF"]["n"] for cell in sheet["summary"]["by_turn"].values()) == sheet["summary"]["IF"]["n"]
    gap = sheet["summary"]["contamination_gap"]
    assert gap["1"]["IF"]["mean"] == 0.0, "nothing comes before the first turn"
    assert set(gap) == set(sheet["summary"]["by_turn"])
    turns = sum(len(row["turns"]) for row in sheet["true_history"])
    assert sheet["summary"]["ceiling"]["success"]["n"] == turns, "every turn once more, with its known intent"
    captions = json.loads((path.parent / "strips.json").read_text())
    assert len(captions) == 2
    for name, texts in captions.items():
        with Image.open(path.parent / "strips" / f"{name}.png") as strip:
            assert strip.width == (WIDTH + MARGIN) * len(texts) + MARGIN


def test_the_contamination_gap_is_free_running_minus_true_history():
    free = [{"turns": [{"turn": 1, "IF": 1.0}, {"turn": 2, "IF": 0.0, "CC": 0.5}]}, {"turns": [{"turn": 1, "IF": 0.0}]}]
    true = [{"turns": [{"turn": 1, "IF": 1.0}, {"turn": 2, "IF": 1.0}]}, {"turns": [{"turn": 1, "IF": 0.0}]}]
    gap = contamination_gap(free, true)
    assert gap["1"]["IF"] == {"mean": 0.0, "n": 2} and gap["2"]["IF"] == {"mean": -1.0, "n": 1}
    assert gap["2"]["CC"] == {"mean": None, "n": 0}, "an absence on either side is no zero"


def test_a_session_scores_the_same_again(model, benchmark):
    from data.loader import SessionFolder

    folder, bundle = SessionFolder(benchmark, "test", targets=False), load(model)
    examples = [folder[i] for i in range(3)]
    once, again = (
        score_sheet([session_row(*found) for found in run_sessions(bundle, examples, CONFIG)], CONFIG) for _ in "12"
    )
    assert once == again


def test_a_strip_keeps_pixels_sharp_and_wraps_its_captions():
    images = [np.full((4, 4, 3), value, np.uint8) for value in (10, 200)]
    strip = np.asarray(draw_strip(images, ["source", "a long caption " * 8]))
    assert (strip[MARGIN : MARGIN + WIDTH, MARGIN : MARGIN + WIDTH] == 10).all()
    assert strip.shape[0] > WIDTH + 3 * MARGIN + 3 * 14
