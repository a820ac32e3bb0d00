"""Experience of one RL iteration: groups of sampled sessions, judged, filtered and compared."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.errors import UserError
from data.loader import Example, SessionFolder
from model import distributed, objectives
from model.bundle import Bundle
from model.config import RlConfig
from model.judges import METRICS, Score, SessionScores
from model.judges.exact import judge_many
from model.rollout import rollout
from model.tallies import Tally, means, tally
from model.trainer import numpy_generator
from model.trajectories import Exploration, GoOn, Trajectory

REWARDED = ("IF", "CC", "GA", "success")  # metrics, in the order of `RlConfig.rewards`


@dataclass(frozen=True)
class Experience:
    """Judged trajectories of one iteration. Tensors are (b, g, t): groups, members, turns."""

    examples: Sequence[Example]
    trajectories: list[Trajectory]  # b * g of them
    window: Exploration | None  # None: pictures were sampled without noise on the way
    metrics: dict[str, Tensor]
    rewards: Tensor
    exists: Tensor
    before: Tensor  # the member whose turn before it started from
    healthy: Tensor
    learns: Tensor  # what the filter leaves to the pictures
    image_advantages: Tensor
    text_advantages: Tensor

    def pieces(self) -> Iterator[tuple[int, Trajectory]]:
        """Row and trajectory of everything that was sampled: what a member did before it went on elsewhere, too."""
        return _pieces(self.trajectories)


def _pieces(trajectories: Sequence[Trajectory]) -> Iterator[tuple[int, Trajectory]]:
    return ((row, piece) for row, whole in enumerate(trajectories) for piece in (*whole.stubs, whole))


def explore(bundle: Bundle, sessions: SessionFolder, config: RlConfig, step: int) -> Experience:
    """Sample and judge this rank's groups of one iteration."""
    seed = config.optimisation.seed
    random = numpy_generator(seed, step, "rl sessions")
    chosen = random.choice(len(sessions), size=min(config.sessions, len(sessions)), replace=False)
    mine = distributed.shard(chosen.tolist(), "rl.sessions")
    examples = [sessions[index].first(config.max_turns) for index in mine]
    window = draw_window(config, random)
    with torch.no_grad(), distributed.whole(bundle.model):
        trajectories = rollout(
            bundle,
            examples,
            config.sampling,
            seed=seed,
            step=step,
            group_size=config.group_size,
            shared_noise=config.shared_noise,
            exploration=window,
            go_on=_go_on(examples, config),
        )
    check_distinct(trajectories, config, window)
    return judge(examples, trajectories, window, config)


def draw_window(config: RlConfig, random: np.random.Generator) -> Exploration | None:
    """The iteration's stochastic steps; None where no policy learns from them, since noise only blurs the reward."""
    if config.objective != "grpo" or "image" not in config.policies:
        return None
    low, high = config.window_range
    start = int(random.integers(low, max(low, high - config.window) + 1))
    return Exploration(config.sde, config.noise_level, start, config.window)


def _go_on(examples: Sequence[Example], config: RlConfig) -> GoOn | None:
    match config.resample:
        case "healthy":
            return functools.partial(healthy_siblings, examples, config.filter_threshold)
        case "best":
            return functools.partial(best_siblings, examples, config.rewards)
    return None


def best_siblings(examples: Sequence[Example], weights: Sequence[float], played: Sequence[Trajectory]) -> list[int]:
    """For each trajectory in play the position of the member of its group whose last turn earned most.

    All members of a group then start a turn from one picture: what they earn differs by what they do in it alone.
    """
    best: dict[int, tuple[float, int]] = {}
    for position, (trajectory, score) in enumerate(zip(played, _scores(examples, played), strict=True)):
        last = [(score.turns[-1][name], weight) for name, weight in zip(REWARDED, weights, strict=True)]
        present = [(value, weight) for value, weight in last if isinstance(value, float)]
        earned = sum(value * weight for value, weight in present) / (sum(weight for _, weight in present) or 1.0)
        best[trajectory.session] = max(best.get(trajectory.session, (-1.0, 0)), (earned, -position))
    return [-best[trajectory.session][1] for trajectory in played]


def healthy_siblings(examples: Sequence[Example], threshold: float, played: Sequence[Trajectory]) -> list[int]:
    """For each trajectory in play the position of the one it goes on from: corrupted ones take turns at the healthy
    members of their group, and stay where they are when there is none."""
    scores = _scores(examples, played)
    sound = [all(_following(turn) > threshold for turn in score.turns) for score in scores]
    healthy: dict[int, list[int]] = {}
    for position, trajectory in enumerate(played):
        if sound[position]:
            healthy.setdefault(trajectory.session, []).append(position)
    taken: dict[int, int] = {}
    sources = list(range(len(played)))
    for position, trajectory in enumerate(played):
        if not sound[position] and (offered := healthy.get(trajectory.session)):
            sources[position] = offered[taken.get(trajectory.session, 0) % len(offered)]
            taken[trajectory.session] = taken.get(trajectory.session, 0) + 1
    return sources


def _following(turn: Mapping[str, Score]) -> float:
    """Instruction following of a turn; an absence is no failure."""
    value = turn["IF"]
    return value if isinstance(value, float) else 1.0


def _scores(examples: Sequence[Example], trajectories: Sequence[Trajectory]) -> list[SessionScores]:
    """Of every trajectory; what several did alike is judged once."""
    alike = [(t.session, *map(id, t.turns)) for t in trajectories]
    chosen = list(dict(zip(alike, trajectories, strict=True)).values())
    sessions = [examples[t.session].first(len(t.turns)).session for t in chosen]
    scores = judge_many(sessions, [np.stack(t.images) for t in chosen])
    found = {(t.session, *map(id, t.turns)): score for t, score in zip(chosen, scores, strict=True)}
    return [found[key] for key in alike]


def judge(
    examples: Sequence[Example], trajectories: list[Trajectory], window: Exploration | None, config: RlConfig
) -> Experience:
    """Rewards and advantages of sampled trajectories; a turn counts for the member that made it, and only once."""
    turns = max(len(t.turns) for t in trajectories)
    flat = {name: torch.full((len(trajectories), turns), float("nan")) for name in METRICS}
    exists = torch.zeros(len(trajectories), turns, dtype=torch.bool)
    before = torch.tensor([t.member for t in trajectories])[:, None].repeat(1, turns)
    pieces = list(_pieces(trajectories))
    for (row, piece), score in zip(pieces, _scores(examples, [piece for _, piece in pieces]), strict=True):
        for turn in range(piece.own, len(piece.turns)):
            exists[row, turn], before[row, turn] = True, piece.before[turn]
            for name in METRICS:
                value = score.turns[turn][name]
                if isinstance(value, float):
                    flat[name][row, turn] = value
    shape = (len(examples), config.group_size, turns)
    metrics = {name: value.view(shape) for name, value in flat.items()}
    return compare(examples, trajectories, window, metrics, exists.view(shape), before.view(shape), config)


def compare(
    examples: Sequence[Example],
    trajectories: list[Trajectory],
    window: Exploration | None,
    metrics: dict[str, Tensor],
    exists: Tensor,
    before: Tensor,
    config: RlConfig,
) -> Experience:
    """Filter and compare within the groups."""
    rewards = objectives.combine_rewards(metrics, dict(zip(REWARDED, config.rewards, strict=True)))
    healthy = objectives.healthy_turns(metrics["IF"], exists, before, threshold=config.filter_threshold)
    learns = healthy if config.filter else exists
    advantages = functools.partial(
        objectives.advantages,
        rewards,
        before=before,
        grouping=config.advantage,
        scale=config.scale,
        minimum_spread=config.minimum_spread,
        bound=config.advantage_clip,
    )
    image = advantages(learns)
    text = merge(trajectories, image if config.mask_text else advantages(exists))
    if config.objective == "best":
        image = objectives.best_alone(image)
    return Experience(examples, trajectories, window, metrics, rewards, exists, before, healthy, learns, image, text)


def merge(trajectories: list[Trajectory], advantages: Tensor) -> Tensor:
    """Advantages (b, g, t) of traces, where what several members did alike is replayed once, with the sum of theirs."""
    merged = advantages.flatten(0, 1).clone()
    first: dict[int, int] = {}
    for row, piece in _pieces(trajectories):
        for turn in range(piece.own, len(piece.turns)):
            owner = first.setdefault(id(piece.turns[turn]), row)
            if owner != row:
                merged[owner, turn] += merged[row, turn]
                merged[row, turn] = 0
    return merged.view_as(advantages)


def check_distinct(trajectories: list[Trajectory], config: RlConfig, window: Exploration | None) -> None:
    """A group of identical samples has nothing to compare and means that its noise was shared by mistake.

    Where sampled traces alone tell samples apart, a group may agree.
    """
    size = config.group_size
    groups = [trajectories[first : first + size] for first in range(0, len(trajectories), size)]
    same = [group for group in groups if _identical(group)]
    drawn = window is not None or not config.shared_noise
    speaks = config.sampling.write_trace and config.sampling.temperature > 0
    if size > 1 and same and (drawn or not speaks):
        raise UserError(
            f"All {size} samples of session {same[0][0].session} are identical",
            "Set rl.noise_level above 0 and rl.window to at least 1, or rl.shared_noise to false",
        )


def _identical(group: Sequence[Trajectory]) -> bool:
    first, *others = ([(t.trace, t.latents) for t in member.turns] for member in group)
    return all(
        mine[0] == theirs[0] and torch.equal(mine[1], theirs[1])
        for other in others
        for mine, theirs in zip(first, other, strict=True)
    )


def summarise(experience: Experience, config: RlConfig) -> dict[str, float]:
    """What to watch of one iteration's samples, on all ranks; means leave absences out."""
    exists, rewards = experience.exists, experience.rewards
    present = exists & ~rewards.isnan()
    spread = objectives.spread(rewards, present, over=(1,)).squeeze(1)
    own = [turn for _, piece in experience.pieces() for turn in piece.turns[piece.own :]]
    itself = torch.arange(exists.shape[1])[:, None]
    watched = {
        "filtered_share": tally(~experience.healthy[exists]),
        "zero_spread_share": tally(spread[present.any(1)] <= config.minimum_spread),
        "absent_share": tally(~present[exists]),
        "resampled_share": tally((experience.before != itself)[exists]),
        "trace_length": tally(torch.tensor([len(turn.trace) for turn in own])),
        "truncated_share": tally(torch.tensor([turn.truncated for turn in own])),
    }
    if experience.window is not None:
        watched["window_start"] = Tally(experience.window.start, 1)
    for name, values in {"reward": rewards, **experience.metrics}.items():
        given = exists & ~values.isnan()
        watched[name] = tally(values[given])
        for turn in range(exists.shape[-1]):
            watched[f"{name}_turn_{turn + 1}"] = tally(values[..., turn][given[..., turn]])
    return means([{name: found for name, found in watched.items() if found.number}], 1)
