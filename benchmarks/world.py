"""The rendered world: `python -m benchmarks.world [--world tiny] [--model FOLDER]`.

Prints sessions written and rendered per second and core, judged turns per second, and how often cells are misread under
noise, blur and, where a model folder is given, its autoencoder's round trip.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from data.baselines import ground_truth
from data.build import SessionsConfig, recipe
from data.loader import render_scenes
from data.readback import margins, read
from data.render import Pixels, render
from data.scenes import World, world_named
from data.schema import Session
from data.synthesis import sessions
from model.judges.exact import judge_many


def timed(work: Callable[[], Any]) -> float:
    """Seconds of processor time: other programs on the machine do not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


def speeds(world: World, count: int) -> dict[str, float]:
    """Sessions and turns per second of one core."""
    plan = recipe(SessionsConfig(world=world.name), "train")
    list(sessions(plan, 20))
    made: list[Session] = []
    writing = timed(lambda: made.extend(sessions(plan, count)))
    scenes = [scene for one in made if one.scene for scene in (one.scene.source, *one.scene.targets)]
    drawing = timed(lambda: render(scenes, world))
    stacks = [ground_truth(one) for one in made]
    judge_many(made[:2], stacks[:2])
    judging = timed(lambda: judge_many(made, stacks))
    return {
        "sessions_written_per_second": count / writing,
        "sessions_rendered_per_second": count / (writing + drawing),
        "judged_turns_per_second": sum(len(one.turns) for one in made) / judging,
    }


def disturbances(folder: Path | None) -> Iterator[tuple[str, Callable[[Pixels], Pixels]]]:
    """Named ways to spoil pictures."""
    for level in (8, 16, 24, 32, 40):
        yield f"noise sigma {level}", functools.partial(_noisy, level)
    for radius in (0.5, 0.75, 1.0):
        yield f"blur radius {radius}", functools.partial(_blurred, radius)
    if folder is not None:
        yield "autoencoder round trip", _round_trip(folder)


def _noisy(level: float, images: Pixels) -> Pixels:
    noise = np.random.default_rng(0).normal(0, level, images.shape)
    return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)


def _blurred(radius: float, images: Pixels) -> Pixels:
    blur = ImageFilter.GaussianBlur(radius)
    return np.stack([np.asarray(Image.fromarray(image).filter(blur)) for image in images])


def _round_trip(folder: Path) -> Callable[[Pixels], Pixels]:
    from model.loading import load_vae
    from model.vae import round_trip

    return functools.partial(round_trip, load_vae(folder))


def accuracy(world: World, count: int, folder: Path | None) -> dict[str, dict[str, float]]:
    """Per disturbance: its root mean square error and the share of cells that are misread."""
    images = render_scenes(world, count, seed=5)
    truth = read(images, world)
    table = {}
    for name, spoil in disturbances(folder):
        spoiled = spoil(images)
        error = float(np.sqrt(((spoiled.astype(np.float32) - images) ** 2).mean()))
        pairs = zip(truth, read(spoiled, world), strict=True)
        wrong = sum(old != new for one, other in pairs for old, new in zip(one.cells, other.cells, strict=True))
        table[name] = {"rms": round(error, 2), "cells_misread": round(wrong / (count * world.cells), 5)}
    return table


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="tiny")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--model", type=Path, help="a model folder, for its autoencoder's round trip")
    options = parser.parse_args()
    world = world_named(options.world)
    report = {
        "world": world.name,
        "speed": {name: round(value) for name, value in speeds(world, options.count).items()},
        "margins_rms": margins(world),
        "reading": accuracy(world, 400, options.model),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
