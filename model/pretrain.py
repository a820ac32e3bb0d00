"""The base model: single-turn edits, seeing and drawing, from scratch, on scenes rendered as they are needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from data.loader import Lesson, render_lessons
from data.phrases import vocabulary
from data.scenes import World
from model.bundle import Bundle
from model.config import ModelConfig, SupervisedConfig
from model.configuration import EditConfig
from model.modeling import EditModel
from model.packing import Pictures
from model.supervised import encode_lessons, train_supervised
from model.tokenizer import special_ids, word_tokenizer
from model.trainer import Report, Trainer, numpy_generator


def new_bundle(config: ModelConfig, vae: AutoencoderKL, world: World, words: Sequence[str], seed: int) -> Bundle:
    """A randomly initialised model for the pictures and words of a world."""
    tokenizer = word_tokenizer(words)
    torch.manual_seed(seed)
    model = EditModel(
        EditConfig.small(
            vocab_size=len(tokenizer),
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            kv_heads=config.kv_heads,
            mlp=config.mlp,
            vit_width=config.vit_width,
            vit_layers=config.vit_layers,
            vit_heads=config.vit_heads,
            vit_patch=config.vit_patch,
            image_size=world.image_size,
            latent_channels=vae.config["latent_channels"],
        )
    )
    return Bundle(model, vae, tokenizer, special_ids(tokenizer))


def train_base(
    config: SupervisedConfig, model: ModelConfig, vae_folder: Path, world: World, folder: Path, report: Report
) -> Path:
    """Train the base model of a world: first to read (a picture says where what is meant stands), then to draw as well.

    Finding what is meant is learned from few words among many, whose gradient drawing would drown.

    Args:
        vae_folder: a finished autoencoder.
        folder: where the finished model goes; a run that was cut off goes on from `<folder>.work`.
    """
    if folder.exists():
        return folder
    vae = AutoencoderKL.from_pretrained(vae_folder).requires_grad_(False)
    bundle = new_bundle(model, vae, world, vocabulary(world), config.optimisation.seed)

    def batches(step: int) -> tuple[Sequence[Lesson], Sequence[Pictures]]:
        seed = int(numpy_generator(config.optimisation.seed, step, "base lessons").integers(2**31))
        shares = config.described, config.chained, config.dictated
        lessons = render_lessons(world, config.optimisation.batch_size, seed, *shares)
        if step < config.reading * config.optimisation.steps:
            lessons = [dataclasses.replace(lesson, asks=len(lesson.instructions)) for lesson in lessons]
        return lessons, encode_lessons(bundle, lessons)

    work = folder.with_name(f"{folder.name}.work")
    train_supervised(bundle, config, batches, Trainer(bundle.model, config.optimisation, work), report, "base")
    return bundle.publish(work, folder)
