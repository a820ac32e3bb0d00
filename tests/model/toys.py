"""A toy model with weights that matter, and toy sessions of real scenes."""

import random

import torch

from data.loader import Example
from data.render import render
from data.sampling import random_scene
from data.scenes import TINY
from data.schema import Session, Turn
from model.bundle import Bundle
from model.config import ModelConfig
from model.pretrain import new_bundle
from model.vae import new_vae

WORDS = ["add", "remove", "the", "red", "blue", "ball", "cross", "now", "top", "left"]


def toy_bundle(seed: int = 0) -> Bundle:
    """Every weight is drawn, so that heads which start at zero speak too."""
    torch.manual_seed(seed)
    vae = new_vae((8, 8, 8, 8), 4, 1).requires_grad_(False).eval()
    config = ModelConfig(width=32, layers=2, heads=2, kv_heads=1, mlp=48, vit_width=16, vit_layers=1, vit_heads=2)
    bundle = new_bundle(config, vae, TINY, WORDS, seed)
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
