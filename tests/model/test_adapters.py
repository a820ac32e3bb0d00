"""Low-rank updates: what learns, what a published model holds, and that trainings with them resume and share out."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from model.adapters import adapt, folded, is_adapted
from model.bundle import load
from model.config import AdapterConfig, Optimisation
from model.rl import train_rl
from model.sft import train_sft
from tests.model.random_sessions import Batch, Layout, Story, tiny_model
from tests.model.ranks import on_ranks
from tests.model.toys import TOY_RL, TOY_SFT, toy_bundle, toy_sessions

STORY = Story([[5, 6], [7]], [[11], [12, 13]], [1, 1])
LORA = AdapterConfig(rank=2, alpha=4)
STEPS = Optimisation(steps=2, batch_size=3, learning_rate=1e-2, warmup=0, ema_decay=0.5, checkpoint_every=1)
SFT = dataclasses.replace(TOY_SFT, lora=LORA, optimisation=STEPS)
RL = dataclasses.replace(TOY_RL, lora=LORA, optimisation=STEPS)
TRAININGS = pytest.mark.parametrize(("train", "config"), [(train_sft, SFT), (train_rl, RL)], ids=["sft", "rl"])


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    return toy_sessions(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    return toy_bundle().save(tmp_path_factory.mktemp("parent") / "model")


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(("expert", "counted"), [("understanding", 7), ("generation", 7), ("both", 14)])
def test_the_named_expert_learns_alone_and_its_updates_fold_into_its_weights(expert, counted):
    model, batch = tiny_model(), Batch([STORY], Layout())
    names = set(model.state_dict())
    with torch.no_grad():
        before = batch.packed(model).velocity
    adapt(model, dataclasses.replace(LORA, expert=expert), seed=0)
    with torch.no_grad():
        assert torch.equal(batch.packed(model).velocity, before)
    output = batch.packed(model)
    (output.velocity.sum() + output.text_logits.sum()).backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert len(trained) == 2 * counted * 2  # A and B of every projection, two layers
    assert all(("moe_gen" in name) == (expert == "generation") for name in trained) or expert == "both"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.05)
        adapted = batch.packed(model).velocity
        plain = folded(model, model.state_dict())
        assert set(plain) == names
        fresh = tiny_model()
        fresh.load_state_dict(plain)
        assert (adapted - before).abs().max() > 1e-3
        assert torch.allclose(batch.packed(fresh).velocity, adapted, atol=1e-4)


def test_adapters_depend_on_their_seed_alone_and_rank_0_asks_for_none():
    drawn = []
    for seed in (1, 1, 2):
        model = tiny_model()
        torch.rand(len(drawn))
        adapt(model, LORA, seed)
        drawn.append(torch.cat([p.flatten() for name, p in model.named_parameters() if "lora_A" in name]))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    model = tiny_model()
    adapt(model, AdapterConfig(), 1)
    assert not is_adapted(model) and all(p.requires_grad for p in model.language_model.parameters())


@TRAININGS
def test_a_training_moves_the_projections_alone_and_resumes_to_the_same_bits(train, config, parent, sessions, tmp_path):
    def cut(_step, _metrics):
        raise KeyboardInterrupt

    train(config, parent, sessions, tmp_path / "whole", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        train(config, parent, sessions, tmp_path / "cut", cut)
    train(config, parent, sessions, tmp_path / "cut", lambda *_: None)
    before, after, again = (weights(folder) for folder in (parent, tmp_path / "whole", tmp_path / "cut"))
    assert before.keys() == after.keys(), "no adapter is left"
    assert all(torch.equal(value, again[name]) for name, value in after.items())
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved and all("_proj" in name and name.endswith(".weight") for name in moved)
    assert not is_adapted(load(tmp_path / "whole").model)
    kept = load_file(next((tmp_path / "whole.work").glob("checkpoint*")) / "weights.safetensors")
    assert kept and all("lora_" in name for name in kept), "a checkpoint holds what learns"


def test_recomputed_activations_leave_what_adapters_learn_as_it_is(parent, sessions, tmp_path):
    for recompute in (False, True):
        config = dataclasses.replace(SFT, optimisation=dataclasses.replace(STEPS, recompute=recompute))
        train_sft(config, parent, sessions, tmp_path / str(recompute), lambda *_: None)
    kept, again = weights(tmp_path / "False"), weights(tmp_path / "True")
    for name, value in kept.items():
        torch.testing.assert_close(value, again[name], atol=1e-4, rtol=1e-4)


def test_two_ranks_publish_the_model_that_one_does(parent, sessions, tmp_path):
    train_sft(SFT, parent, sessions, tmp_path / "1", lambda *_: None)
    on_ranks(2, train_sft, SFT, parent, sessions, tmp_path / "2", print)
    one, two = weights(tmp_path / "1"), weights(tmp_path / "2")
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("ranks", [1, 2])
def test_adapters_of_a_model_in_low_precision_learn_in_its_precision(parent, sessions, tmp_path, ranks):
    load(parent, "bfloat16").save(tmp_path / "parent")
    config = dataclasses.replace(RL, kl="none")
    on_ranks(ranks, train_rl, config, tmp_path / "parent", sessions, tmp_path / "model", print)
    before, after = weights(tmp_path / "parent"), weights(tmp_path / "model")
    assert {value.dtype for value in after.values()} == {torch.bfloat16}
    assert any(not torch.equal(value, before[name]) for name, value in after.items())
