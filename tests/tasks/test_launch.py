import dataclasses
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data.build import SessionsConfig, build
from data.errors import UserError
from model.config import CorruptionConfig, Optimisation, RlConfig, SamplingConfig, SupervisedConfig, ValidationConfig
from model.rl import train_rl
from model.sft import train_sft
from tasks import launch
from tests.model.toys import toy_bundle

FAST = SamplingConfig(points=3, max_trace=3)
SFT = SupervisedConfig(
    noise_draws=1,
    corruption=CorruptionConfig(0.5, refresh=2, sampling=FAST),
    validation=ValidationConfig(every=4, sessions=2, sampling=FAST),
    optimisation=Optimisation(steps=4, batch_size=3, learning_rate=3e-5, warmup=0, checkpoint_every=2),
)
RL = RlConfig(
    sessions=3,
    group_size=2,
    replay_batch=4,
    sampling=dataclasses.replace(FAST, points=4, temperature=1.0),
    window_range=(0, 3),
    alert_sessions=2,
    optimisation=Optimisation(steps=2, learning_rate=3e-5, warmup=0, ema_decay=0.0, checkpoint_every=1),
)


def test_only_reports_are_taken_for_reports():
    assert launch._reported('{"step": 3, "metrics": {"loss": 1.0}}\n') == {"step": 3, "metrics": {"loss": 1.0}}
    for line in ("W1123 loading", "[1, 2]", '{"step": 3}', "3", ""):
        assert launch._reported(line) is None


def test_an_error_of_a_process_comes_home_and_a_dead_one_is_named(tmp_path):
    job, log = tmp_path / "model.job.json", tmp_path / "model.job.log"
    log.write_text(
        "Root Cause (first observed failure):\n[0]:\n  rank      : 1 (local_rank: 1)\n  exitcode  : -9 (pid: 7)\n"
    )
    dead = launch._error(job, log, 1)
    assert "process 1 of the training died (exit code -9)" in dead.problem and str(log) in dead.remedy
    job.with_suffix(".error").write_text(json.dumps({"problem": "No", "remedy": "Do", "exit_code": 143}))
    left = launch._error(job, log, 1)
    assert (left.problem, left.remedy, left.exit_code) == ("No", "Do", 143)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    config = SessionsConfig(train=6, validation=2, turns=(1, 3))
    return build(config, tmp_path_factory.mktemp("data") / "sessions", "sessions")


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    return toy_bundle().save(tmp_path_factory.mktemp("parent") / "model")


def close(one, other):
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("stage", "config", "train"), [("sft", SFT, train_sft), ("rl", RL, train_rl)])
def test_torchrun_trains_what_one_process_does_and_survives_a_dead_rank(
    stage, config, train, parent, sessions, tmp_path
):
    train(config, parent, sessions, tmp_path / "one", lambda *_: None)
    told = []

    def report(step, metrics):
        told.append(step)

    def kill():
        """End the second rank once there is a checkpoint."""
        while not (tmp_path / "two.work" / "checkpoint").exists():
            time.sleep(0.05)
        for pid in workers(tmp_path / "two.job.json"):
            if "RANK=1" in environment(pid):
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(UserError, match=r"process 1 of the training died \(exit code -9\)"):
        launch.train(stage, config, parent, sessions, tmp_path / "two", report, 2)
    killer.join()
    assert not (tmp_path / "two").exists() and not workers(tmp_path / "two.job.json")
    launch.train(stage, config, parent, sessions, tmp_path / "two", report, 2)
    assert told[0] == 0 and told[-1] == config.optimisation.steps - 1
    close(tmp_path / "one", tmp_path / "two")


def workers(job):
    """Processes that work on a job, torchrun itself left out."""
    listed = subprocess.run(["pgrep", "-f", f"model.job {job}"], capture_output=True, text=True, check=False).stdout
    return [pid for pid in map(int, listed.split()) if any(x.startswith("RANK=") for x in environment(pid))]


def environment(pid):
    return Path(f"/proc/{pid}/environ").read_text().split("\0")
