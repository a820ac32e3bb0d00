"""The base model: seeing, drawing, recalling and edits without rules and references; scenes are rendered as needed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn

from data.loader import render_lessons
from data.phrases import vocabulary
from data.render import Pixels
from data.scenes import World, wider_than
from model import distributed
from model.ahead import ahead, workers
from model.bundle import Bundle, load
from model.config import ModelConfig, SupervisedConfig
from model.configuration import EditConfig
from model.ground_truth import Format, GroundTruth, Layout, fill, format_of, lay_out
from model.modeling import EditModel
from model.supervised import noise_of, train_supervised
from model.tokenizer import special_ids, word_tokenizer
from model.trainer import Report, Trainer, numpy_generator
from model.vae import stride_of


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
            latent_patch=config.latent_patch,
            image_size=world.image_size,
            latent_channels=vae.config["latent_channels"],
            vae_downsample=stride_of(vae.config["block_out_channels"]),
        )
    )
    return Bundle(model, vae, tokenizer, special_ids(tokenizer))


def knowing(bundle: Bundle, words: Sequence[str]) -> Bundle:
    """The bundle itself when it knows all words; else one that knows these, by random vectors where they are new.

    Its model grows in place; what it knew of a word it knows still.
    """
    known, model = bundle.tokenizer.get_vocab(), bundle.model
    if known.keys() >= set(words):
        return bundle
    tokenizer = word_tokenizer(words)
    pairs = [(row, known[word]) for word, row in tokenizer.get_vocab().items() if word in known]
    rows, old = (list(side) for side in zip(*pairs, strict=True))
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        grown = torch.randn(len(tokenizer), table.weight.shape[1]).to(table.weight) * table.weight.std()
        grown[rows] = table.weight.data[old]
        table.weight = nn.Parameter(grown)
    model.get_input_embeddings().num_embeddings = model.get_output_embeddings().out_features = len(tokenizer)
    model.config.llm["vocab_size"] = len(tokenizer)
    return dataclasses.replace(bundle, tokenizer=tokenizer, special=special_ids(tokenizer))


def train_base(
    config: SupervisedConfig, model: ModelConfig, vae_folder: Path, world: World, folder: Path, report: Report
) -> Path:
    """Train the base model of a world: first to read (a picture says where what is meant stands), then to draw as well.

    Finding what is meant is learned from few words among many, whose gradient drawing would drown.

    Args:
        model: sizes of a new model; one that it names to start from goes on learning instead.
        vae_folder: a finished autoencoder, that of the model to start from.
        folder: where the finished model goes; a run that was cut off goes on from `<folder>.work`.
    """
    if folder.exists():
        return folder
    device = distributed.device()
    words = vocabulary(wider_than(world) if config.wide else world)
    if model.start:
        torch.manual_seed(config.optimisation.seed)
        bundle = knowing(load(Path(model.start), device=device), words)
    else:
        vae = AutoencoderKL.from_pretrained(vae_folder).requires_grad_(False)
        bundle = new_bundle(model, vae, world, words, config.optimisation.seed)
        for module in (bundle.model, bundle.vae):
            cast(nn.Module, module).to(device)
    trainer = Trainer(bundle.model, config.optimisation, folder.with_name(f"{folder.name}.work"))
    form = format_of(bundle, (world.image_size, world.image_size))
    prepare = functools.partial(lessons_of, world, form, config)
    steps = ahead(prepare, trainer.step, config.optimisation.steps, workers(device))

    def truths(_step: int) -> GroundTruth:
        layout, images = next(steps)
        return fill(layout, bundle.encode(images), form, config)

    train_supervised(bundle, config, truths, trainer, report, "base")
    return bundle.publish(trainer.folder, folder)


def lessons_of(world: World, form: Format, config: SupervisedConfig, step: int) -> tuple[Layout, Pixels]:
    """The lessons of a step, laid out, and all their pictures (P, H, W, 3)."""
    seed, count = config.optimisation.seed, config.optimisation.batch_size
    drawn = int(numpy_generator(seed, step, "base lessons").integers(2**31))
    shares = config.described, config.chained, config.dictated
    wide = round(config.wide * count)
    lessons = render_lessons(world, count - wide, drawn, *shares)
    if wide:
        lessons += render_lessons(wider_than(world), wide, drawn, *shares)
    if step < config.reading * config.optimisation.steps:
        lessons = [dataclasses.replace(lesson, asks=len(lesson.instructions)) for lesson in lessons]
    layout = lay_out(form, lessons, config, noise_of(config, step, count))
    return layout, np.concatenate([lesson.images for lesson in lessons])
