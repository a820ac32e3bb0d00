"""Cost of a training step: `python -m benchmarks.train` (one thread, random weights, real sessions; five minutes).

For sessions of 2, 4 and 8 turns: tokens per second of SFT and of the RL update, and the share of the machine's matmul
peak that their floating-point operations reach; the seconds of an RL iteration and the rollout's share of them; the
time per token against that of the first row, which stays at 1 where time grows with the tokens. Peak memory of all. CPU
seconds of one thread; the peak is measured anew beside every row, so that ratios hold on a machine with other work.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from model import runtime
from model.bundle import Bundle
from model.config import ModelConfig, Optimisation, RlConfig, SamplingConfig, SupervisedConfig
from model.experience import Experience, explore
from model.ground_truth import ground_truth
from model.learning import improve
from model.pretrain import new_bundle
from model.supervised import encode_lessons, noise_of, supervised_loss
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
        """Seconds and tokens of one call, the quickest of some, and its `share` of the matmul peak measured around."""
        with FlopCounterMode(display=False) as counter:
            work()
        self.tokens, times, peaks = 0, [], [matmul_peak(torch.float32, "cpu")]
        for _ in range(rounds):
            started = clock("cpu")
            work()
            times.append(clock("cpu") - started)
            peaks.append(matmul_peak(torch.float32, "cpu"))
        share = counter.get_total_flops() / min(times) / max(peaks)
        return {"seconds": min(times), "tokens": self.tokens / rounds, "share": share}


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
        truth = ground_truth(bundle, lessons, tables, SFT, noise_of(SFT, 0, count))
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


def rows_of(size: str, lengths: Sequence[int], sessions: int, rounds: int, folder: Path) -> Iterator[dict[str, Any]]:
    """The figures of one size: an SFT step, an RL update and an RL iteration for every number of turns."""
    bundle = model_of(size)
    first: dict[str, float] = {}
    for turns in lengths:
        chosen = sessions_of(turns, 2 * sessions, folder)
        supervised = sft(bundle, chosen, 2 * sessions, rounds, folder)
        rolled, update = rl(bundle, chosen, sessions, rounds, folder)
        iteration = {"seconds": rolled + update["seconds"], "tokens": update["tokens"]}
        for work, found in (("SFT step", supervised), ("RL update", update), ("RL iteration", iteration)):
            pace = found["seconds"] / found["tokens"]
            yield {
                "size": size,
                "turns": turns,
                "work": work,
                "seconds": round(found["seconds"], 3),
                "tokens_per_second": round(1 / pace),
                "share_of_matmul_peak": round(found["share"], 3) if "share" in found else None,
                "time_per_token_against_first": round(pace / first.setdefault(work, pace), 2),
                "rollout_share": round(rolled / found["seconds"], 3) if work == "RL iteration" else None,
            }


HEADS = {
    "size": "size",
    "turns": "turns",
    "work": "work",
    "seconds": "seconds",
    "tokens_per_second": "tokens/s",
    "share_of_matmul_peak": "of the peak",
    "time_per_token_against_first": "time/token to first",
    "rollout_share": "rollout",
}


def line(values: Iterable[Any]) -> str:
    """A row of the table; None is an empty cell."""
    cells = zip(("" if value is None else str(value) for value in values), HEADS.values(), strict=True)
    return "  ".join(f"{cell:>{max(len(head), 12)}}" for cell, head in cells)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=sorted(SIZES), default=["tiny", "512"])
    parser.add_argument("--turns", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--sessions", type=int, default=4, help="groups of an iteration; SFT takes twice as many")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one object per row")
    options = parser.parse_args()
    runtime.prepare()
    torch.set_num_threads(1)
    if not options.json:
        print(line(HEADS.values()))
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            for row in rows_of(size, options.turns, options.sessions, options.rounds, Path(folder)):
                print(json.dumps(row) if options.json else line(row[key] for key in HEADS), flush=True)
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux
    told = {"peak_memory_mib": round(kib / 1024), "matmul_peak_gflops": round(matmul_peak(torch.float32, "cpu") / 1e9)}
    print(json.dumps(told) if options.json else "; ".join(f"{key} {value}" for key, value in told.items()))


if __name__ == "__main__":
    main()
