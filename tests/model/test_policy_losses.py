"""The losses of an update as configured, against the formulas on what a model that has moved replays."""

import dataclasses

import pytest
import torch

from model import learning, objectives, rl
from model.bundle import load
from model.experience import explore
from model.policy_losses import joint_loss, policy_losses
from model.replay import replay, transition
from tests.model.toys import TOY_RL, toy_sessions

CONFIG = dataclasses.replace(TOY_RL, replay_batch=64, minibatches=1, clip=1e-4, text_clip=2e-2)


@pytest.fixture(scope="module")
def moved(parent, tmp_path_factory):
    """The model before RL, one that has moved since it sampled, and the experience, every turn with an advantage."""
    before, after = load(parent), load(parent)
    found = explore(before, rl.practice(toy_sessions(tmp_path_factory.mktemp("data"))), CONFIG, 0)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in after.model.parameters():
            parameter += 0.02 * parameter.std(correction=0) * torch.randn(parameter.shape, generator=random)
    image, text = (torch.randn(found.exists.shape, generator=random) * found.exists for _ in range(2))
    return before, after, dataclasses.replace(found, image_advantages=image, text_advantages=text)


def losses(moved, **changes):
    """Parts of the loss, and what they were made from."""
    before, after, found = moved
    config = dataclasses.replace(CONFIG, **changes)
    (chunk,) = learning.prepare(after, before.model, found, learning.excerpts(found, config), config, 0)
    with torch.no_grad():
        result = replay(after.model, chunk.stored, config.sampling)
        return policy_losses(result, chunk, found, config)[0], result, chunk, found


def clipped(log_ratio, advantage, bound):
    ratio = log_ratio.exp()
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - bound, 1 + bound))


@pytest.mark.parametrize("sde", ["cps", "flow"])
@pytest.mark.parametrize("guard", [False, True])
def test_pictures_pay_by_their_own_clip_and_with_the_guard_if_asked(moved, sde, guard):
    before, after, found = moved
    moved = before, after, dataclasses.replace(found, window=dataclasses.replace(found.window, kind=sde))
    parts, result, chunk, found = losses(moved, ratio_guard=guard)
    step = transition(chunk.stored, chunk.done, result.velocity, found.window)
    old = chunk.done.means
    log_ratio = step.logprob - chunk.done.logprobs
    if guard:
        log_ratio = ((step.next - old) * (step.mean - old)).flatten(1).mean(1) / step.deviation
    advantage = found.image_advantages.flatten(0, 1)[result.picture_row, result.picture_turn]
    expected, exchanged = (
        clipped(log_ratio, advantage, bound).sum() / (found.exists.sum() * CONFIG.window)
        for bound in (CONFIG.clip, CONFIG.text_clip)
    )
    torch.testing.assert_close(parts["image"], expected)
    assert (expected - exchanged).abs() > 1e-3 * expected.abs(), "or the clip does nothing here"


def test_traces_pay_by_their_own_clip_every_turn_alike(moved):
    parts, result, chunk, found = losses(moved)
    log_ratio = result.text_logprobs - chunk.stored.text_logprobs
    advantage = found.text_advantages.flatten(0, 1)[result.text_row, result.text_turn]
    expected, exchanged = (
        sum(
            clipped(log_ratio, advantage, bound)[result.text_trace == trace].mean()
            for trace in result.text_trace.unique()
        )
        / found.exists.sum()
        for bound in (CONFIG.text_clip, CONFIG.clip)
    )
    torch.testing.assert_close(parts["text"], expected)
    assert (expected - exchanged).abs() > 1e-3 * expected.abs(), "or the clip does nothing here"


@pytest.mark.parametrize("kind", ["velocity", "latent"])
def test_the_kl_is_the_distance_to_the_reference_of_velocities_or_of_steps(moved, kind):
    parts, result, chunk, found = losses(moved, kl=kind)
    mine, other = result.velocity, chunk.reference
    if kind == "velocity":
        each = ((mine - other) ** 2).flatten(1).mean(1)
    else:
        steps = [transition(chunk.stored, chunk.done, velocity, found.window) for velocity in (mine, other)]
        each = ((steps[0].mean - steps[1].mean) ** 2).flatten(1).mean(1) / (2 * steps[0].std ** 2)
    torch.testing.assert_close(parts["kl"], each.sum() / (found.exists.sum() * CONFIG.window))
    assert parts["kl"] > 0


def test_distances_by_hand():
    mine, other = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]]), torch.tensor([[[0.0, 0.0]], [[0.0, 4.0]]])
    assert objectives.velocity_kl(mine, other).tolist() == [2.5, 8.0]
    assert objectives.latent_kl(mine, other, torch.tensor([0.5, 2.0])).tolist() == [5.0, 1.0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 0.5 * 2 + 4 * 3 + 0.1 * 5),
        ({"kl": "none"}, 0.5 * 2 + 4 * 3),
        ({"kl_weight": 0.0}, 0.5 * 2 + 4 * 3),
        ({"policies": ("text",)}, 4 * 3 + 0.1 * 5),
        ({"policies": ("image",)}, 0.5 * 2 + 0.1 * 5),
        ({"kl": "latent", "kl_weight": 2.0}, 0.5 * 2 + 4 * 3 + 2 * 5),
    ],
)
def test_the_loss_weighs_what_learns(changes, expected):
    parts = {"image": torch.tensor(2.0), "text": torch.tensor(3.0), "kl": torch.tensor(5.0)}
    config = dataclasses.replace(CONFIG, **{"image_weight": 0.5, "text_weight": 4.0, "kl_weight": 0.1} | changes)
    assert joint_loss(parts, config).item() == pytest.approx(expected)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_picture_that_was_sampled_under_guidance_is_replayed_under_it(parent, tmp_path, guidance):
    sampling = dataclasses.replace(CONFIG.sampling, text_guidance=guidance, image_guidance=2.0)
    config, bundle = dataclasses.replace(CONFIG, sampling=sampling, filter=False, kl_weight=1.0), load(parent)
    found = explore(bundle, rl.practice(toy_sessions(tmp_path)), config, 0)
    (chunk,) = learning.prepare(bundle, bundle.model, found, learning.excerpts(found, config), config, 0)
    assert chunk.stored.batch.guided == (guidance > 1)
    with torch.no_grad():
        result = replay(bundle.model, chunk.stored, sampling)
    step = transition(chunk.stored, chunk.done, result.velocity, found.window)
    torch.testing.assert_close(step.logprob, chunk.done.logprobs, atol=1e-5, rtol=0)
    torch.testing.assert_close(chunk.reference, result.velocity, msg="the reference is guided too")
