"""Stand-ins for what costs minutes: data sets that lie ready, trainers and a judge that write their files at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data.errors import UserError
from tasks import parameters
from tasks.datasets import Dataset
from tasks.expectations import ValidationReport

PROFILE = "smoke"
METRICS = ("IF", "CC", "GA", "GA_cumulative", "success")


class Trainers:
    """Counts the calls of every trainer; `broken` names one that raises, after half of its steps."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.broken: str | None = None

    def train(self, name: str, folder: Path, report: Any, content: str) -> Path:
        self.calls.append(name)
        for step in range(4):
            if step == 2 and self.broken == name:
                raise UserError(f"{name}: the loss is not finite", "Lower the learning rate")
            report(step, {f"{name}/loss": 1.0 / (step + 1), "rl/reward": 0.5, "progress": (step + 1) / 4})
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").write_text(content)
        return folder


def datasets_of(root: Path, profile: str = PROFILE) -> dict[str, Dataset]:
    """Two folders as a build leaves them."""
    made = {}
    for number, name in enumerate(("sessions", "benchmark")):
        folder = root / "data" / name / profile
        folder.mkdir(parents=True)
        (folder / "test.jsonl").write_text("{}\n")
        made[name] = Dataset(name, profile, folder, f"{number}" * 32 + ".dir", "e" * 64, 1, {"test": 1})
    return made


def passed(dataset: Dataset) -> ValidationReport:
    """The report on a data set that nothing is wrong with."""
    return ValidationReport(dataset.title, dataset.digest, None, ())


def score_sheet(quality: float, sessions: int = 6) -> dict[str, Any]:
    """What evaluation writes, every score equal to `quality`."""
    scores = dict.fromkeys(METRICS, quality)
    rows = [
        {
            "id": f"s{number}",
            "track": ("cm", "cu")[number % 2],
            "held_out": ["phrase:undo"] * (number == 0),
            "success": quality,
            "turns": [
                {"turn": k, "edit_type": "color_alter", "instruction": "i", "trace": "t", "distance": 1, **scores}
                for k in (1, 2)
            ],
        }
        for number in range(sessions)
    ]
    cell = {name: {"mean": quality, "n": 2 * sessions} for name in METRICS}
    whole = {**cell, "session_success": {"mean": quality, "n": sessions}}
    groups = {"by_turn": {"1": cell, "2": cell}, "by_type": {"color_alter": cell}, "by_distance": {"1": cell}}
    summary = {**whole, "cm": whole, "cu": whole, **groups}
    judge = {"name": "exact", "version": "1"}
    return {"format": 1, "judge": judge, "seed": 0, "settings": {}, "sessions": rows, "summary": summary}


def install(monkeypatch: pytest.MonkeyPatch, trainers: Trainers) -> None:
    """Put the stand-ins where the stages import the real ones from."""

    def base(config: Any, _model: Any, latents: Path, _world: Any, folder: Path, report: Any) -> Path:
        return trainers.train("base", folder, report, f"base {config.optimisation.steps} {latents.name}")

    def vae(_config: Any, _world: Any, folder: Path, report: Any) -> Path:
        return folder if folder.exists() else trainers.train("vae", folder, report, "vae")

    def tuned(name: str) -> Any:
        def train(_config: Any, parent: Path, _sessions: Path, folder: Path, report: Any) -> Path:
            return trainers.train(name, folder, report, f"{name} of {(parent / 'model.safetensors').read_text()}")

        return train

    def judge(_config: Any, model: Path, _benchmark: Path, folder: Path, report: Any) -> Path:
        trainers.calls.append("judge")
        (folder / "strips").mkdir(parents=True, exist_ok=True)
        quality = 0.2 * len((model / "model.safetensors").read_text().split(" of "))
        (folder / "scores.json").write_text(json.dumps(score_sheet(quality)))
        Image.new("RGB", (32, 16), "red").save(folder / "strips" / "s0.png")
        (folder / "strips.json").write_text(json.dumps({"s0": ["source", "1. make it red [make it red]"]}))
        report(0, {"progress": 1.0})
        return folder / "scores.json"

    monkeypatch.setattr("model.pretrain.train_base", base)
    monkeypatch.setattr("model.pretrain_vae.train_vae", vae)
    monkeypatch.setattr("model.sft.train_sft", tuned("sft"))
    monkeypatch.setattr("model.rl.train_rl", tuned("rl"))
    monkeypatch.setattr("model.evaluation.evaluate", judge)


def loaded() -> parameters.Parameters:
    """The smoke profile of the repository."""
    return parameters.load(PROFILE, Path(__file__).parents[2] / "params.yaml")
