"""AdamW over what learns: float32 copies of weights in lower precision, weight decay on matrices, rates by name."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from model.config import Optimisation


def masters_of(parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """A float32 copy of each weight in lower precision, in which small steps would be lost; any other weight itself."""
    return {name: p if p.dtype == torch.float32 else nn.Parameter(p.detach().float()) for name, p in parameters.items()}


def adamw(
    parameters: Mapping[str, nn.Parameter], optimisation: Optimisation, rates: Mapping[str, float]
) -> torch.optim.AdamW:
    """The optimiser; each of its groups holds its factor of the learning rate under `factor`.

    Args:
        rates: pattern of parameter names -> factor; the first pattern that fits counts, 1 without one.

    Raises:
        ValueError: a pattern fits no parameter.
    """
    groups = _groups(parameters, optimisation.weight_decay, rates)
    return torch.optim.AdamW(groups, lr=optimisation.learning_rate, betas=(0.9, 0.99), foreach=True)


def _groups(
    parameters: Mapping[str, nn.Parameter], weight_decay: float, rates: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Parameter groups by weight decay (matrices only) and factor of the learning rate."""
    if idle := [pattern for pattern in rates if not any(fnmatchcase(name, pattern) for name in parameters)]:
        raise ValueError(f"No parameter that learns is called {idle[0]}")
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        factor = next((value for pattern, value in rates.items() if fnmatchcase(name, pattern)), 1.0)
        groups.setdefault((parameter.ndim > 1, factor), []).append(parameter)
    return [
        {"params": members, "weight_decay": weight_decay if matrix else 0.0, "factor": factor}
        for (matrix, factor), members in groups.items()
    ]
