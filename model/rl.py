"""Multi-turn RL (Edit-R2): groups of free-running sessions, advantages per turn, a joint update of traces and pictures.

One iteration: draw sessions and a window of stochastic steps; roll every session out `group_size` times; judge every
turn; filter trajectories that a failed turn has corrupted; compare within the group; replay all turns in packed
forwards and step.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.errors import UserError
from data.loader import Example, SessionFolder
from model import objectives
from model.bundle import Bundle, load
from model.config import RlConfig
from model.judges import METRICS
from model.judges.exact import judge_many
from model.modeling import EditModel
from model.replay import Replay, Stored, replay, store
from model.rollout import Exploration, Trajectory, rollout
from model.trainer import Report, Trainer, numpy_generator, replace_folder

ON_POLICY_TOLERANCE = 1e-4  # of the ratio before the first update


@dataclass(frozen=True)
class Experience:
    """Judged trajectories of one iteration. Tensors are (b, g, t)."""

    examples: Sequence[Example]
    trajectories: list[Trajectory]
    window: Exploration
    metrics: dict[str, Tensor]
    rewards: Tensor
    exists: Tensor
    healthy: Tensor
    image_advantages: Tensor
    text_advantages: Tensor


def train_rl(config: RlConfig, parent: Path, sessions_folder: Path, folder: Path, report: Report) -> Path:
    """Improve a model on sessions of which it sees the source picture and the instructions only.

    Args:
        parent: folder of the model to start from, which is also the reference policy.
        sessions_folder: a build of sessions; its split `train` is used.
        folder: where the finished model goes; a run that was cut off goes on from `<folder>.work`.

    Raises:
        UserError: the replay does not reproduce the rollout, samples of a group are identical, or a loss is not finite.
    """
    if folder.exists():
        return folder
    bundle = load(parent)
    reference = load(parent).model.requires_grad_(False) if config.kl != "none" else None
    sessions = SessionFolder(sessions_folder, "train", targets=False)
    work = folder.with_name(f"{folder.name}.work")
    trainer = Trainer(bundle.model, config.optimisation, work)
    for step in trainer.steps():
        bundle.model.eval()
        experience = explore(bundle, sessions, config, step)
        metrics = summarise(experience, config)
        for update in range(config.updates):
            metrics |= improve(bundle, reference, trainer, experience, config, on_policy=update == 0)
        named = {f"rl/{key}": value for key, value in metrics.items()}
        report(step, {**named, "progress": (step + 1) / config.optimisation.steps})
    trainer.use_average()
    replace_folder(bundle.save(work / "finished"), folder)
    return folder


# --- experience -------------------------------------------------------------------------------------------------------


def explore(bundle: Bundle, sessions: SessionFolder, config: RlConfig, step: int) -> Experience:
    """Sample and judge the groups of one iteration."""
    seed = config.optimisation.seed
    random = numpy_generator(seed, step, "rl sessions")
    chosen = random.choice(len(sessions), size=min(config.sessions, len(sessions)), replace=False)
    examples = [sessions[int(i)].first(config.max_turns) for i in chosen]
    low, high = config.window_range
    start = int(random.integers(low, max(low, high - config.window) + 1))
    window = Exploration(config.sde, config.noise_level, start, config.window)
    with torch.no_grad():
        trajectories = rollout(
            bundle,
            examples,
            config.sampling,
            seed=seed,
            step=step,
            group_size=config.group_size,
            shared_noise=config.shared_noise,
            exploration=window,
        )
    _check_distinct(trajectories, config.group_size)
    return judge(examples, trajectories, window, config)


def judge(
    examples: Sequence[Example], trajectories: list[Trajectory], window: Exploration, config: RlConfig
) -> Experience:
    """Rewards and advantages of sampled trajectories."""
    scores = judge_many([examples[t.session].session for t in trajectories], [np.stack(t.images) for t in trajectories])
    turns = max(len(t.turns) for t in trajectories)
    flat = {name: torch.full((len(trajectories), turns), float("nan")) for name in METRICS}
    exists = torch.zeros(len(trajectories), turns, dtype=torch.bool)
    for row, score in enumerate(scores):
        for turn, values in enumerate(score.turns):
            exists[row, turn] = True
            for name in METRICS:
                value = values[name]
                if isinstance(value, float):
                    flat[name][row, turn] = value
    shape = (len(examples), config.group_size, turns)
    metrics, exists = {name: value.view(shape) for name, value in flat.items()}, exists.view(shape)
    weights = dict(zip(("IF", "CC", "GA"), config.rewards, strict=True))
    rewards = objectives.combine_rewards(metrics, weights)
    healthy = objectives.healthy_turns(metrics["IF"], exists, threshold=config.filter_threshold)
    learns = healthy if config.filter else exists
    compare = functools.partial(
        objectives.advantages,
        rewards,
        grouping=config.advantage,
        minimum_spread=config.minimum_spread,
        bound=config.advantage_clip,
    )
    image = compare(learns)
    text = image if config.mask_text else compare(exists)
    return Experience(examples, trajectories, window, metrics, rewards, exists, healthy, image, text)


def _check_distinct(trajectories: list[Trajectory], group_size: int) -> None:
    """A group of identical samples has nothing to compare and means that its noise was shared by mistake."""
    for first in range(0, len(trajectories), group_size):
        windows = [t.turns[0].window for t in trajectories[first : first + group_size]]
        followings = torch.stack([w.following for w in windows if w is not None])
        if group_size > 1 and torch.equal(followings, followings[:1].expand_as(followings)):
            raise UserError(
                f"All {group_size} samples of session {trajectories[first].session} are identical",
                "Set rl.noise_level above 0 and rl.window to at least 1",
            )


def summarise(experience: Experience, config: RlConfig) -> dict[str, float]:
    """What to watch of one iteration's samples; means leave absences out."""
    exists, rewards = experience.exists, experience.rewards
    spread = torch.where(exists, rewards, torch.nan).std(1) if rewards.shape[1] > 1 else torch.zeros(1)
    result = {
        "reward": _mean(rewards[exists]),
        "filtered_share": 1 - _mean(experience.healthy[exists].float()),
        "zero_spread_share": _mean((spread[exists.any(1)] <= config.minimum_spread).float()),
        "trace_length": float(np.mean([len(t.trace) for x in experience.trajectories for t in x.turns])),
        "window_start": float(experience.window.start),
    }
    for name, values in experience.metrics.items():
        result[name] = _mean(values[exists])
        for turn in range(exists.shape[-1]):
            result[f"{name}_turn_{turn + 1}"] = _mean(values[..., turn][exists[..., turn]])
    return {key: value for key, value in result.items() if value == value}


def _mean(values: Tensor) -> float:
    return values.nanmean().item()


# --- learning ---------------------------------------------------------------------------------------------------------


def improve(
    bundle: Bundle,
    reference: EditModel | None,
    trainer: Trainer,
    experience: Experience,
    config: RlConfig,
    *,
    on_policy: bool,
) -> dict[str, float]:
    """One optimiser step on an iteration's experience, replayed in chunks of `replay_batch` trajectories."""
    watched: list[dict[str, float]] = []

    def losses() -> Iterator[Tensor]:
        for first in range(0, len(experience.trajectories), config.replay_batch):
            chosen = experience.trajectories[first : first + config.replay_batch]
            stored = store(bundle, experience.examples, chosen, config.sampling, experience.window)
            result = replay(bundle.model, stored, config.sampling, experience.window)
            if on_policy:
                check_on_policy(result, stored)
            with torch.no_grad():
                old = replay(reference, stored, config.sampling, experience.window) if reference is not None else None
            loss, metrics = joint_loss(result, stored, old, experience, first, config)
            watched.append(metrics)
            yield loss

    update = trainer.update(losses())
    return update | {key: float(np.mean([m[key] for m in watched])) for key in watched[0]}


def check_on_policy(result: Replay, stored: Stored) -> None:
    """Before the first update the replay must give the rollout's own log-probabilities."""
    image = (result.step.logprob - stored.logprobs).detach().exp().sub(1).abs().max().item()
    text = (result.text_logprobs - stored.text_logprobs).detach().exp().sub(1)
    worst = max(image, text.abs().max().item() if text.numel() else 0.0)
    if not worst < ON_POLICY_TOLERANCE:
        raise UserError(
            f"The replay does not reproduce the rollout: a ratio is off 1 by {worst:.2g} before the first update",
            "Sample and replay with the same precision, guidance and temperature",
        )


def joint_loss(
    result: Replay, stored: Stored, reference: Replay | None, experience: Experience, first: int, config: RlConfig
) -> tuple[Tensor, dict[str, float]]:
    """Clipped policy losses of pictures and traces plus the KL to the reference.

    Every turn weighs the same, whatever its trace's length; the chunk's sum is divided by the turns of the iteration.
    """
    image_advantages = experience.image_advantages.flatten(0, 1)[first:]
    text_advantages = experience.text_advantages.flatten(0, 1)[first:]
    turns = experience.exists.sum()
    log_ratio = result.step.logprob - stored.logprobs
    if config.ratio_guard:
        log_ratio = objectives.guarded_log_ratio(
            result.step.logprob, stored.logprobs, result.step.mean, stored.means, result.step.std
        )
    advantage = image_advantages[result.picture_row, result.picture_turn]
    image = objectives.clipped_policy_loss(log_ratio, advantage, config.clip).sum() / (turns * config.window)
    text_log_ratio = result.text_logprobs - stored.text_logprobs
    token_advantage = text_advantages[result.text_row, result.text_turn]
    token_loss = objectives.clipped_policy_loss(text_log_ratio, token_advantage, config.text_clip)
    text = (token_loss * _share_of_trace(result)).sum() / turns
    kl = _kl(result, reference, config).sum() / (turns * config.window)
    loss = config.kl_weight * kl
    if "image" in config.policies:
        loss = loss + config.image_weight * image
    if "text" in config.policies:
        loss = loss + config.text_weight * text
    with torch.no_grad():
        metrics = {
            "image_loss": image.item(),
            "text_loss": text.item(),
            "kl": kl.item(),
            "entropy": _mean(result.text_entropy) if len(result.text_entropy) else 0.0,
            "image_ratio": _mean(log_ratio.exp()),
            "image_clip_share": _mean((log_ratio.exp().sub(1).abs() > config.clip).float()),
            "text_ratio": _mean(text_log_ratio.exp()) if len(text_log_ratio) else 1.0,
            "text_clip_share": _mean((text_log_ratio.exp().sub(1).abs() > config.text_clip).float())
            if len(text_log_ratio)
            else 0.0,
        }
    return loss, metrics


def _share_of_trace(result: Replay) -> Tensor:
    """(M,) one over the length of the trace that a decision belongs to."""
    if not len(result.text_row):
        return torch.zeros(0)
    trace = result.text_row * (result.text_turn.max() + 1) + result.text_turn
    return 1.0 / torch.bincount(trace)[trace]


def _kl(result: Replay, reference: Replay | None, config: RlConfig) -> Tensor:
    if reference is None:
        return torch.zeros(1)
    if config.kl == "velocity":
        return objectives.velocity_kl(result.velocity, reference.velocity)
    return objectives.latent_kl(result.step.mean, reference.step.mean, result.step.std)
