"""A toy model with weights that matter, toy sessions of real scenes, and trainings of a second or two."""

import dataclasses
import random
from pathlib import Path

import torch

from data.build import SessionsConfig, build
from data.loader import Example
from data.render import render
from data.sampling import random_scene
from data.scenes import TINY
from data.schema import Session, Turn
from model.bundle import Bundle
from model.config import CorruptionConfig, ModelConfig, RlConfig, SamplingConfig, SupervisedConfig, ValidationConfig
from model.pretrain import new_bundle
from model.vae import new_vae

WORDS = ["add", "remove", "the", "red", "blue", "ball", "cross", "now", "top", "left"]

# Every part of a step is on. Three of everything that is shared out: as many ranks may take part.
FAST = SamplingConfig(points=3, max_trace=3)
TOY_SFT = SupervisedConfig(
    noise_draws=1,
    corruption=CorruptionConfig(0.5, refresh=3, sampling=FAST),
    validation=ValidationConfig(every=4, sessions=3, sampling=FAST),
)
TOY_RL = RlConfig(
    sessions=3,
    group_size=3,
    replay_batch=4,
    epochs=2,
    minibatches=3,
    sampling=SamplingConfig(points=5, max_trace=3, temperature=1.0),
    window_range=(0, 3),
    alert_every=2,
    alert_sessions=3,
    samples_every=2,
)


def toy_sessions(folder: Path) -> Path:
    """Rendered sessions for the two."""
    return build(SessionsConfig(train=6, validation=3, turns=(1, 3)), folder / "sessions", "sessions")


def toy_bundle(seed: int = 0, side: int = TINY.image_size) -> Bundle:
    """Every weight is drawn, so that heads which start at zero speak too. Pictures are brought to `side` pixels."""
    torch.manual_seed(seed)
    vae = new_vae((8, 8, 8, 8), 4, 1).requires_grad_(False).eval()
    config = ModelConfig(width=32, layers=2, heads=2, kv_heads=1, mlp=48, vit_width=16, vit_layers=1, vit_heads=2)
    bundle = new_bundle(config, vae, dataclasses.replace(TINY, image_size=side), WORDS, seed)
    with torch.no_grad():
        for parameter in bundle.model.parameters():
            if parameter.requires_grad and not parameter.any():
                parameter.normal_(std=0.2)
    bundle.model.eval()
    return bundle


def toy_example(turns: int, name: str, targets: bool = True) -> Example:
    """A session of random scenes and random words."""
    rng = random.Random(name)
    images = render([random_scene(rng, TINY, (1, 5)) for _ in range(turns + 1)], TINY)
    said = [
        Turn(
            instruction=" ".join(rng.choices(WORDS, k=rng.randint(2, 6))),
            task_type=rng.choice(["subject_add", "color_alter"]),
            formatted_instruction="Add [red ball]",
            bg_consistency=True,
            unchanged_objects=(),
            available_objects=(),
            all_objects=(),
            intent=" ".join(rng.choices(WORDS, k=rng.randint(1, 5))),
        )
        for _ in range(turns)
    ]
    session = Session(id=name, image=f"images/{name}/0.png", turns=tuple(said), track=rng.choice(["cm", "cu"]))
    return Example(session, images if targets else images[:1])
