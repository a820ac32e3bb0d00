"""Cost of a guided rollout: `python -m benchmarks.rollout`.

128 x 128 pictures, 15 time points, guidance 4/2 text_channel, an intent trace of 24 tokens from turn 2 on, 8
trajectories that share a source. Prints seconds per trajectory-turn, the ratio to what the released Edit-R2 code took
on the same work (CPU seconds, one thread), and the cost of each turn of sessions of 2 to 8 turns.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch

from benchmarks.sizes import SIZES, clock, random_bundle
from model import runtime
from model.bundle import Bundle
from model.context import Context
from model.guidance import Guidance
from model.samplers import schedule, step

RELEASED = {"parity": (0.58, 0.71), "13m": (2.25, 2.58)}  # CPU seconds per trajectory-turn, one thread
GUIDANCE = Guidance(4.0, 2.0)
POINTS, TRACE, SIDE = 15, 24, 128


def rollout(bundle: Bundle, trajectories: int, turns: int, seed: int = 0) -> list[float]:
    """Run all trajectories; the clock at the start and after every turn."""
    random = torch.Generator().manual_seed(seed)
    words = torch.randint(6, 290, (turns, 10), generator=random).tolist()
    images = np.random.default_rng(seed).integers(0, 256, (1, SIDE, SIDE, 3), dtype=np.uint8)
    model, device = bundle.model, str(bundle.model.device)
    allowed = bundle.allowed.clone()
    allowed[bundle.special.eos] = False  # every trace takes its whole budget, as in the released code
    sampler = torch.Generator(device).manual_seed(seed)
    times = [clock(device)]
    context = Context(model, bundle.special, 1, guided=True, capacity=1024)
    pictures = bundle.encode(images)
    context.append_pictures(pictures)
    context.append_text(words[:1])
    context = context.repeat_interleave(trajectories)
    for turn in range(turns):
        if turn:
            context.append_pictures(bundle.encode(images))
            context.append_text([words[turn]] * trajectories)
            context.generate_text(TRACE, 0.7, sampler, allowed=allowed)
        images = picture(bundle, context, trajectories, pictures.latent_grids[0], random)
        times.append(clock(device))
    return times


def picture(bundle: Bundle, context: Context, rows: int, grid: tuple[int, int], random: torch.Generator) -> np.ndarray:
    """One picture per trajectory: two stochastic steps, the others deterministic."""
    shape = (rows, grid[0] * grid[1], bundle.model.config.latent_dim)
    x = torch.randn(shape, generator=random).to(bundle.model.device)
    grid_t = schedule(POINTS, 3.0).to(x.device)
    for index in range(POINTS - 1):
        v = context.velocity(x, grid_t[index], grid, GUIDANCE)
        noise = torch.randn(shape, generator=random).to(x.device) if index in (1, 2) else None
        kind = "ode" if noise is None else "flow"
        x = step(x, v, grid_t[index], grid_t[index + 1], kind=kind, noise_level=1.3, noise=noise).next
    return bundle.decode(x, grid)


def measure(bundle: Bundle, trajectories: int, turns: int, rounds: int) -> list[float]:
    """Seconds per trajectory of each turn: the best of some rounds."""
    runs = [np.diff(rollout(bundle, trajectories, turns)) / trajectories for _ in range(rounds)]
    return [float(x) for x in np.min(runs, axis=0)]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="parity")
    parser.add_argument("--trajectories", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--longest", type=int, default=8, help="turns of the longest session (0 skips the growth)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runtime.prepare()
    bundle = random_bundle(options.size, getattr(torch, options.dtype), options.device)
    rollout(bundle, options.trajectories, 1)
    per_turn = measure(bundle, options.trajectories, 3, options.rounds)
    mean = sum(per_turn) / len(per_turn)
    report = {"size": options.size, "seconds_per_trajectory_turn": round(mean, 4)}
    if options.size in RELEASED and options.device == "cpu":
        report["times_faster_than_released"] = [round(seconds / mean, 1) for seconds in RELEASED[options.size]]
    if options.longest:
        growth = measure(bundle, options.trajectories, options.longest, 1)
        report["seconds_by_turn"] = [round(seconds, 4) for seconds in growth]
    print(json.dumps(report))


if __name__ == "__main__":
    main()
