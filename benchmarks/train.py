"""Cost of a training step: `python -m benchmarks.train` (one thread, random weights, real sessions).

SFT and the RL update: tokens per second and the share of the machine's measured matmul peak that their floating-point
operations reach; the rollout's share of an RL iteration; the time of an iteration and of an SFT step for sessions of 2,
4 and 8 turns against their tokens; peak memory. CPU seconds; ratios are of one run.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.sizes import clock, matmul_peak
from data.build import SessionsConfig, build
from data.loader import Lesson, SessionFolder
from data.phrases import vocabulary
from data.scenes import world_named
from model.bundle import Bundle
from model.config import ModelConfig, Optimisation, RlConfig, SamplingConfig, SupervisedConfig
from model.experience import Experience, explore
from model.learning import improve
from model.pretrain import new_bundle
from model.supervised import encode_lessons, lay_out, noise_of, supervised_loss
from model.trainer import Trainer
from model.vae import new_vae

SIZES = {
    "tiny": ModelConfig(width=160, layers=4, heads=5, kv_heads=5, mlp=432),
    "512": ModelConfig(width=512, layers=4, heads=8, kv_heads=8, mlp=1408),
}
STILL = Optimisation(steps=10_000, learning_rate=0.0, warmup=0, weight_decay=0.0, checkpoint_every=10_000)
SFT = SupervisedConfig(optimisation=STILL)
RL = RlConfig(group_size=8, sampling=SamplingConfig(temperature=1.0), optimisation=STILL)


class Meter:
    """Counts the tokens of every forward of a model."""

    def __init__(self, model: nn.Module) -> None:
        self.tokens = 0
        model.register_forward_pre_hook(self._count)

    def _count(self, _module: nn.Module, arguments: tuple[Any, ...]) -> None:
        self.tokens += arguments[0].scatter.numel()

    def measure(self, work: Callable[[], object], rounds: int) -> dict[str, float]:
        """Seconds, tokens and floating-point operations of one call: the quickest of some."""
        with FlopCounterMode(display=False) as counter:
            work()
        self.tokens, times = 0, [clock("cpu")]
        for _ in range(rounds):
            work()
            times.append(clock("cpu"))
        seconds = min(after - before for before, after in itertools.pairwise(times))
        return {"seconds": seconds, "tokens": self.tokens / rounds, "operations": float(counter.get_total_flops())}


def told(measured: dict[str, float], peak: float) -> dict[str, float]:
    """What a measurement says."""
    return {
        "seconds": round(measured["seconds"], 3),
        "tokens_per_second": round(measured["tokens"] / measured["seconds"]),
        "share_of_matmul_peak": round(measured["operations"] / measured["seconds"] / peak, 3),
    }


def model_of(size: str) -> Bundle:
    """Random weights; pictures and words of the world `tiny`."""
    torch.manual_seed(0)
    world = world_named("tiny")
    vae = new_vae((16, 32, 64, 64), 8, 1).requires_grad_(False).eval()
    return new_bundle(SIZES[size], vae, world, vocabulary(world), 0)


def sessions_of(turns: int, count: int, folder: Path) -> SessionFolder:
    """Sessions of so many turns each."""
    config = SessionsConfig(world="tiny", train=count, validation=0, turns=(turns, turns))
    return SessionFolder(build(config, folder / f"sessions-{turns}", "sessions"), "train")


def sft(bundle: Bundle, sessions: SessionFolder, count: int, rounds: int, folder: Path) -> dict[str, float]:
    """One SFT step, all but the encoding of its pictures, which is done once per session."""
    lessons = [Lesson.of(sessions[index]) for index in range(count)]
    tables = encode_lessons(bundle, lessons)
    trainer = Trainer(bundle.model, STILL, folder / "none")

    def step() -> None:
        truth = lay_out(bundle, lessons, tables, SFT, noise_of(SFT, 0, count))
        trainer.update(supervised_loss(bundle, truth, SFT.trace_weight)[0])

    return Meter(bundle.model).measure(step, rounds)


def rl(
    bundle: Bundle, sessions: SessionFolder, count: int, rounds: int, folder: Path
) -> tuple[float, dict[str, float]]:
    """Seconds of an iteration's rollout and judging, and its update, in which every turn teaches."""
    config = dataclasses.replace(RL, sessions=count, kl="none")
    bundle.model.eval()
    started = clock("cpu")
    experience = explore(bundle, sessions, config, 0)
    rolled = clock("cpu") - started
    _teach(experience)
    trainer = Trainer(bundle.model, STILL, folder / "none")
    return rolled, Meter(bundle.model).measure(lambda: improve(bundle, None, trainer, experience, config, 0), rounds)


def _teach(experience: Experience) -> None:
    """A random model's samples are all alike bad: give them advantages as a trained one's would have."""
    for values in (experience.image_advantages, experience.text_advantages):
        values.copy_(torch.randn(values.shape, generator=torch.Generator().manual_seed(0)) * experience.exists)
    experience.learns.copy_(experience.exists)


def report(size: str, sessions: int, rounds: int, folder: Path) -> dict[str, Any]:
    """All figures of one size."""
    bundle, peak = model_of(size), matmul_peak(torch.float32, "cpu")
    found: dict[str, Any] = {"size": size, "matmul_peak_gflops": round(peak / 1e9, 1), "by_turns": {}}
    first: dict[str, float] = {}
    for turns in (2, 4, 8):
        chosen = sessions_of(turns, 2 * sessions, folder)
        supervised = sft(bundle, chosen, 2 * sessions, rounds, folder)
        rolled, update = rl(bundle, chosen, sessions, rounds, folder)
        iteration = rolled + update["seconds"]
        now = {"sft": supervised["seconds"] / supervised["tokens"], "rl": iteration / update["tokens"]}
        first = first or now
        found["by_turns"][turns] = {
            "sft": told(supervised, peak),
            "rl_update": told(update, peak),
            "rl_iteration_seconds": round(iteration, 3),
            "rollout_share": round(rolled / iteration, 3),
            "time_per_token_against_2_turns": {name: round(now[name] / first[name], 2) for name in now},
        }
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux
    return {**found, "peak_memory_mib": round(kib / 1024)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--sessions", type=int, default=4, help="groups of an iteration; SFT takes twice as many")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(report(options.size, options.sessions, options.rounds, Path(folder))))


if __name__ == "__main__":
    main()
