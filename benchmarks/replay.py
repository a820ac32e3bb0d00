"""Cost of learning from a trajectory: `python -m benchmarks.replay`.

Gradient of the joint loss of 3-turn trajectories (guidance 4/2, two stochastic steps per turn, an intent trace of 24
tokens from turn 2 on, velocity KL against a reference model): all turns, steps, guidance views and traces in one packed
forward. Prints seconds per turn sample and the ratio to what the released Edit-R2 code took on the same work.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.rollout import GUIDANCE, POINTS, TRACE
from benchmarks.sizes import SIZES, clock, matmul_peak, random_bundle
from model import runtime
from model.bundle import Bundle
from model.modeling import EditModel
from model.packing import PackedBatch, Pictures, pack, session_segments
from model.samplers import schedule, step

RELEASED = {"parity": (0.46, 0.51), "13m": (1.66, 1.77)}  # CPU seconds per turn sample, one thread
TURNS, WINDOW, LEVEL = 3, 2, 1.3
GRID = (8, 8)


@dataclass(frozen=True)
class Sample:
    """Trajectories as replay meets them."""

    batch: PackedBatch
    pictures: Pictures
    states: Tensor  # (J, N, C)
    following: Tensor  # (J, N, C)
    times: Tensor  # (J, 2)


def sample(bundle: Bundle, trajectories: int) -> Sample:
    """Random pictures, texts and steps; the cost does not depend on what they show."""
    random = torch.Generator().manual_seed(0)
    count, steps = trajectories * (TURNS + 1), trajectories * TURNS * WINDOW
    size = GRID[0] * GRID[1]
    config = bundle.model.config
    latents = torch.randn(count * size, config.latent_dim, generator=random)
    patches = torch.randn(count * size, 3 * config.vit["patch_size"] ** 2, generator=random)
    device, dtype = bundle.model.device, bundle.model.dtype
    pictures = Pictures(latents, patches, (GRID,) * count, (GRID,) * count).to(device, dtype)
    sessions = []
    for index in range(trajectories):
        first, noisy = index * (TURNS + 1), index * TURNS * WINDOW
        rows = [range(noisy + k * WINDOW, noisy + (k + 1) * WINDOW) for k in range(TURNS)]
        words = torch.randint(6, 290, (TURNS, 10), generator=random).tolist()
        traces = [None, *torch.randint(6, 290, (TURNS - 1, TRACE), generator=random).tolist()]
        tables = range(first, first + TURNS + 1)
        sessions.append(session_segments(words, tables, rows, traces, truncated=[True] * TURNS, guided=True))
    batch = pack(sessions, pictures, bundle.special).to(device)
    grid = schedule(POINTS, 3.0)
    times = torch.stack((grid[1 : 1 + WINDOW], grid[2 : 2 + WINDOW]), 1).repeat(trajectories * TURNS, 1).to(device)
    states, following = (torch.randn(steps, size, config.latent_dim, generator=random).to(device) for _ in range(2))
    return Sample(batch, pictures, states, following, times)


def joint_loss(model: EditModel, data: Sample, reference: Tensor | None) -> tuple[Tensor, Tensor]:
    """Clipped picture and text objectives plus velocity KL, and the velocity; advantages are 1."""
    time = data.times[:, 0].repeat_interleave(data.states.shape[1])
    output = model(data.batch, data.pictures, data.states.flatten(0, 1), time, GUIDANCE)
    velocity = output.velocity.view_as(data.states)
    taken = step(
        data.states, velocity, data.times[:, 0], data.times[:, 1], kind="flow", noise_level=LEVEL, next_x=data.following
    )
    text = F.cross_entropy(output.text_logits.float(), output.text_targets, reduction="none")
    ratios = (taken.logprob - taken.logprob.detach()).exp(), (text.detach() - text).exp()
    loss = -sum((torch.minimum(r, r.clamp(1 - 1e-5, 1 + 1e-5)).mean() for r in ratios), torch.zeros(()).to(velocity))
    if reference is not None:
        loss = loss + 0.01 * (velocity - reference).square().mean()
    return loss, velocity


def gradient(model: EditModel, reference: EditModel, data: Sample) -> None:
    """One replay: the reference's velocities, then the policy's loss and gradient."""
    with torch.no_grad():
        target = joint_loss(reference, data, None)[1]
    model.zero_grad(set_to_none=True)
    joint_loss(model, data, target)[0].backward()


def matmul_work(model: EditModel, data: Sample) -> float:
    """FLOP of the decoder's projections in one `gradient`: forward of two models and one backward (twice a forward)."""
    config = model.config.llm_config()
    layer = model.language_model.model.layers[0]
    one_expert = sum(p.numel() for p in layer.parameters() if p.dim() == 2) / 2
    return 2 * one_expert * config.num_hidden_layers * data.batch.scatter.numel() * 4


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="parity")
    parser.add_argument("--trajectories", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runtime.prepare()
    dtype = getattr(torch, options.dtype)
    bundle, other = (random_bundle(options.size, dtype, options.device) for _ in range(2))
    data = sample(bundle, options.trajectories)
    best = float("inf")
    for _ in range(options.rounds):
        start = clock(options.device)
        gradient(bundle.model, other.model, data)
        best = min(best, clock(options.device) - start)
    per_turn = best / (options.trajectories * TURNS)
    report = {"size": options.size, "trajectories": options.trajectories, "seconds_per_turn_sample": round(per_turn, 4)}
    if options.size in RELEASED and options.device == "cpu":
        report["times_faster_than_released"] = [round(seconds / per_turn, 1) for seconds in RELEASED[options.size]]
    peak = matmul_peak(dtype, options.device)
    report["share_of_matmul_peak"] = round(matmul_work(bundle.model, data) / best / peak, 3)
    report["matmul_peak_gflops"] = round(peak / 1e9)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
