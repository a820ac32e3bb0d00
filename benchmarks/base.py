"""What a base model can do before it has seen a session: `python -m benchmarks.base [--model FOLDER] [--count N]`.

Prints the share of cells that the autoencoder gives back, and of single edits, told in full or in words that the model
must understand first, the share of exact pictures and traces, by edit type. Scenes are fresh and hold nothing held out.
A folder may hold an autoencoder alone.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from data.loader import render_scenes, render_single_turns
from data.readback import read
from data.render import Pixels
from data.scenes import WORLDS, World, world_named
from model import distributed, runtime
from model.bundle import Bundle, load
from model.config import EvaluationConfig, SamplingConfig
from model.evaluation import true_history_rows
from model.loading import load_vae
from model.vae import round_trip

SEED = 77_000_000  # of scenes that no training draws: lessons take seeds below 2**31 by hash, the autoencoder's is 0


def read_back(vae: AutoencoderKL, world: World, images: Pixels) -> float:
    """Share of the cells and backgrounds of pictures that are read alike before and after encoding and decoding."""
    same = total = 0
    for before, after in zip(read(images, world), read(round_trip(vae, images), world), strict=True):
        pairs = [*zip(before.cells, after.cells, strict=True), (before.background, after.background)]
        same += sum(one == other for one, other in pairs)
        total += len(pairs)
    return round(same / total, 5)


def single_edits(bundle: Bundle, world: World, count: int, points: int) -> dict[str, Any]:
    """Per edit type and over all: exact pictures when told in full, exact pictures and traces on the model's own."""
    examples = render_single_turns(world, count, SEED)
    config = EvaluationConfig(sampling=SamplingConfig(points=points))
    told = true_history_rows(bundle, examples, config, true_intents=True)
    free = true_history_rows(bundle, examples, config)
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for example, one, other in zip(examples, told, free, strict=True):
        turn, mine = example.session.turns[0], other["turns"][0]
        row = (one["turns"][0]["success"], mine["success"], float(mine["trace"] == turn.intent))
        for name in ("all", str(turn.task_type)):
            found[name].append(row)
    names = ("told", "own", "trace")
    return {
        name: {"n": len(rows), **dict(zip(names, np.mean(rows, 0).round(4).tolist(), strict=True))}
        for name, rows in sorted(found.items())
    }


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("model/checkpoints/tiny"))
    parser.add_argument("--world", choices=WORLDS, default="tiny")
    parser.add_argument("--count", type=int, default=450)
    parser.add_argument("--points", type=int, default=5)
    options = parser.parse_args()
    runtime.prepare()
    world, device = world_named(options.world), distributed.device()
    vae = load_vae(options.model, device=device)
    shown = np.concatenate([one.images for one in render_single_turns(world, 4 * options.count, SEED)])
    told: dict[str, Any] = {
        "read_back": read_back(vae, world, shown),
        "read_back_where_a_quarter_are_signs": read_back(vae, world, render_scenes(world, 4 * options.count, SEED)),
    }
    if (options.model / "config.json").is_file():
        bundle = load(options.model, device=device)
        told["edits"] = single_edits(bundle, world, options.count, options.points)
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
