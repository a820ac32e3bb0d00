"""How much of an RL gradient is signal: `python -m model.signal MODEL SESSIONS --profile tiny --set group_size=16`.

Draws iterations without learning from them, takes the gradient of every policy on each half of the groups, and compares
the halves. Each half is the true gradient plus noise of its own, so their cosine is the share of signal in a half:
near 0 no learning rate will help, and larger groups, denser rewards or another objective must raise it first.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from data.loader import SessionFolder
from data.parameters import read_profile, section
from model.bundle import Bundle, load
from model.config import RlConfig
from model.experience import Experience, explore
from model.learning import excerpts, prepare
from model.policy_losses import policy_losses
from model.replay import replay
from model.rl import GENERATION, practice

Gradients = dict[str, dict[str, Tensor]]  # policy -> parameter -> gradient
Table = dict[str, dict[str, float]]


def half_gradients(bundle: Bundle, experience: Experience, config: RlConfig, step: int) -> tuple[Gradients, Gradients]:
    """Gradients of every policy's loss on the even and on the odd groups of an iteration."""
    listed = excerpts(experience, config)
    halves = ([e for e in listed if e.row // config.group_size % 2 == half] for half in (0, 1))
    even, odd = (_gradients(bundle, experience, half, config, step) for half in halves)
    return even, odd


def _gradients(bundle: Bundle, experience: Experience, listed: list[Any], config: RlConfig, step: int) -> Gradients:
    names, parameters = zip(*((n, p) for n, p in bundle.model.named_parameters() if p.requires_grad), strict=True)
    found: Gradients = {
        policy: {n: torch.zeros_like(p) for n, p in zip(names, parameters, strict=True)} for policy in config.policies
    }
    for chunk in prepare(bundle, None, experience, listed, config, step):
        result = replay(bundle.model, chunk.stored, config.sampling)
        parts, _ = policy_losses(result, chunk, experience, config)
        for policy, sums in found.items():
            if parts[policy].requires_grad:
                grads = torch.autograd.grad(parts[policy], parameters, retain_graph=True, allow_unused=True)
                for name, gradient in zip(names, grads, strict=True):
                    sums[name] += 0 if gradient is None else gradient
    return found


def cosine(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Of two gradients as one vector each; NaN where one of them is 0."""
    product = sum((one[name] * other[name]).sum().item() for name in one)
    sizes = [sum(g.square().sum().item() for g in gradients.values()) ** 0.5 for gradients in (one, other)]
    return product / (sizes[0] * sizes[1]) if all(sizes) else float("nan")


def expert(gradients: dict[str, Tensor], generation: bool) -> dict[str, Tensor]:
    """The part of a gradient that belongs to one expert."""
    mine = {name for pattern in GENERATION for name in fnmatch.filter(gradients, pattern)}
    return {name: gradient for name, gradient in gradients.items() if (name in mine) == generation}


def measure(bundle: Bundle, sessions: SessionFolder, config: RlConfig, iterations: int) -> Table:
    """Per policy: the mean cosine between halves, over all pairs of halves and for each expert alone, its standard
    error over iterations, and what it rests on."""
    bundle.model.eval()
    drawn: list[tuple[Gradients, Gradients]] = []
    rewards, teaching = [], []
    for step in range(iterations):
        experience = explore(bundle, sessions, config, step)
        rewards.append(experience.rewards[experience.exists].nanmean().item())
        advantages = {"image": experience.image_advantages, "text": experience.text_advantages}
        teaching.append({policy: int((advantages[policy] != 0).sum()) for policy in config.policies})
        drawn.append(half_gradients(bundle, experience, config, step))
    return {
        policy: {
            **_cosines([(even[policy], odd[policy]) for even, odd in drawn]),
            "teaching_turns": float(np.mean([count[policy] for count in teaching])),
            "reward": float(np.mean(rewards)),
        }
        for policy in config.policies
    }


def _cosines(drawn: list[tuple[dict[str, Tensor], dict[str, Tensor]]]) -> dict[str, float]:
    halves = [half for pair in drawn for half in pair]
    pairs = list(itertools.combinations(halves, 2))
    within = [cosine(*pair) for pair in drawn]
    result = {
        "cosine": float(np.nanmean([cosine(*pair) for pair in pairs])),
        "cosine_within_iteration": float(np.nanmean(within)),
        "standard_error": float(np.nanstd(within, ddof=1) / len(within) ** 0.5) if len(within) > 1 else float("nan"),
    }
    for name, generation in (("understanding", False), ("generation", True)):
        parts = [[expert(half, generation) for half in pair] for pair in pairs]
        result[f"cosine_{name}"] = float(np.nanmean([cosine(*part) for part in parts]))
    result["gradient_norm"] = float(
        np.mean([sum(g.square().sum().item() for g in half.values()) ** 0.5 for half in halves])
    )
    return result


def configured(profile: str, settings: list[str], params: Path = Path("params.yaml")) -> RlConfig:
    """The profile's section `rl` with `key=value` settings (values as in YAML, keys dotted) on top."""
    found = read_profile(profile, params)
    rl: dict[str, Any] = dict(found.get("rl") or {})
    for setting in settings:
        key, _, value = setting.partition("=")
        *path, last = key.split(".")
        place = rl
        for name in path:
            place[name] = dict(place.get(name) or {})
            place = place[name]
        place[last] = yaml.safe_load(value)
    return section({"rl": rl}, "rl", RlConfig)


def _lines(table: Table) -> Iterator[str]:
    columns = list(next(iter(table.values())))
    yield "policy  " + "  ".join(columns)
    for policy, values in table.items():
        yield f"{policy:6}  " + "  ".join(f"{values[name]:>{len(name)}.3g}" for name in columns)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("sessions", type=Path, help="folder of built sessions")
    parser.add_argument("--profile", default="tiny", help="whose section `rl` of params.yaml counts")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of that section"
    )
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    config = configured(options.profile, options.set)
    table = measure(load(options.model), practice(options.sessions), config, options.iterations)
    print(json.dumps(table) if options.json else "\n".join(_lines(table)))


if __name__ == "__main__":
    main()
