import functools
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch

from data.loader import render_lessons
from data.scenes import TINY
from model.ahead import ahead, workers
from model.config import Optimisation, SupervisedConfig
from model.ground_truth import fill, format_of, ground_truth, lay_out
from model.pretrain import lessons_of
from model.supervised import encode_lessons, noise_of
from model.trainer import Trainer
from tests.model.ranks import FORKS, within
from tests.model.toys import toy_bundle


def squared(step):
    return step * step


@pytest.mark.parametrize("count", [0, 2])
def test_steps_come_in_order_whoever_prepares_them(count):
    assert list(ahead(squared, 3, 9, count)) == [9, 16, 25, 36, 49, 64]


def test_a_training_on_cpus_keeps_its_cores():
    assert workers("cpu") == 0
    assert workers("cuda:0") >= 0


def large(step):
    """More than a pipe holds, so that a worker waits for a reader."""
    return np.full(2**22, step % 256, np.uint8)


def learning(folder):
    """A training without end in a process group of its own, whose worker is at work once its number is told."""
    os.setsid()
    trainer = Trainer(torch.nn.Linear(1, 1), Optimisation(steps=10**6, checkpoint_every=10**6), folder / "work")
    steps = ahead(large, 0, 10**6, 1)
    for step in trainer.steps():
        next(steps)
        if not step:
            (worker,) = multiprocessing.active_children()
            (folder / "worker.tmp").write_text(str(worker.pid))
            (folder / "worker.tmp").rename(folder / "worker")
        time.sleep(0.3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_whole_group_saves_what_was_learned_and_leaves_nobody_behind(number, tmp_path):
    training = FORKS.Process(target=learning, args=(tmp_path,))
    training.start()
    within(120, (tmp_path / "worker").exists)
    os.killpg(training.pid, number)
    training.join(60)
    assert training.exitcode == (-number if number == signal.SIGKILL else 1)
    assert (tmp_path / "work/checkpoint/state.json").exists() == (number == signal.SIGTERM)
    worker = int((tmp_path / "worker").read_text())
    within(60, lambda: not running(worker))


def running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_lessons_laid_out_ahead_are_what_they_would_be_in_one_go():
    bundle = toy_bundle()
    config = SupervisedConfig(chained=0.3, dictated=0.4, noise_draws=2, optimisation=Optimisation(batch_size=6, seed=3))
    form = format_of(bundle, (48, 48))
    prepare = functools.partial(lessons_of, TINY, form, config)
    (layout, images), (again, same) = (next(ahead(prepare, 5, 6, count)) for count in (0, 1))
    assert torch.equal(layout.noise, again.noise) and torch.equal(torch.tensor(images), torch.tensor(same))
    filled = fill(layout, bundle.encode(images), form, config)
    lessons = render_lessons(TINY, 6, 4, 0.0, 0.3, 0.4)
    told = ground_truth(bundle, lessons, encode_lessons(bundle, lessons), config, noise_of(config, 5, 6))
    apart = lay_out(form, lessons, config, noise_of(config, 5, 6))
    assert torch.equal(told.noise, apart.noise) and torch.equal(told.timesteps, apart.timesteps)
    assert filled.weights.shape == filled.timesteps.shape and filled.weights.max() <= 1 + config.edited_weight
    assert torch.equal(filled.clean, filled.pictures.latents[filled.batch.noisy_target])
