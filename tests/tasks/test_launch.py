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

from data.errors import UserError
from model.config import Optimisation
from model.rl import train_rl
from model.sft import train_sft
from tasks import launch
from tests.model.toys import TOY_RL, TOY_SFT, toy_sessions

QUICK = Optimisation(batch_size=3, learning_rate=3e-5, warmup=0, ema_decay=0.0)
SFT = dataclasses.replace(TOY_SFT, optimisation=dataclasses.replace(QUICK, steps=4, checkpoint_every=2))
RL = dataclasses.replace(TOY_RL, optimisation=dataclasses.replace(QUICK, steps=2, checkpoint_every=1))


def test_only_reports_are_taken_for_reports():
    assert launch._reported('{"step": 3, "metrics": {"loss": 1.0}}\n') == {"step": 3, "metrics": {"loss": 1.0}}
    for line in ("W1123 loading", "[1, 2]", '{"step": 3}', "3", ""):
        assert launch._reported(line) is None


def deaths(*codes):
    """What torchrun writes of processes that ended with these exit codes, the first of them the root cause."""
    told = [
        f"[{i}]:\n  rank      : {i} (local_rank: {i})\n  exitcode  : {code} (pid: 7)\n" for i, code in enumerate(codes)
    ]
    return "Failures:\n" + "".join(told[1:]) + "Root Cause (first observed failure):\n" + told[0]


@pytest.mark.parametrize(
    ("codes", "died"),
    [((-9,), (0, -9)), ((1, -9), (1, -9)), ((-9, 1), (0, -9)), ((1, 1), (0, 1)), ((-11, -15), (0, -11)), ((), None)],
)
def test_the_process_that_died_by_itself_is_told_from_those_that_lost_it(codes, died):
    assert launch._died(deaths(*codes) if codes else "torchrun says nothing") == died


def test_an_error_of_a_process_comes_home_and_a_dead_one_is_named(tmp_path):
    job, log = tmp_path / "model.job.json", tmp_path / "model.job.log"
    log.write_text(deaths(1, -9))
    dead = launch._error(job, log, 1)
    assert "process 1 of the training died (exit code -9)" in dead.problem and str(log) in dead.remedy
    job.with_suffix(".error").write_text(json.dumps({"problem": "No", "remedy": "Do", "exit_code": 143}))
    left = launch._error(job, log, 1)
    assert (left.problem, left.remedy, left.exit_code) == ("No", "Do", 143)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    return toy_sessions(tmp_path_factory.mktemp("data"))


def close(one, other):
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("stage", "config", "train", "after"), [("sft", SFT, train_sft, 1), ("rl", RL, train_rl, 3)])
def test_torchrun_trains_what_one_process_does_and_goes_on_from_a_dead_rank_with_another_number(
    stage, config, train, after, parent, sessions, tmp_path
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
    before = len(told)
    launch.train(stage, config, parent, sessions, tmp_path / "two", report, after)
    assert told[0] == 0 < told[before], "it goes on from its checkpoint"
    assert told[-1] == config.optimisation.steps - 1
    close(tmp_path / "one", tmp_path / "two")


def workers(job):
    """Processes that work on a job, torchrun itself left out."""
    listed = subprocess.run(["pgrep", "-f", f"model.job {job}"], capture_output=True, text=True, check=False).stdout
    return [pid for pid in map(int, listed.split()) if any(x.startswith("RANK=") for x in environment(pid))]


def environment(pid):
    return Path(f"/proc/{pid}/environ").read_text().split("\0")
