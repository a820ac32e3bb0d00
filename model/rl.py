"""Multi-turn RL (Edit-R2): groups of free-running sessions, advantages per turn, a joint update of traces and pictures.

One iteration: draw sessions and a window of stochastic steps; roll every session out `group_size` times; judge every
turn; filter trajectories that a failed turn has corrupted; compare within the group (`model.experience`); replay all
turns in packed forwards and step (`model.learning`).
"""

from __future__ import annotations

import dataclasses
import fnmatch
from pathlib import Path

from data.errors import UserError
from data.loader import SessionFolder
from model import distributed
from model.adapters import adapt
from model.bundle import load
from model.config import RlConfig
from model.experience import explore, summarise
from model.learning import improve
from model.modeling import EditModel
from model.policy_losses import pays_kl
from model.taught import Anchor
from model.trainer import Report, Trainer
from model.watch import Watch, draw_samples

GENERATION = ("*_moe_gen*", "vae2llm.*", "llm2vae.*", "time_embedder.*", "latent_pos_embed.*")
"""Names of the parameters that only the generation of pictures uses."""


def train_rl(config: RlConfig, parent: Path, sessions_folder: Path, folder: Path, report: Report) -> Path:
    """Improve a model on sessions of which it sees the source picture and the instructions only.

    Args:
        parent: folder of the model to start from, which is also the reference policy.
        sessions_folder: a build of sessions; its split `practice` is used, `train` where there is none.
        folder: where the finished model goes; a run that was cut off goes on from `<folder>.work`. Pictures of samples
            go to `<folder>.samples`.

    Raises:
        UserError: settings contradict each other, the replay does not reproduce the rollout, samples of a group are
            identical, no turn of an iteration has a reward, or a loss is not finite.
    """
    if folder.exists():
        return folder
    check(config)
    bundle = load(parent, device=distributed.device())
    adapt(bundle.model, config.lora, config.optimisation.seed)
    distributed.distribute(bundle.model, bundle.model.blocks)
    reference = _reference(parent) if pays_kl(config) else None
    sessions = practice(sessions_folder)
    work = folder.with_name(f"{folder.name}.work")
    trainer = Trainer(bundle.model, config.optimisation, work, generation_rates(bundle.model, config))
    anchor = Anchor(bundle, config, sessions_folder) if config.anchor.sessions else None
    watch = Watch(bundle, sessions_folder, config, trainer.notes)
    bundle.model.eval()
    for step in trainer.steps():
        learning = in_turn(config, step)
        experience = explore(bundle, sessions, learning, step)
        metrics = summarise(experience, learning)
        if "reward" not in metrics:
            raise UserError(
                f"The judge gave no reward for any turn of iteration {step}",
                "Practise on sessions that hold what the judge reads, and weigh a metric that they have in rl.rewards",
            )
        metrics |= watch.look(step, metrics["reward"])
        if config.samples_every and step % config.samples_every == 0 and distributed.rank() == 0:
            draw_samples(experience, samples_folder(folder) / f"iteration-{step:05d}.png")
        metrics |= improve(bundle, reference, trainer, experience, learning, step, anchor)
        named = {f"rl/{key}": value for key, value in metrics.items()}
        report(step, {**named, "progress": (step + 1) / config.optimisation.steps})
        if config.stop_on_alert and metrics.get("alert"):
            break
    trainer.use_average()
    return bundle.publish(work, folder)


def check(config: RlConfig) -> None:
    """Refuse settings that together would teach nothing or fail in some iterations, though each alone is possible.

    Raises:
        UserError: names the settings.
    """
    if not any(config.rewards):
        raise UserError("rl.rewards are all 0", "Weigh at least one of IF, CC, GA and the success of a turn")
    if "image" in config.policies and config.objective == "grpo":
        (low, high), size = config.window_range, config.window
        # The last step of `cps` ends without noise of its own.
        noisy = config.sampling.points - 1 - (config.sde == "cps")
        if not low + size <= high <= noisy:
            raise UserError(
                f"rl.window {size} in rl.window_range [{low}, {high}) does not fit into the {noisy} noisy steps that "
                f"rl.sampling.points {config.sampling.points} makes with rl.sde {config.sde}",
                f"Let window_range hold the window and end at {noisy} at most, or set rl.sampling.points higher",
            )


def _reference(parent: Path) -> EditModel:
    """The model that the policy must stay close to."""
    model = load(parent, device=distributed.device()).model.requires_grad_(False)
    distributed.distribute(model, model.blocks)
    return model


def in_turn(config: RlConfig, step: int) -> RlConfig:
    """What an iteration learns. With `alternate` one policy at a time: traces on pictures without noise of their own,
    pictures after greedy traces, so that the reward speaks of what learns alone."""
    if not config.alternate:
        return config
    policy = config.policies[step % len(config.policies)]
    if policy == "text":
        return dataclasses.replace(config, policies=(policy,), shared_noise=True)
    return dataclasses.replace(
        config, policies=(policy,), sampling=dataclasses.replace(config.sampling, temperature=0.0)
    )


def samples_folder(folder: Path) -> Path:
    """Where the pictures of a run's samples lie, beside its model."""
    return folder.with_name(f"{folder.name}.samples")


def practice(folder: Path) -> SessionFolder:
    """The sessions that RL may see."""
    split = "practice" if (folder / "practice.jsonl").is_file() else "train"
    return SessionFolder(folder, split, targets=False)


def generation_rates(model: EditModel, config: RlConfig) -> dict[str, float]:
    """Factors of the learning rate by pattern of names, for the trainer."""
    if config.generation_learning_rate is None:
        return {}
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    factor = config.generation_learning_rate / config.optimisation.learning_rate
    return {pattern: factor for pattern in GENERATION if fnmatch.filter(learning, pattern)}
