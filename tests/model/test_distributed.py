import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from data.build import SessionsConfig, build
from data.errors import UserError
from data.loader import Lesson, SessionFolder
from model import distributed, learning
from model.bundle import load
from model.config import AnchorConfig, DropoutConfig, Optimisation, RlConfig, SamplingConfig, SupervisedConfig
from model.experience import explore, summarise
from model.ground_truth import ground_truth
from model.policy_losses import pays_kl
from model.supervised import encode_lessons, noise_of, supervised_loss, told, train_supervised
from model.tallies import Tally, means
from model.taught import Anchor
from model.trainer import Stopped, Trainer, generator
from tests.model.ranks import on_ranks
from tests.model.toys import toy_bundle, toy_example

OPTIMISATION = Optimisation(steps=6, learning_rate=0.05, warmup=2, ema_decay=0.9, checkpoint_every=2)


def talk(folder):
    rank = distributed.rank()
    heard = {
        "gather": distributed.gather({"rank": rank, "said": "x" * (1 + 50 * rank)}),
        "total": distributed.total(rank + 0.5),
        "anyone": [distributed.anyone(rank == 1), distributed.anyone(False)],
        "means": means([{"both": Tally(1.0, 1 + rank), f"only {rank}": Tally(3.0, 1), "part": Tally(2.0)}], 2),
        "shard": distributed.shard([1, 2, 3], "items"),
    }
    for wrong in (lambda: distributed.shard([1], "items"), lambda: distributed.barrier(f"at {rank}")):
        with pytest.raises(UserError):
            wrong()
    distributed.barrier("the end")
    (folder / f"{rank}.json").write_text(json.dumps(heard))


def deal(folder):
    mine = distributed.shard(list(range(5)), "groups")
    listed = [SimpleNamespace(trajectory=SimpleNamespace(session=place)) for place in range(len(mine))]
    parts = learning.deal(listed, RlConfig(minibatches=2), 3, len(mine))
    dealt = [[mine[excerpt.trajectory.session] for excerpt in part] for part in parts]
    (folder / f"{distributed.rank()}.json").write_text(json.dumps(dealt))


def test_a_group_is_in_the_same_minibatch_on_any_number_of_ranks_also_where_their_shares_differ(tmp_path):
    deal(tmp_path)
    alone = json.loads((tmp_path / "0.json").read_text())
    on_ranks(2, deal, tmp_path)
    shared = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [sorted(both) for both in alone] == [sorted(one + other) for one, other in zip(*shared, strict=True)]
    assert sorted(map(len, alone)) == [2, 3]


def test_ranks_share_out_and_agree(tmp_path):
    on_ranks(2, talk, tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert (first.pop("shard"), second.pop("shard")) == ([1, 3], [2])
    assert first == second
    assert [one["rank"] for one in first["gather"]] == [0, 1]
    assert first["total"] == 2.0 and first["anyone"] == [True, False]
    assert first["means"] == {"both": 2 / 3, "only 0": 3.0, "part": 2.0, "only 1": 3.0}


def test_one_process_is_a_group_of_its_own():
    with distributed.processes():
        assert (distributed.rank(), distributed.world(), distributed.total(2.5)) == (0, 1, 2.5)
        assert distributed.shard([1, 2], "items") == [1, 2]
        module = nn.Linear(2, 2)
        distributed.distribute(module, [])
        with distributed.whole(module):
            assert type(module) is nn.Linear


def learn(folder, until=None):
    """A regression on 16 rows that the ranks share; `until` is the step at which to stop."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))
    distributed.distribute(module, [module[0]])
    trainer = Trainer(module, OPTIMISATION, folder, rates={"0.*": 0.5})
    with distributed.whole(module):  # before anything else has called the module
        assert module[0].weight.shape == (8, 4) and type(module[0].weight.data) is torch.Tensor
    try:
        for step in trainer.steps():
            inputs = torch.randn(16, 4, generator=generator(0, step, "inputs"))
            mine = inputs[distributed.rank() :: distributed.world()]
            trainer.update((module(mine) - mine.sum(1, keepdim=True)).square().sum() / len(inputs))
            trainer._stop = step == until and distributed.rank() == distributed.world() - 1
    except Stopped:
        return
    trainer.use_average()
    state = distributed.collected(module.state_dict())
    if distributed.rank() == 0:
        save_file(state, folder / "end.safetensors")


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_ranks(tmp_path, before, after):
    learn(tmp_path / "whole")
    on_ranks(before, learn, tmp_path / "cut", 2)
    assert not (tmp_path / "cut/end.safetensors").exists()
    on_ranks(after, learn, tmp_path / "cut")
    whole = load_file(tmp_path / "whole/end.safetensors")
    for name, value in load_file(tmp_path / "cut/end.safetensors").items():
        torch.testing.assert_close(value, whole[name], atol=1e-5, rtol=0)


SFT = SupervisedConfig(noise_draws=2, optimisation=Optimisation(steps=3, warmup=0, learning_rate=1e-4, ema_decay=0.5))
LESSONS = [Lesson.of(toy_example(turns, f"s{turns}")) for turns in (3, 1, 2)]


def share(bundle):
    mine = distributed.shard(LESSONS, "batch_size")
    return mine, encode_lessons(bundle, mine)


def gradients(model):
    return {n: distributed.full(p.grad) for n, p in model.named_parameters() if p.grad is not None}


def sft_gradients(folder):
    bundle = toy_bundle()
    distributed.distribute(bundle.model, bundle.model.blocks)
    lessons, tables = share(bundle)
    truth = ground_truth(bundle, lessons, tables, SFT, noise_of(SFT, 0, len(lessons)))
    loss, metrics = supervised_loss(bundle, truth, SFT.trace_weight)
    loss.backward()
    found = gradients(bundle.model)
    found |= {name: torch.tensor(distributed.total(value)) for name, value in metrics.items()}
    if distributed.rank() == 0:
        save_file(found, folder / f"{distributed.world()}.safetensors")


def alike(folder, one, other):
    """Whether two runs have left the same tensors, to 1e-5; those of the first."""
    first, second = load_file(folder / one), load_file(folder / other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=1e-5, rtol=1e-5, msg=lambda text, name=name: name + text)
    return first


def test_two_ranks_give_the_gradients_of_one_in_sft(tmp_path):
    sft_gradients(tmp_path)
    on_ranks(2, sft_gradients, tmp_path)
    found = alike(tmp_path, "1.safetensors", "2.safetensors")
    assert found["flow_loss"] > 0 and found["llm2vae.weight"].abs().max() > 1e-3


def half_blind(folder):
    """The second rank's sessions show the picture encoder nothing; activations are computed again."""
    bundle = toy_bundle()
    distributed.distribute(bundle.model, bundle.model.blocks)
    bundle.model.gradient_checkpointing_enable()
    lessons, tables = share(bundle)
    config = dataclasses.replace(SFT, dropout=DropoutConfig(vit=float(distributed.rank())))
    truth = ground_truth(bundle, lessons, tables, config, noise_of(SFT, 0, len(lessons)))
    assert bool(len(truth.batch.vit_index)) == (distributed.rank() == 0)
    supervised_loss(bundle, truth, SFT.trace_weight)[0].backward()
    found = gradients(bundle.model)
    if distributed.rank() == 0:
        save_file(found, folder / "found.safetensors")


def test_a_rank_whose_pictures_are_all_dropped_keeps_in_step(tmp_path):
    on_ranks(2, half_blind, tmp_path, seconds=60)
    found = load_file(tmp_path / "found.safetensors")
    for name in ("connector.fc1.weight", "vit_model.vision_model.encoder.layers.0.mlp.fc1.weight", "llm2vae.weight"):
        assert found[name].abs().max() > 1e-6


def sft_training(folder):
    bundle = toy_bundle()
    distributed.distribute(bundle.model, bundle.model.blocks)
    work = Trainer(bundle.model, SFT.optimisation, folder / "work")
    train_supervised(bundle, SFT, told(bundle, SFT, lambda step: share(bundle)), work, lambda *_: None, "sft")
    bundle.publish(work.folder, folder / "model")


def test_two_ranks_publish_the_model_that_one_does(tmp_path):
    sft_training(tmp_path / "1")
    on_ranks(2, sft_training, tmp_path / "2")
    alike(tmp_path, "1/model/model.safetensors", "2/model/model.safetensors")
    assert load(tmp_path / "2/model").model.config.to_dict() == load(tmp_path / "1/model").model.config.to_dict()


RL = RlConfig(
    sessions=3,
    group_size=3,
    replay_batch=4,
    sampling=SamplingConfig(points=5, temperature=1.0, max_trace=5),
    window_range=(0, 3),
    kl_weight=0.01,
)


# What `tiny` does, in small.
TINY = dataclasses.replace(
    RL,
    epochs=2,
    minibatches=2,
    policies=("text",),
    resample="best",
    mask_text=True,
    scale="none",
    kl="none",
    text_weight=10.0,
    anchor=AnchorConfig(sessions=3, noise_draws=1, weight=0.5),
)


class Backward:
    """A trainer that takes gradients and no step; keeps those of every update, and the losses."""

    def __init__(self, model):
        self.model, self.seen, self.losses = model, {}, []
        self.parameters = list(model.parameters())  # their shards, as an optimiser holds them: the model may be whole

    def update(self, losses):
        for parameter in self.parameters:
            parameter.grad = None
        self.losses.append([loss.backward() or loss.item() for loss in losses])
        self.seen |= {f"{len(self.losses)}/{name}": value for name, value in gradients(self.model).items()}
        return {}


def teach(experience, idle):
    """Give every turn an advantage of its own; with `idle` no group of the second of two ranks has one."""
    for place, example in zip(distributed.places(len(experience.examples)), experience.examples, strict=True):
        group = place // distributed.world()
        here = experience.exists[group] * (not idle or place % 2 == 0)
        experience.learns[group] = here.bool()
        for name in ("image", "text"):
            values = torch.randn((len(here), 3), generator=generator(0, 0, f"{name}/{example.session.id}"))
            getattr(experience, f"{name}_advantages")[group] = values[:, : here.shape[1]] * here


def rl_gradients(config, parent, other, sessions, folder):
    bundle, reference = load(parent), load(other).model.requires_grad_(False) if pays_kl(config) else None
    for model in (bundle.model, reference) if reference else (bundle.model,):
        distributed.distribute(model, model.blocks)
    anchor = Anchor(bundle, config, sessions) if config.anchor.sessions else None
    experience = explore(bundle, SessionFolder(sessions, "train", targets=False), config, 0)
    sampled = summarise(experience, config)
    for idle in (False, True):
        teach(experience, idle)
        work = Backward(bundle.model)
        watched = learning.improve(bundle, reference, work, experience, config, 0, anchor)
        found = work.seen | {name: torch.tensor(value) for name, value in (sampled | watched).items()}
        found["loss"] = torch.tensor([distributed.total(sum(losses)) for losses in work.losses])
        counts = [len(losses) for losses in work.losses]
        assert distributed.gather(counts) == [counts] * distributed.world(), "or the ranks wait for each other for ever"
        if distributed.rank() == 0:
            save_file(found, folder / f"{distributed.world()}-{idle}.safetensors")


@pytest.mark.parametrize("config", [RL, TINY], ids=["both policies", "as tiny"])
def test_two_ranks_give_the_gradients_of_one_in_rl(tmp_path, config):
    data = SessionsConfig(train=6, validation=0, turns=(1, 3))
    sessions = build(data, tmp_path / "sessions", "sessions")
    models = [toy_bundle(seed).save(tmp_path / f"model-{seed}") for seed in range(2)]
    rl_gradients(config, *models, sessions, tmp_path)
    on_ranks(2, rl_gradients, config, *models, sessions, tmp_path)
    for idle in (False, True):
        found = alike(tmp_path, f"1-{idle}.safetensors", f"2-{idle}.safetensors")
        assert len(found["loss"]) == config.epochs * config.minibatches
        for name in ("llm2vae.weight", "language_model.lm_head.weight"):
            assert found[f"1/{name}"].abs().max() > 1e-3
        assert (found["resampled_share"] > 0) == (config.resample == "best")
