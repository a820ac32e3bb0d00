"""Fail-closed reading of safetensors: every tensor of the model is found with its shape, and nothing is left over."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from data.errors import UserError

Shape = tuple[int, ...]
REMEDY = "Use a complete checkpoint that belongs to this configuration"


@dataclass(frozen=True)
class LoadReport:
    """What was read: layout ("own" or "official"), tensor and byte counts, stored precision, and remarks where
    configuration files and checkpoint disagree (the checkpoint decides)."""

    folder: str
    layout: str
    tensors: int
    bytes: int
    stored_dtypes: tuple[str, ...]
    remarks: tuple[str, ...] = ()


class Checkpoint:
    """One safetensors file, or the shards that an index names, read lazily: shapes first, tensors one at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        index = path.with_name(path.name + ".index.json")
        if path.exists():
            files = [path]
        elif index.exists():
            named = json.loads(index.read_text())["weight_map"].values()
            files = [path.parent / name for name in sorted(set(named))]
        else:
            raise UserError(f"{path} does not exist", "Give a folder that holds a model's weights")
        self.file_of: dict[str, Path] = {}
        self.shapes: dict[str, Shape] = {}
        for file in files:
            self._scan(file)

    def _scan(self, file: Path) -> None:
        try:
            with safe_open(str(file), framework="pt") as stored:
                for name in stored.keys():  # noqa: SIM118 (not a mapping)
                    self.file_of[name] = file
                    self.shapes[name] = tuple(stored.get_slice(name).get_shape())
        except (OSError, SafetensorError) as error:
            raise UserError(f"{file} cannot be read: {error}", "Fetch the file again") from error

    def tensors(self, device: str = "cpu") -> Iterator[tuple[str, Tensor]]:
        """Name and tensor, file by file; only one tensor is in memory at a time."""
        for file in sorted(set(self.file_of.values())):
            with safe_open(str(file), framework="pt", device=device) as stored:
                for name in stored.keys():  # noqa: SIM118
                    yield name, stored.get_tensor(name)


def check(expected: Mapping[str, Shape], found: Mapping[str, Shape], where: str) -> None:
    """UserError that names every missing, left-over and misshapen tensor (the first ten of each)."""
    missing = sorted(set(expected) - set(found))
    extra = sorted(set(found) - set(expected))
    both = set(expected) & set(found)
    bent = [f"{n} {found[n]} instead of {expected[n]}" for n in sorted(both) if expected[n] != found[n]]
    problems = []
    for label, names in (("missing", missing), ("not part of the model", extra), ("of another shape", bent)):
        if names:
            rest = f" and {len(names) - 10} more" if len(names) > 10 else ""
            problems.append(f"{label}: {', '.join(names[:10])}{rest}")
    if problems:
        raise UserError(f"{where} does not fit the model; {'; '.join(problems)}", REMEDY)


def shapes_of(module: nn.Module) -> dict[str, Shape]:
    """Name to shape of everything that the module saves."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def fill(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put the tensors in place of a module built on the meta device (frozen parameters stay frozen)."""
    module.load_state_dict(dict(state), strict=True, assign=True)


def to_dtype(name: str | torch.dtype | None) -> torch.dtype | None:
    """A torch dtype from its name; UserError for an unknown one."""
    if name is None or isinstance(name, torch.dtype):
        return name
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise UserError(f"{name!r} is no dtype", "Use float32, bfloat16 or float16")
    return dtype
