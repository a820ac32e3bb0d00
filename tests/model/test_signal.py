import pytest
import torch

from data.build import SessionsConfig, build
from model import signal
from model.config import RlConfig, SamplingConfig
from model.rl import practice
from tests.model.toys import toy_bundle


def test_cosines_by_hand():
    one = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0])}
    other = {"a": torch.tensor([0.0, 5.0]), "b": torch.tensor([5.0])}
    assert signal.cosine(one, one) == pytest.approx(1.0)
    assert signal.cosine(one, other) == pytest.approx(20 / (5 * 50**0.5))
    nothing = {name: torch.zeros_like(value) for name, value in one.items()}
    assert signal.cosine(one, nothing) != signal.cosine(one, nothing), "no gradient has no direction"


def test_each_expert_has_its_own_parameters():
    gradients = dict.fromkeys(["layers.0.mlp_moe_gen.up.weight", "llm2vae.weight", "lm_head.weight"], torch.ones(1))
    assert list(signal.expert(gradients, generation=True)) == ["layers.0.mlp_moe_gen.up.weight", "llm2vae.weight"]
    assert list(signal.expert(gradients, generation=False)) == ["lm_head.weight"]


def test_the_halves_together_are_the_whole(tmp_path):
    bundle = toy_bundle()
    folder = build(SessionsConfig(train=4, validation=0, turns=(1, 2)), tmp_path / "sessions", "sessions")
    config = RlConfig(
        sessions=4, group_size=3, sampling=SamplingConfig(points=5, temperature=1.0, max_trace=4), window_range=(0, 3)
    )
    table = signal.measure(bundle, practice(folder), config, 2)
    assert set(table) == {"image", "text"}
    assert all(-1 <= values["cosine"] <= 1 and values["gradient_norm"] > 0 for values in table.values())
    experience = signal.explore(bundle, practice(folder), config, 0)
    even, odd = signal.half_gradients(bundle, experience, config, 0)
    whole = signal._gradients(bundle, experience, signal.excerpts(experience, config), config, 0)
    for policy, gradients in whole.items():
        for name, gradient in gradients.items():
            assert torch.allclose(even[policy][name] + odd[policy][name], gradient, atol=1e-5), name


def test_settings_change_the_profile(tmp_path):
    params = tmp_path / "params.yaml"
    params.write_text("profiles: {p: {rl: {group_size: 4, optimisation: {steps: 3}}}}\n")
    config = signal.configured("p", ["objective=nft", "optimisation.seed=7", "window_range=[1, 2]"], params)
    assert (config.group_size, config.objective, config.window_range) == (4, "nft", (1, 2))
    assert (config.optimisation.steps, config.optimisation.seed) == (3, 7)
