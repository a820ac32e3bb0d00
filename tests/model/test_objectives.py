import pytest
import torch

from model import objectives, samplers

NAN = float("nan")


def test_rewards_share_the_weight_of_what_is_absent():
    metrics = {
        "IF": torch.tensor([[[1.0, 1.0]]]),
        "CC": torch.tensor([[[NAN, 0.5]]]),
        "GA": torch.tensor([[[0.0, 0.0]]]),
    }
    combined = objectives.combine_rewards(metrics, {"IF": 0.3, "CC": 0.3, "GA": 0.4})
    assert torch.allclose(combined, torch.tensor([[[0.3 / 0.7, 0.45]]]))


def test_a_reward_with_every_metric_absent_is_absent():
    absent = torch.full((1, 1, 1), NAN)
    assert objectives.combine_rewards({"IF": absent, "CC": absent}, {"IF": 0.5, "CC": 0.5}).isnan().all()


def test_a_failed_turn_teaches_and_its_successors_do_not():
    following = torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [NAN, 1.0, 1.0]]])
    exists = torch.tensor([[[True, True, True], [True, True, True], [True, True, False]]])
    healthy = objectives.healthy_turns(following, exists)
    assert healthy.tolist() == [[[True, True, False], [True, False, False], [True, True, False]]]


def test_a_member_that_went_on_from_a_healthy_sibling_teaches_again():
    following = torch.tensor([[[0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    exists = torch.ones(1, 3, 3, dtype=torch.bool)
    before = torch.tensor([[[0, 1, 0], [1, 1, 1], [2, 2, 2]]])
    healthy = objectives.healthy_turns(following, exists, before)
    assert healthy.tolist() == [[[True, True, True], [True, True, True], [True, False, False]]]
    # What it goes on from counts, not what it did itself.
    before = torch.tensor([[[0, 1, 1], [1, 1, 1], [2, 2, 1]]])
    assert objectives.healthy_turns(following, exists, before)[0, :, 2].tolist() == [True, True, True]
    rewards = torch.tensor([[[0.0, 1.0], [0.8, 0.7]]])
    learns, before = torch.ones(1, 2, 2, dtype=torch.bool), torch.tensor([[[0, 1], [1, 1]]])
    improved = objectives.advantages(rewards, learns, before, grouping="improvement")
    # Both started turn 2 from 0.8: gains of 0.2 and -0.1.
    assert torch.allclose(improved[0, :, 1], torch.tensor([1.0, -1.0]), atol=1e-3)


def test_turn_advantages_ignore_turns_that_do_not_teach():
    rewards = torch.tensor([[[1.0, 0.2], [0.0, 0.4], [0.5, 99.0]]])
    learns = torch.tensor([[[True, True], [True, True], [True, False]]])
    result = objectives.advantages(rewards, learns, grouping="turn")
    assert torch.allclose(result[0, :, 0], torch.tensor([1.2247, -1.2247, 0.0]), atol=1e-3)
    assert torch.allclose(result[0, :, 1], torch.tensor([-1.0, 1.0, 0.0]), atol=2e-3)


def test_without_scale_a_small_difference_teaches_little():
    rewards, learns = torch.tensor([[[1.0, 0.50], [0.0, 0.48]]]), torch.ones(1, 2, 2, dtype=torch.bool)
    plain = objectives.advantages(rewards, learns, grouping="turn", scale="none")
    assert torch.allclose(plain, torch.tensor([[[0.5, 0.01], [-0.5, -0.01]]]))
    assert (objectives.advantages(rewards, learns, grouping="turn")[..., 1].abs() > 0.9).all()


def test_session_grouping_makes_easy_turns_positive_as_released():
    rewards = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    learns = torch.ones(1, 2, 2, dtype=torch.bool)
    assert (objectives.advantages(rewards, learns, grouping="session")[0, :, 0] > 0.9).all()
    assert (objectives.advantages(rewards, learns, grouping="turn") == 0).all()


def test_improvement_rewards_what_a_turn_adds():
    rewards = torch.tensor([[[0.2, 0.6], [0.6, 0.6]]])
    learns = torch.ones(1, 2, 2, dtype=torch.bool)
    result = objectives.advantages(rewards, learns, grouping="improvement")
    assert result[0, 0, 1] > 0 > result[0, 1, 1]


def test_groups_without_spread_and_absent_rewards_teach_nothing():
    rewards = torch.tensor([[[0.5, NAN], [0.5, 1.0]]])
    learns = torch.ones(1, 2, 2, dtype=torch.bool)
    result = objectives.advantages(rewards, learns, grouping="turn", minimum_spread=1e-3)
    assert result.isfinite().all() and (result == 0).all()


def test_clipping_is_pessimistic_on_both_sides():
    log_ratio = torch.tensor([2.0, -2.0, 2.0, -2.0]).log1p().nan_to_num(-5.0)
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0])
    loss = objectives.clipped_policy_loss(log_ratio, advantage, 0.2)
    assert torch.allclose(loss, torch.tensor([-1.2, -torch.tensor(-5.0).exp(), 3.0, 0.8]), atol=1e-5)


def test_the_gradient_at_ratio_one_is_the_policy_gradient():
    log_ratio = torch.zeros(3, requires_grad=True)
    advantage = torch.tensor([1.0, -2.0, 0.5])
    objectives.clipped_policy_loss(log_ratio, advantage, 1e-5).sum().backward()
    assert torch.allclose(log_ratio.grad, -advantage)


def forward_process(velocity, advantage, old=1.0, strength=1.0):
    given = torch.full((1, 1, 1), velocity), torch.full((1, 1, 1), old), torch.zeros(1, 1, 1)
    return objectives.forward_process_loss(
        *given, torch.tensor([0.5]), torch.tensor([advantage]), strength=strength, bound=5.0
    )


def test_forward_process_loss_by_hand():
    # v = 1.5, v_old = 1, true 0, t = 0.5: the good policy is off by 0.75, the bad one (v- = 0.5) by 0.25; the error
    # over its own size leaves 0.75 and 0.25. A = 2 gives r = 0.7.
    assert torch.allclose(forward_process(1.5, 2.0), torch.tensor([5 * (0.7 * 0.75 + 0.3 * 0.25)]))
    # Half as far: v+ = 1.25, v- = 0.75.
    assert torch.allclose(
        forward_process(1.5, 2.0, strength=0.5), torch.tensor([5 * (0.7 * 0.625 + 0.3 * 0.375) / 0.5])
    )
    assert forward_process(1.5, 0.0).item() == 0, "what teaches nothing costs nothing"
    assert torch.allclose(forward_process(1.5, 50.0), forward_process(1.5, 5.0)), "r is clipped"


def test_forward_process_gradient_at_the_old_policy_is_the_advantage_times_flow_matching():
    for advantage in (2.0, -2.0):
        velocity = torch.full((1, 1, 1), 1.0, requires_grad=True)
        loss = objectives.forward_process_loss(
            velocity, velocity, torch.zeros(1, 1, 1), torch.tensor([0.5]), torch.tensor([advantage])
        )
        loss.sum().backward()
        # d/dv of t^2 v^2 / (t |v|), the denominator held: 2 t.
        assert torch.allclose(velocity.grad, torch.tensor(advantage * 2 * 0.5))


def test_forward_process_learning_raises_the_reward():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.SiLU(), torch.nn.Linear(64, 2))
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)

    def velocity(x, t):
        return network(torch.cat([x, t.view(-1, 1, 1).expand(-1, 1, 1)], -1))

    means = []
    for _ in range(60):
        with torch.no_grad():
            x = torch.randn(128, 1, 2)
            for i in range(8):
                x = x - velocity(x, torch.full((128,), 1 - i / 8)) / 8
        reward = -(x[:, 0] - torch.tensor([1.0, -1.0])).norm(dim=1)
        means.append(reward.mean().item())
        advantage = objectives.advantages(
            reward.view(8, 16, 1), torch.ones(8, 16, 1, dtype=torch.bool), grouping="turn"
        ).flatten()
        t, noise = torch.rand(128), torch.randn(128, 1, 2)
        seen = velocity(x + t.view(-1, 1, 1) * (noise - x), t)
        loss = objectives.forward_process_loss(seen, seen, noise - x, t, advantage)
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
    assert sum(means[-5:]) / 5 > means[0] + 0.5, (means[0], means[-5:])


@pytest.mark.parametrize("kind", ["flow", "cps"])
def test_guard_takes_the_drift_of_the_mean_out_of_the_ratio_of_a_samplers_own_step(kind):
    torch.manual_seed(0)
    x, v, noise = torch.randn(3, 4096, 4, 4)
    how = {"t": 0.75, "t_next": 0.625, "kind": kind, "noise_level": 0.7}
    old = samplers.step(x, v, noise=noise, **how)
    new = samplers.step(x, v + 0.5, next_x=old.next, **how)
    guarded = objectives.guarded_log_ratio(old.next, new.mean, old.mean, old.deviation)
    assert abs(guarded.mean()) < 0.05 * guarded.std()
    assert abs((new.logprob - old.logprob).mean()) > 0.1 * (new.logprob - old.logprob).std()
    drift = ((new.mean - old.mean) ** 2).flatten(1).mean(1) / (2 * old.deviation**2)
    if kind == "flow":  # whose log-probability has the Gaussian's factors
        as_published = (new.logprob - old.logprob + drift) * old.deviation
        torch.testing.assert_close(guarded, as_published, rtol=1e-3, atol=1e-6)


def test_the_sampled_kl_is_in_the_mean_that_of_the_policy_that_sampled_from_the_current_one():
    old, new = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 0.1, 0.4])
    each = objectives.sampled_kl((new / old).log())
    assert (each > 0).all() and objectives.sampled_kl(torch.zeros(1)).item() == 0
    assert (old * each).sum().item() == pytest.approx((old * (old / new).log()).sum().item(), rel=1e-5)


def test_spread_is_that_of_the_values_that_count():
    values = torch.tensor([[[1.0], [3.0], [torch.nan], [100.0]]])
    counted = torch.tensor([[[True], [True], [False], [False]]])
    assert objectives.spread(values, counted, (1,)).item() == pytest.approx(1.0)
