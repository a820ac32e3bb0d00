"""Golden tensors of a parity folder, with the tolerances that its README states.

`Golden.compare` looks the tolerance of a tensor up in the README's tables; `finish` fails when a tensor of a file
that has a tolerance was never compared. The summary of a test session prints the largest error per file.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).parents[2]
LARGEST: dict[str, tuple[float, float, str]] = {}  # file -> (error / tolerance, error, tensor)


def folder() -> Path:
    return Path(os.environ.get("BAGEL_PARITY", ROOT / ".." / "shared" / "bagel_parity")).resolve()


def read_tolerances(readme: Path) -> dict[tuple[str, str], str]:
    """(file, tensor) -> the last cell of its row in the README's tables."""
    found, file = {}, ""
    for line in readme.read_text().splitlines():
        if heading := re.match(r"## (\w+)\.safetensors", line):
            file = heading[1]
        elif line.startswith("| ") and file:
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            found[file, cells[0]] = cells[-1]
    return found


def tolerance(stated: str, name: str) -> tuple[float, bool] | None:
    """(value, relative) of a stated tolerance; None where nothing is to be compared."""
    if stated == "-":
        return None
    if stated.startswith("exact"):
        return 0.0, False
    if stated.startswith("+-1"):
        return 1.0, False
    numbers = re.findall(r"\d+e-\d+", stated)
    value = numbers[-1] if "turn1" in stated and "turn1" in name else numbers[0]
    return float(value), "rel" in stated


class Golden:
    """The tensors of one file and an account of what was compared."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.tensors = load_file(folder() / f"{file}.safetensors")
        self.meta = json.loads((folder() / "golden_meta.json").read_text())
        stated = read_tolerances(folder() / "README.md")
        limits = {name: tolerance(stated.get((file, name), "-"), name) for name in self.tensors}
        self.limits = {name: limit for name, limit in limits.items() if limit is not None}
        self.done: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def ids(self, text: str) -> list[int]:
        return list(self.meta["texts"][text]["ids"])

    def compare(self, name: str, actual: Tensor | np.ndarray | list[int] | float) -> None:
        expected = self.tensors[name]
        value = torch.as_tensor(actual)
        assert value.shape == expected.shape or value.numel() == expected.numel(), (name, value.shape, expected.shape)
        error = (value.reshape(expected.shape).double() - expected.double()).abs().max().item()
        limit, relative = self.limits[name]
        allowed = limit * expected.double().abs().max().item() if relative else limit
        self.done.add(name)
        ratio = error / allowed if allowed else float(error > 0) * float("inf") if error else 0.0
        if ratio >= LARGEST.get(self.file, (-1.0, 0.0, ""))[0]:
            LARGEST[self.file] = (ratio, error, name)
        assert error <= allowed, f"{self.file}: {name} differs by {error:.2e}, allowed {allowed:.2e}"

    def finish(self) -> None:
        missed = sorted(set(self.limits) - self.done)
        assert not missed, f"{self.file}: never compared: {missed}"


def shift_of(times: Tensor) -> float:
    """The shift of a time grid, from its second point; `times` may leave the final zero out."""
    steps = len(times) - 1 if times[-1] == 0 else len(times)
    plain, shifted = 1 - 1 / steps, float(times[1])
    return round(shifted * (1 - plain) / (plain * (1 - shifted)), 3)


def settings(name: str) -> dict[str, object]:
    """Guidance of a golden velocity's name, such as text4_img2.channel.min0.8."""
    scales, renorm, *rest = name.split(".", 2)
    found = re.fullmatch(r"text([\d.]+)_img([\d.]+)", scales)
    assert found is not None, name
    minimum = float(rest[0].removeprefix("min")) if rest else 0.0
    return {"text": float(found[1]), "image": float(found[2]), "renorm": renorm, "renorm_min": minimum}
