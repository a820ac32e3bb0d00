import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from data.build import SessionsConfig, build
from data.errors import UserError
from mlflow_config.catalogue import describe
from model import experience, learning, rl
from model.bundle import load
from model.config import AnchorConfig, Optimisation, RlConfig, SamplingConfig
from model.experience import Experience, best_siblings, explore, healthy_siblings, merge, summarise
from model.judges import METRICS, Absence, SessionScores
from model.replay import transition
from model.trainer import Trainer
from model.trajectories import Trajectory
from tests.model.toys import toy_bundle

CONFIG = RlConfig(
    sessions=2,
    group_size=3,
    replay_batch=4,
    epochs=2,
    sampling=SamplingConfig(points=5, temperature=1.0, max_trace=5),
    window_range=(0, 3),
    kl="velocity",
    kl_weight=0.01,
    optimisation=Optimisation(
        steps=3, learning_rate=1e-3, warmup=0, weight_decay=0.0, ema_decay=0.0, checkpoint_every=1
    ),
)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    config = SessionsConfig(train=6, validation=0, turns=(1, 3))
    return build(config, tmp_path_factory.mktemp("data") / "sessions", "sessions")


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    return toy_bundle().save(tmp_path_factory.mktemp("parent") / "model")


def train(parent, sessions, folder, config=CONFIG, stop_after=None):
    seen = []

    def report(step, metrics):
        seen.append(metrics)
        if step == stop_after:
            raise KeyboardInterrupt

    rl.train_rl(config, parent, sessions, folder, report)
    return seen


def gradient(bundle, found, config):
    """Of all that an iteration's optimiser steps learn, no weight moving between them."""

    class Work:
        updates = 0

        def update(self, losses):
            self.updates += 1
            for loss in losses:
                loss.backward()
            return {}

    bundle.model.zero_grad()
    work = Work()
    learning.improve(bundle, None, work, found, config, 0)
    assert work.updates == config.epochs * config.minibatches
    return torch.cat([p.grad.flatten() for p in bundle.model.parameters() if p.grad is not None])


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_it_learns_reports_and_resumes_to_the_same_bits(parent, sessions, tmp_path):
    seen = train(parent, sessions, tmp_path / "whole")
    assert len(seen) == 3
    for name in ("reward", "IF", "CC", "IF_turn_1", "filtered_share", "zero_spread_share", "image_ratio", "text_ratio"):
        assert f"rl/{name}" in seen[0]
    assert any(not torch.equal(v, weights(parent)[k]) for k, v in weights(tmp_path / "whole").items())
    with pytest.raises(KeyboardInterrupt):
        train(parent, sessions, tmp_path / "cut", stop_after=1)
    assert train(parent, sessions, tmp_path / "cut") == seen[1:], "it goes on, it does not start again"
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(tmp_path / "cut")[name]), name


def test_an_anchor_learns_ground_truth_beside_the_reward_and_resumes_to_the_same_bits(parent, sessions, tmp_path):
    config = dataclasses.replace(CONFIG, anchor=AnchorConfig(sessions=2, noise_draws=1))
    seen = train(parent, sessions, tmp_path / "whole", config)
    assert seen[0]["rl/anchor_flow_loss"] > 0 < seen[0]["rl/anchor_trace_loss"]
    train(parent, sessions, tmp_path / "free")
    assert any(not torch.equal(v, weights(tmp_path / "free")[k]) for k, v in weights(tmp_path / "whole").items())
    with pytest.raises(KeyboardInterrupt):
        train(parent, sessions, tmp_path / "cut", config, stop_after=1)
    train(parent, sessions, tmp_path / "cut", config)
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(tmp_path / "cut")[name]), name


NFT = dataclasses.replace(CONFIG, objective="nft", shared_noise=False, nft_draws=2)


def test_forward_process_learning_resumes_to_the_same_bits(parent, sessions, tmp_path):
    seen = train(parent, sessions, tmp_path / "whole", NFT)
    assert seen[0]["rl/image_loss"] and "rl/text_ratio" in seen[0]
    assert "rl/image_ratio" not in seen[0] and "rl/window_start" not in seen[0], "it has neither ratio nor window"
    with pytest.raises(KeyboardInterrupt):
        train(parent, sessions, tmp_path / "cut", NFT, stop_after=1)
    train(parent, sessions, tmp_path / "cut", NFT)
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(tmp_path / "cut")[name]), name


def test_practice_sessions_are_used_where_there_are_any(sessions, tmp_path):
    folder = build(SessionsConfig(train=2, practice=3, validation=0), tmp_path / "sessions", "sessions")
    assert len(rl.practice(folder)) == 3 and len(rl.practice(folder)[0].images) == 1
    assert len(rl.practice(sessions)) == 6


def test_the_generation_expert_learns_at_its_own_rate(parent, sessions, tmp_path):
    one = dataclasses.replace(CONFIG.optimisation, steps=1)
    config = dataclasses.replace(CONFIG, generation_learning_rate=0.0, kl="none", epochs=1, optimisation=one)
    train(parent, sessions, tmp_path / "text", config)
    before, after = weights(parent), weights(tmp_path / "text")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and not any("moe_gen" in name or "llm2vae" in name or "time_embedder" in name for name in moved)


def test_policies_may_learn_in_turns(parent, sessions, tmp_path):
    config = dataclasses.replace(CONFIG, alternate=True, kl="none", epochs=1)
    turns = [rl.in_turn(config, step) for step in range(3)]
    assert [one.policies for one in turns] == [("image",), ("text",), ("image",)]
    assert [one.sampling.temperature for one in turns] == [0.0, 1.0, 0.0], "greedy traces while pictures learn"
    assert rl.in_turn(dataclasses.replace(NFT, alternate=True), 1).shared_noise, "still pictures while traces learn"
    assert rl.in_turn(CONFIG, 1) is CONFIG
    seen = train(parent, sessions, tmp_path / "whole", config)
    assert ["rl/image_ratio" in one for one in seen] == [True, False, True]
    with pytest.raises(KeyboardInterrupt):
        train(parent, sessions, tmp_path / "cut", config, stop_after=1)
    train(parent, sessions, tmp_path / "cut", config)
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(tmp_path / "cut")[name]), name


@pytest.mark.parametrize("sharpness", [1, 40], ids=["soft", "sharp"])
def test_a_model_of_low_precision_measures_its_ratios_against_the_first_replay(sessions, tmp_path, sharpness):
    """Logits as large as those of a trained model are so coarse that single words come out a third more or less
    likely."""
    bundle = toy_bundle()
    bundle.model.get_output_embeddings().weight.data *= sharpness
    bundle.model.to(torch.bfloat16)
    parent = bundle.save(tmp_path / "parent")
    one = dataclasses.replace(CONFIG.optimisation, steps=1)
    (seen,) = train(parent, sessions, tmp_path / "low", dataclasses.replace(CONFIG, epochs=1, optimisation=one))
    assert seen["rl/image_ratio"] == seen["rl/text_ratio"] == 1.0
    after = weights(tmp_path / "low")
    assert after["llm2vae.weight"].dtype == torch.bfloat16
    assert any(not torch.equal(v, weights(parent)[k]) for k, v in after.items())


def test_a_finished_run_is_not_run_again(parent, sessions, tmp_path):
    (tmp_path / "done").mkdir()
    assert train(parent, sessions, tmp_path / "done") == []


@pytest.mark.parametrize("policy", ["image", "text"])
def test_each_policy_can_learn_alone(parent, sessions, tmp_path, policy):
    one = dataclasses.replace(CONFIG.optimisation, steps=1)
    config = dataclasses.replace(CONFIG, policies=(policy,), kl="none", epochs=1, filter=False, optimisation=one)
    train(parent, sessions, tmp_path / policy, config)
    before, after = weights(parent), weights(tmp_path / policy)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert ("lm_head.weight" in " ".join(moved)) == (policy == "text")
    assert ("llm2vae" in " ".join(moved)) == (policy == "image")


@pytest.mark.parametrize(("precision", "off"), [("float32", 0.01), ("bfloat16", 0.2)])
def test_a_replay_that_differs_from_the_rollout_stops_the_run(parent, sessions, tmp_path, monkeypatch, precision, off):
    store = learning.store
    monkeypatch.setattr(
        learning, "store", lambda *a, **k: store(*a, **k)._replace(text_logprobs=store(*a, **k).text_logprobs + off)
    )
    with pytest.raises(UserError, match="does not reproduce the rollout"):
        train(load(parent, precision).save(tmp_path / "parent"), sessions, tmp_path / "off")
    assert not (tmp_path / "off").exists()


def test_in_low_precision_single_decisions_may_round_apart_and_not_their_mean():
    noise = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    noise[::500] *= 20
    rounded = [{"text": 0.02 * half, "image": 4e-4 * half} for half in noise.split(5_000)]
    assert rounded[0]["text"].max() > 0.5
    learning.check_on_policy(rounded, exact=False)
    for off in ({"text": 0.05 * noise}, {"image": 4e-3 * noise}, {"text": torch.full((3,), torch.nan)}):
        with pytest.raises(UserError, match=f"{next(iter(off))}.* off in the mean"):
            learning.check_on_policy([off], exact=False)
    one = torch.zeros(10_000).index_fill(0, torch.tensor([7]), 2e-4)
    for policy in ("text", "image"):
        with pytest.raises(UserError, match="a ratio is off 1"):
            learning.check_on_policy([{policy: one}], exact=True)
        learning.check_on_policy([{policy: one / 4}], exact=True)
        learning.check_on_policy([{policy: one}, {}], exact=False)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("changes", [{"temperature": 1.1}, {"text_guidance": 3.0}])
def test_a_replay_of_other_settings_is_refused_in_every_precision(parent, sessions, precision, parts, changes):
    bundle = load(parent)
    bundle.model.to(precision)
    config = dataclasses.replace(CONFIG, filter=False, minibatches=parts, kl="none")
    found = explore(bundle, rl.practice(sessions), config, 0)
    gradient(bundle, found, config)
    other = dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, **changes))
    with pytest.raises(UserError, match="does not reproduce the rollout"):
        gradient(bundle, found, other)


def test_a_group_of_identical_samples_stops_the_run(parent, sessions, tmp_path):
    with pytest.raises(UserError, match="identical"):
        greedy = dataclasses.replace(CONFIG.sampling, temperature=0.0)
        train(parent, sessions, tmp_path / "same", dataclasses.replace(CONFIG, noise_level=0.0, sampling=greedy))
    with pytest.raises(UserError, match=r"rl\.shared_noise to false"):
        train(parent, sessions, tmp_path / "same", dataclasses.replace(NFT, shared_noise=True, sampling=greedy))


def test_absent_rewards_and_missing_turns_never_reach_a_statistic(parent, sessions):
    from data.loader import SessionFolder

    experience = explore(load(parent), SessionFolder(sessions, "train", targets=False), CONFIG, 0)
    assert experience.rewards[experience.exists].isfinite().all()
    assert (experience.image_advantages[~experience.exists] == 0).all()
    assert not experience.exists.all(), "sessions of different lengths, or this shows nothing"
    assert all(value == value for value in summarise(experience, CONFIG).values())


def failing(monkeypatch, fails):
    """A judge by whom a turn follows unless `fails(member, turn)`; everything else is absent."""

    def judged(examples, trajectories):
        return [
            SessionScores(
                tuple(
                    {
                        **dict.fromkeys(("CC", "GA", "GA_cumulative", "success"), Absence.NOT_APPLICABLE),
                        "IF": 0.0 if fails(t.before[k], t.turns[k], t.member if k >= t.own else None, k) else 1.0,
                    }
                    for k in range(len(t.turns))
                ),
                1.0,
                (None,) * len(t.turns),
            )
            for t in trajectories
        ]

    monkeypatch.setattr(experience, "_scores", judged)


def test_corrupted_members_take_turns_at_the_healthy_ones(monkeypatch):
    def played(session, member, turns=1):
        return Trajectory(session, [], turns=[None] * turns, member=member, before=[member] * turns)

    failing(monkeypatch, lambda before, turn, member, k: member in (1, 2, 4) or before == 9)
    group = [played(0, member) for member in range(5)]
    lost = [played(1, 1), played(1, 2)]
    assert healthy_siblings([None, None], 0.0, [*group, *lost]) == [0, 0, 3, 3, 0, 5, 6]


def test_resampling_learns_later_turns_from_healthy_prefixes(parent, sessions, tmp_path, monkeypatch):
    def fails(before, turn, member, k):
        return k == 0 and before == 0 and member == 0

    config = dataclasses.replace(CONFIG, resample="healthy")
    failing(monkeypatch, fails)
    found: Experience = explore(load(parent), rl.practice(sessions), config, 0)
    long = found.exists.all(-1).all(-1)
    assert long.any() and found.before[long][:, 0, 1].tolist() == [1] * int(long.sum())
    assert found.healthy[found.exists].all(), "what went on from a healthy picture teaches"
    assert found.metrics["IF"][:, 0, 0].eq(0).all(), "the failure counts where it was made, and there alone"
    assert found.metrics["IF"][..., 1:].nan_to_num(1.0).eq(1).all()
    assert summarise(found, config)["resampled_share"] > 0
    without = explore(load(parent), rl.practice(sessions), CONFIG, 0)
    assert not without.healthy[:, 0, 1:].any(), "without it the failure silences what follows"
    train(parent, sessions, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        train(parent, sessions, tmp_path / "cut", config, stop_after=1)
    train(parent, sessions, tmp_path / "cut", config)
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(tmp_path / "cut")[name]), name


def test_all_go_on_from_the_best_of_their_group(parent, sessions, monkeypatch):
    config = dataclasses.replace(CONFIG, resample="best", policies=("text",), kl="none", mask_text=True)
    found = explore(load(parent), rl.practice(sessions), config, 0)
    long = found.exists.all(-1).all(-1)
    after = found.before[long][..., 1:]
    assert long.any() and (after == after[:, :1]).all(), "one picture for the whole group"
    assert (found.rewards[long, :, 0].gather(1, after[:, :1, 0])[:, 0] == found.rewards[long, :, 0].amax(1)).all()
    group = [Trajectory(0, [], turns=[None], member=member) for member in range(3)]
    judged = [
        SessionScores(({"IF": 1.0, "CC": consistency, "GA": Absence.NOT_APPLICABLE, "success": 1.0},), 1.0, (None,))
        for consistency in (0.5, 0.9, 0.9)
    ]
    monkeypatch.setattr(experience, "_scores", lambda examples, trajectories: judged)
    assert best_siblings([None], (0.3, 0.3, 0.4, 0.0), group) == [1, 1, 1], "the first of equals"


def test_what_members_wrote_alike_is_replayed_once_with_the_sum_of_their_advantages():
    same, other = object(), object()
    group = [Trajectory(0, [], turns=turns, member=k) for k, turns in enumerate(([same], [other], [same]))]
    merged = merge(group, torch.tensor([[[0.5], [-1.0], [0.5]]]))
    assert merged.tolist() == [[[1.0], [-1.0], [0.0]]]


def test_merging_leaves_the_gradient_as_it_is(parent, sessions, monkeypatch):
    def judged(examples, trajectories):
        absent = dict.fromkeys(("CC", "GA", "GA_cumulative", "success"), Absence.NOT_APPLICABLE)
        return [
            SessionScores(
                tuple({**absent, "IF": sum(turn.trace) % 5 / 4} for turn in t.turns), 1.0, (None,) * len(t.turns)
            )
            for t in trajectories
        ]

    monkeypatch.setattr(experience, "_scores", judged)
    config = dataclasses.replace(
        CONFIG, resample="best", policies=("text",), kl="none", group_size=6,
        sampling=dataclasses.replace(CONFIG.sampling, temperature=0.2), epochs=1,
    )  # fmt: skip

    def learned():
        bundle = load(parent)
        found = explore(bundle, rl.practice(sessions), config, 0)
        return len(learning.excerpts(found, config)), gradient(bundle, found, config)

    fewest, beside = learned()
    monkeypatch.setattr(learning, "together", lambda listed: listed)
    fewer, merged = learned()
    monkeypatch.setattr(experience, "merge", lambda trajectories, advantages: advantages)
    more, apart = learned()
    assert fewest < fewer < more and apart.abs().max() > 0
    for other in (merged, beside):
        assert (other - apart).abs().max() < 1e-5 * apart.abs().max() + 1e-7


def test_best_pictures_of_a_session_are_replayed_in_one_context(parent, sessions, monkeypatch):
    config = dataclasses.replace(
        CONFIG, sessions=6, resample="best", policies=("image",), objective="best", kl="none", shared_noise=False,
        filter=False, epochs=1,
    )  # fmt: skip
    bundle = load(parent)
    found = explore(bundle, rl.practice(sessions), config, 0)
    listed = learning.excerpts(found, config)
    pictures = {(one.row_of(turn), turn) for one in listed for turn in one.pictures}
    assert pictures == set(map(tuple, found.image_advantages.flatten(0, 1).nonzero().tolist()))
    assert ((found.image_advantages > 0).sum(1) <= 1).all(), "one of a group teaches"
    chained = gradient(bundle, found, config)
    monkeypatch.setattr(learning, "chained", lambda listed: listed)
    assert len(listed) < len(learning.excerpts(found, config))
    apart = gradient(bundle, found, config)
    assert apart.abs().max() > 0 and (chained - apart).abs().max() < 1e-5 * apart.abs().max() + 1e-7


def test_members_that_drew_alike_each_keep_their_advantage(parent, sessions):
    """With shared noise a trace decides the picture: members with one trace hold one picture, and two advantages."""
    config = dataclasses.replace(NFT, shared_noise=True, policies=("image",), kl="none", group_size=6)
    bundle = load(parent)
    found = explore(bundle, rl.practice(sessions), config, 0)
    first = found.trajectories[0]
    twin = dataclasses.replace(found.trajectories[1], turns=first.turns)
    found.trajectories[1] = twin
    found.image_advantages[0, :2, 0] = torch.tensor([0.5, 0.25])
    listed = learning.excerpts(found, config)
    assert {(0, 0), (1, 0)} <= {(one.row_of(turn), turn) for one in listed for turn in one.pictures}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"rewards": (0.0, 0.0, 0.0, 0.0)}, "rl.rewards are all 0"),
        ({"window_range": (0, 4)}, "does not fit into the 3 noisy steps"),
        ({"window_range": (2, 3)}, "does not fit"),
        ({"sde": "flow", "window_range": (0, 5)}, "does not fit into the 4 noisy steps"),
    ],
)
def test_settings_that_teach_nothing_together_are_refused_before_anything_is_loaded(changes, problem, tmp_path):
    config = dataclasses.replace(CONFIG, **changes)
    with pytest.raises(UserError, match=problem):
        rl.train_rl(config, tmp_path / "none", tmp_path / "none", tmp_path / "model", lambda *_: None)
    rl.check(dataclasses.replace(config, policies=("text",), rewards=CONFIG.rewards))


def test_an_iteration_without_any_reward_says_so(parent, sessions, tmp_path, monkeypatch):
    nothing = Absence.INVALID_ANNOTATION

    def scores(_sessions, drawn):
        turn = dict.fromkeys(METRICS, nothing)
        return [SessionScores((turn,) * len(images), nothing, (None,) * len(images)) for images in drawn]

    monkeypatch.setattr(experience, "judge_many", scores)
    with pytest.raises(UserError, match="no reward for any turn of iteration 0"):
        train(parent, sessions, tmp_path / "model")


def test_only_what_learns_is_shown_as_a_loss_and_traces_drift_once_a_weight_has_moved(parent, sessions, tmp_path):
    one = dataclasses.replace(CONFIG.optimisation, steps=1)
    (both,) = train(parent, sessions, tmp_path / "both", dataclasses.replace(CONFIG, optimisation=one))
    assert both["rl/kl"] > 0 and both["rl/text_kl"] > 0 and {"rl/image_loss", "rl/text_loss"} <= both.keys()
    alone = dataclasses.replace(CONFIG, policies=("text",), kl="none", epochs=1, optimisation=one)
    (seen,) = train(parent, sessions, tmp_path / "text", alone)
    assert "rl/text_loss" in seen and not {"rl/kl", "rl/image_loss"} & seen.keys()
    assert seen["rl/text_kl"] == pytest.approx(0, abs=1e-8)
    assert all(describe(name) for name in (both | seen) if name != "progress")


def test_what_is_watched_is_the_mean_over_all_updates_of_the_iteration(parent, sessions, tmp_path, monkeypatch):
    once = dataclasses.replace(CONFIG.optimisation, steps=1, gradient_clip=1e9)
    config = dataclasses.replace(CONFIG, minibatches=2, clip=1e-4, text_clip=1e-2, optimisation=once)
    image, text, entropy, norms = [], [], [], []
    summed = {"image_loss": 0.0, "text_loss": 0.0, "kl": 0.0, "loss": 0.0}
    losses, update = learning.policy_losses, Trainer.update

    def watch(result, chunk, found, config):
        parts, metrics = losses(result, chunk, found, config)
        image.append(transition(chunk.stored, chunk.done, result.velocity, found.window).logprob - chunk.done.logprobs)
        text.append(result.text_logprobs - chunk.stored.text_logprobs)
        entropy.append(result.text_entropy)
        for shown, name in (("image_loss", "image"), ("text_loss", "text"), ("kl", "kl")):
            summed[shown] += parts[name].item() / 4
        summed["loss"] += (parts["image"] + parts["text"] + config.kl_weight * parts["kl"]).item() / 4
        return parts, metrics

    def norm(trainer, given):
        done = update(trainer, given)
        squares = [p.grad.square().sum() for p in trainer.parameters.values() if p.grad is not None]
        norms.append(torch.stack(squares).sum().sqrt().item())
        return done

    monkeypatch.setattr(learning, "policy_losses", watch)
    monkeypatch.setattr(Trainer, "update", norm)
    (seen,) = train(parent, sessions, tmp_path / "model", config)
    image, text, entropy = (torch.cat(found).detach() for found in (image, text, entropy))
    expected = {
        **summed,
        "image_ratio": image.exp().mean(),
        "text_ratio": text.exp().mean(),
        "image_clip_share": ((image.exp() - 1).abs() > 1e-4).float().mean(),
        "text_clip_share": ((text.exp() - 1).abs() > 1e-2).float().mean(),
        "text_kl": (text.exp() - 1 - text).mean(),
        "entropy": entropy.mean(),
        "gradient_norm": sum(norms) / 4,
    }
    assert len(norms) == 4 and len({round(value, 6) for value in norms}) > 2, "or the last one says the same"
    for name, value in expected.items():
        assert seen[f"rl/{name}"] == pytest.approx(float(value), rel=1e-4, abs=1e-7) and value != 0, name
    assert 0 < seen["rl/image_clip_share"] < 1 > seen["rl/text_clip_share"] > 0


def test_what_is_added_up_does_not_depend_on_how_many_are_replayed_at_once(parent, sessions, tmp_path):
    one = dataclasses.replace(CONFIG, epochs=1, optimisation=dataclasses.replace(CONFIG.optimisation, steps=1))
    few = train(parent, sessions, tmp_path / "few", dataclasses.replace(one, replay_batch=2))[0]
    many = train(parent, sessions, tmp_path / "many", dataclasses.replace(one, replay_batch=64))[0]
    for name in ("rl/image_loss", "rl/text_loss", "rl/kl"):
        assert few[name] == pytest.approx(many[name], rel=1e-3, abs=1e-7), name
    assert few["rl/absent_share"] == 0


@pytest.mark.parametrize("objective", ["grpo", "nft", "best"])
def test_minibatches_share_out_what_one_update_learns(parent, sessions, objective):
    config = dataclasses.replace(CONFIG, objective=objective, kl="none", epochs=1)
    bundle = load(parent)
    found = explore(bundle, rl.practice(sessions), config, 0)

    whole, shared = (
        gradient(bundle, found, dataclasses.replace(config, minibatches=parts)) / parts for parts in (1, 2)
    )
    assert whole.abs().max() > 0 and (whole - shared).abs().max() < 1e-5 * whole.abs().max() + 1e-7


def test_only_turns_that_teach_are_replayed(parent, sessions):
    found = explore(load(parent), rl.practice(sessions), CONFIG, 0)
    silent = dataclasses.replace(
        found,
        image_advantages=torch.zeros_like(found.image_advantages),
        text_advantages=torch.zeros_like(found.text_advantages).index_put_(
            (torch.tensor(0), torch.tensor(1), torch.tensor(0)), torch.tensor(1.0)
        ),
    )
    (only,) = learning.excerpts(silent, dataclasses.replace(CONFIG, kl_weight=0.0))
    assert (only.row, only.pictures, only.traces, only.length) == (1, (), (0,), 1)
    paid = learning.excerpts(silent, CONFIG)
    assert sum(len(one.pictures) for one in paid) == int(found.learns.sum()), (
        "the KL is paid where the filter lets learn"
    )
