import os
import signal

import pytest
import torch
from torch import nn

from data.errors import UserError
from model.config import Optimisation
from model.trainer import Stopped, Trainer, generator

OPTIMISATION = Optimisation(steps=6, learning_rate=0.05, warmup=2, ema_decay=0.9, checkpoint_every=2)


def run(folder, *, until=None, optimisation=OPTIMISATION):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))
    trainer = Trainer(module, optimisation, folder)
    for step in trainer.steps():
        if step == until:
            return None
        inputs = torch.randn(16, 4, generator=generator(0, step, "inputs"))
        trainer.update((module(inputs) - inputs.sum(1, keepdim=True)).square().mean())
    trainer.use_average()
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize("killed_at", [1, 2, 3, 5])
def test_a_run_that_was_cut_off_ends_with_the_same_bits(tmp_path, killed_at):
    whole = run(tmp_path / "whole")
    assert run(tmp_path / "cut", until=killed_at) is None
    assert torch.equal(run(tmp_path / "cut"), whole)


def test_a_half_written_checkpoint_is_ignored(tmp_path):
    whole = run(tmp_path / "whole")
    run(tmp_path / "cut", until=3)
    (tmp_path / "cut/checkpoint.tmp").mkdir()
    (tmp_path / "cut/checkpoint.tmp/weights.safetensors").write_bytes(b"torn")
    assert torch.equal(run(tmp_path / "cut"), whole)


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path):
    whole = run(tmp_path / "whole")
    run(tmp_path / "cut", until=3)
    (tmp_path / "cut/checkpoint").rename(tmp_path / "cut/checkpoint.old")
    assert torch.equal(run(tmp_path / "cut"), whole)


def test_sigterm_saves_and_says_how_to_go_on(tmp_path):
    module = nn.Linear(2, 1)
    trainer = Trainer(module, Optimisation(steps=9, checkpoint_every=100), tmp_path)
    with pytest.raises(Stopped, match="same command"):
        for step in trainer.steps():
            trainer.update(module(torch.ones(1, 2)).sum())
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
    assert Trainer(nn.Linear(2, 1), Optimisation(steps=9), tmp_path).step == 4


def test_a_loss_that_is_not_finite_stops_before_it_touches_the_weights(tmp_path):
    module = nn.Linear(2, 1)
    before = module.weight.detach().clone()
    trainer = Trainer(module, OPTIMISATION, tmp_path)
    with pytest.raises(UserError, match="not finite"):
        trainer.update(module(torch.ones(1, 2)).sum() * float("inf"))
    assert torch.equal(module.weight, before)


def test_the_learning_rate_warms_up_and_decays(tmp_path):
    trainer = Trainer(
        nn.Linear(2, 1), Optimisation(steps=100, learning_rate=1.0, warmup=10, final_learning_rate=0.1), tmp_path
    )
    rates = []
    for trainer.step in (0, 9, 10, 55, 100):
        rates.append(trainer.learning_rate())
    assert rates == pytest.approx([0.1, 1.0, 1.0, 0.55, 0.1])


@pytest.mark.parametrize(("masters", "moves"), [(True, True), (False, False)])
def test_small_steps_add_up_in_a_model_of_low_precision(tmp_path, masters, moves):
    small = Optimisation(
        steps=8, learning_rate=1e-3, warmup=0, weight_decay=0.0, ema_decay=0.0, checkpoint_every=3, masters=masters
    )

    def weights(folder, until=None):
        module = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
        nn.init.ones_(module.weight)
        trainer = Trainer(module, small, folder)
        for step in trainer.steps():
            if step == until:
                return None
            trainer.update(module(torch.ones(1, 1, dtype=torch.bfloat16)).sum())
        return module.weight.detach()

    whole = weights(tmp_path / "whole")
    assert whole.dtype == torch.bfloat16 and (whole.item() != 1.0) == moves, "bfloat16 has no number 0.999"
    weights(tmp_path / "cut", until=5)
    assert torch.equal(weights(tmp_path / "cut"), whole)


def test_parameters_learn_at_the_rate_of_the_first_pattern_that_fits(tmp_path):
    module = nn.ModuleDict({name: nn.Linear(1, 1) for name in ("image", "text", "still")})
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    plain = Optimisation(steps=1, learning_rate=0.01, warmup=0, weight_decay=0.0, ema_decay=0.0)
    trainer = Trainer(module, plain, tmp_path, rates={"still.*": 0.0, "image.bias": 2.0, "*.bias": 0.5})
    trainer.update(sum(p.sum() for p in module.parameters()))
    moved = {name: (before[name] - p).item() for name, p in module.named_parameters()}
    assert moved == pytest.approx(
        {
            "image.weight": 0.01,
            "image.bias": 0.02,
            "text.weight": 0.01,
            "text.bias": 0.005,
            "still.weight": 0.0,
            "still.bias": 0.0,
        },
        abs=1e-6,
    )
    with pytest.raises(ValueError, match="nobody"):
        Trainer(module, plain, tmp_path, rates={"nobody.*": 2.0})
