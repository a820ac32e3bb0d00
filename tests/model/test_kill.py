"""kill -9 at random moments of SFT and RL: whoever starts the same training again ends with the same weights."""

import dataclasses
import random
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file

from model.config import Optimisation
from model.rl import train_rl
from model.sft import train_sft
from tests.model.ranks import FORKS
from tests.model.toys import TOY_RL, TOY_SFT, toy_sessions

KILLS = 20
SFT = dataclasses.replace(
    TOY_SFT, optimisation=Optimisation(steps=12, batch_size=3, learning_rate=1e-3, warmup=2, checkpoint_every=2)
)
RL = dataclasses.replace(
    TOY_RL, optimisation=Optimisation(steps=5, learning_rate=1e-3, warmup=0, ema_decay=0.5, checkpoint_every=1)
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    return toy_sessions(tmp_path_factory.mktemp("data"))


def work(train, config, parent, sessions, folder):
    torch.set_num_threads(1)
    train(config, parent, sessions, folder, lambda *_: None)


def started(*arguments):
    process = FORKS.Process(target=work, args=arguments)
    process.start()
    return process


def same(one, other):
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    assert [name for name, value in first.items() if not torch.equal(value, second[name])] == []


@pytest.mark.parametrize(("train", "config"), [(train_sft, SFT), (train_rl, RL)], ids=["sft", "rl"])
def test_killed_trainings_end_with_the_weights_of_an_undisturbed_one(train, config, parent, sessions, tmp_path):
    whole, cut = tmp_path / "whole" / "model", tmp_path / "cut" / "model"
    for _ in range(2):  # the first one also waits for the server of the processes
        shutil.rmtree(whole.parent, ignore_errors=True)
        begun = time.monotonic()
        process = started(train, config, parent, sessions, whole)
        process.join()
        assert process.exitcode == 0
    seconds = time.monotonic() - begun
    moments, kills, finished = random.Random(0), 0, 0
    while kills < KILLS or not finished:
        process = started(train, config, parent, sessions, cut)
        process.join(moments.uniform(0.0, 0.8 * seconds) if kills < KILLS else None)
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
        else:
            assert process.exitcode == 0
            same(whole, cut)
            finished += 1
            shutil.rmtree(cut.parent)
    assert kills == KILLS
