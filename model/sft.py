"""Supervised fine-tuning: the base learns to keep track of a whole session."""

from __future__ import annotations

from pathlib import Path

from data.errors import UserError
from data.loader import Example, SessionFolder
from model import distributed
from model.adapters import adapt
from model.bundle import load
from model.config import SupervisedConfig
from model.corruption import Corruption
from model.supervised import told, train_supervised
from model.taught import TaughtSessions
from model.trainer import Report, Trainer
from model.validation import Validation


def train_sft(config: SupervisedConfig, parent: Path, sessions_folder: Path, folder: Path, report: Report) -> Path:
    """Fine-tune a model on ground-truth sessions.

    Args:
        parent: folder of the base model.
        sessions_folder: a build of sessions; its split `train` is used, and `validation` to look at.
        folder: where the finished model goes; a run that was cut off goes on from `<folder>.work`.
    """
    if folder.exists():
        return folder
    bundle = load(parent, device=distributed.device())
    size, seed = config.optimisation.batch_size, config.optimisation.seed
    batches = TaughtSessions(bundle, sessions_folder, config.labelled, size, seed, "sft.optimisation.batch_size")
    adapt(bundle.model, config.lora, seed)
    distributed.distribute(bundle.model, bundle.model.blocks)
    work = Trainer(bundle.model, config.optimisation, folder.with_name(f"{folder.name}.work"))
    corruption = Corruption(bundle, config, batches, batches.any, work.folder)
    validation = Validation(bundle, config, held_out_sessions(config, sessions_folder), work)
    train_supervised(bundle, config, told(bundle, config, batches, corruption), work, report, "sft", validation)
    return bundle.publish(work.folder, folder)


def held_out_sessions(config: SupervisedConfig, folder: Path) -> list[Example]:
    """The first sessions of the split `validation`, as many as are looked at. UserError where they are missing."""
    if not config.validation.every:
        return []
    sessions = SessionFolder(folder, "validation", targets=False)
    if not len(sessions):
        raise UserError(f"{folder} has no validation sessions", "Set sessions.validation, or sft.validation.every to 0")
    return [sessions[index] for index in range(min(len(sessions), config.validation.sessions))]
