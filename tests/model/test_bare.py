import json
import signal
import subprocess
import sys
from types import SimpleNamespace

import yaml

from data.errors import UserError
from model import bare
from model.bare import STAGES, main
from model.trainer import Stopped
from tests.model.ranks import within

TOY = {
    "sessions": {"train": 4, "practice": 2, "validation": 2, "turns": [1, 2], "practice_turns": [2, 2]},
    "benchmark": {"test": 2, "turns": [2, 2]},
    "vae": {"channels": [8, 8, 8, 8], "scenes": 16, "optimisation": {"steps": 2, "batch_size": 2, "warmup": 1}},
    "model": {"width": 32, "layers": 1, "heads": 2, "kv_heads": 1, "mlp": 32, "vit_width": 16, "vit_layers": 1},
    "base": {"noise_draws": 1, "optimisation": {"steps": 1, "batch_size": 2}},
    "sft": {"noise_draws": 1, "optimisation": {"steps": 1, "batch_size": 2}},
    "rl": {
        "sessions": 1,
        "group_size": 2,
        "sampling": {"points": 4, "max_trace": 3, "temperature": 1.0},
        "window_range": [0, 2],
        "optimisation": {"steps": 1},
    },
    "evaluation": {"sampling": {"points": 3, "max_trace": 3}, "strips": 1},
}


def params(folder, **changes):
    toy = {name: {**TOY[name], **changes.get(name, {})} for name in TOY}
    toy["sessions"]["world"] = toy["benchmark"]["world"] = "tiny"
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump({"profiles": {"toy": toy}}))
    return ["toy", str(folder / "out"), "--params", str(path)]


def test_all_stages_run_once_in_one_process(tmp_path, capsys):
    arguments = params(tmp_path)
    assert main(arguments) == 0
    told = json.loads((tmp_path / "out/stages.json").read_text())
    assert list(told["seconds"]) == list(STAGES) and set(told["scores"]) == {"base", "sft", "rl"}
    assert told["scores"]["rl"]["CC"]["n"] > 0
    before = (tmp_path / "out/rl/model.safetensors").stat().st_mtime_ns
    rows = (tmp_path / "out/metrics.jsonl").read_text()
    assert main(arguments) == 0
    assert (tmp_path / "out/rl/model.safetensors").stat().st_mtime_ns == before
    assert (tmp_path / "out/metrics.jsonl").read_text() == rows, "nothing is trained again"
    assert "evaluate-rl" in capsys.readouterr().out
    assert main([*arguments, "--until", "vae"]) == 0
    assert json.loads((tmp_path / "out/stages.json").read_text())["scores"] == told["scores"]


def test_the_seconds_of_a_stage_are_those_of_all_its_attempts(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    attempts = iter([(12.0, False), (5.0, True)])

    def train(_config, _world, folder, _report):
        if not folder.exists():
            seconds, done = next(attempts)
            clock.now += seconds
            if not done:
                raise Stopped("cut off", "run again")
            folder.mkdir()
        return folder

    monkeypatch.setattr(bare, "time", clock)
    monkeypatch.setattr(bare, "train_vae", train)
    arguments = [*params(tmp_path), "--until", "vae"]
    assert [main(arguments) for _ in range(3)] == [Stopped.exit_code, 0, 0]
    assert json.loads((tmp_path / "out/stages.json").read_text())["seconds"] == {"vae": 17.0}


def test_what_is_told_to_stop_outside_a_training_tells_its_seconds(tmp_path):
    options = [*params(tmp_path, sessions={"train": 10**6}), "--until", "sessions"]
    running = subprocess.Popen([sys.executable, "-m", "model.bare", *options])
    within(120, lambda: list((tmp_path / "out").glob(".sessions.partial-*")))
    running.terminate()
    assert running.wait(60) == 128 + signal.SIGTERM
    assert "sessions" in json.loads((tmp_path / "out/stages.json").read_text())["seconds"]
    assert not (tmp_path / "out/sessions").exists()


def test_a_base_may_go_on_from_another(tmp_path):
    assert main([*params(tmp_path), "--until", "base"]) == 0
    first = (tmp_path / "out").rename(tmp_path / "first")
    arguments = params(tmp_path, model={"start": str(first / "base")})
    assert main([*arguments, "--until", "base"]) == 0
    assert not (tmp_path / "out/vae").exists()
    weights = [folder / "base/model.safetensors" for folder in (first, tmp_path / "out")]
    assert weights[0].read_bytes() != weights[1].read_bytes()
    latents = [folder / "base/vae/diffusion_pytorch_model.safetensors" for folder in (first, tmp_path / "out")]
    assert latents[0].read_bytes() == latents[1].read_bytes()


def test_a_base_may_stand_on_a_finished_autoencoder(tmp_path):
    assert main([*params(tmp_path), "--until", "vae"]) == 0
    ready = (tmp_path / "out").rename(tmp_path / "ready")
    arguments = params(tmp_path, vae={"checkpoint": str(ready)})
    assert main([*arguments, "--until", "base"]) == 0
    assert not (tmp_path / "out/vae").exists()
    name = "vae/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "out/base" / name).read_bytes() == (ready / name).read_bytes()


def test_an_unknown_profile_is_named(tmp_path, capsys):
    assert main(["nothing", *params(tmp_path)[1:]]) == UserError.exit_code
    assert "nothing" in capsys.readouterr().err
