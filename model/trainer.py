"""One optimisation run that can be killed at any moment and ends with the same weights.

Everything random is drawn from `generator(seed, step, purpose)`, so that a step depends on its number alone and no
random state needs saving. A checkpoint is a folder of safetensors and JSON; it bears its name only when complete.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data.errors import UserError
from model import distributed
from model.atomic import replace_folder, replacing, standing
from model.config import Optimisation
from model.optimizer import adamw, masters_of

Report = Callable[[int, dict[str, float]], None]


class Stopped(UserError):
    """The run was asked to stop (SIGTERM) and has saved its state."""

    exit_code = 143


def _digest(seed: int, step: int, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{purpose}".encode()).digest()[:8], "big") >> 1


def generator(seed: int, step: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends on nothing but its arguments."""
    return torch.Generator(device=device).manual_seed(_digest(seed, step, purpose))


def numpy_generator(seed: int, step: int, purpose: str) -> np.random.Generator:
    """The same for NumPy."""
    return np.random.default_rng(_digest(seed, step, purpose))


def _recompute(module: nn.Module) -> None:
    enable = getattr(module, "gradient_checkpointing_enable", None)
    if enable is None:
        raise UserError(f"{type(module).__name__} cannot recompute activations", "Leave out optimisation.recompute")
    enable()


class Trainer:
    """AdamW, learning-rate schedule, weight average and checkpoints of one module.

    Args:
        module: what learns; parameters that do not require a gradient are left alone and not saved.
        optimisation: its parameters.
        folder: where checkpoints go.
        rates: pattern of parameter names (`vit_model.*`, `*_moe_gen*`) -> factor of the learning rate; the first
            pattern that fits counts, 1 without one. ValueError for a pattern that fits none.

    Raises:
        UserError: activations are to be recomputed, and the module cannot.
    """

    def __init__(
        self, module: nn.Module, optimisation: Optimisation, folder: Path, rates: Mapping[str, float] | None = None
    ) -> None:
        self.module, self.optimisation, self.folder = module, optimisation, folder
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.masters = masters_of(self.parameters) if optimisation.masters else self.parameters
        self.optimizer = adamw(self.masters, optimisation, rates or {})
        self.average = {n: p.detach().clone() for n, p in self.masters.items()} if optimisation.ema_decay else {}
        if optimisation.recompute:
            _recompute(module)
        self.step = 0
        self.notes: dict[str, Any] = {}
        self._stop = False
        self._resume()

    # --- learning ---------------------------------------------------------------------------------------------------

    def learning_rate(self) -> float:
        """Linear warm-up, then cosine decay to `final_learning_rate` of the peak."""
        o = self.optimisation
        if self.step < o.warmup:
            return o.learning_rate * (self.step + 1) / o.warmup
        share = (self.step - o.warmup) / max(1, o.steps - o.warmup)
        low = o.final_learning_rate
        return o.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))

    def update(self, losses: Tensor | Iterable[Tensor]) -> dict[str, float]:
        """One optimiser step over the sum of the losses, each propagated as it comes (gradient accumulation).

        Raises:
            UserError: a loss or the gradient is not finite; no weight has been touched.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self.module.zero_grad(set_to_none=True)
        total = 0.0
        for loss in [losses] if isinstance(losses, Tensor) else losses:
            loss.backward()
            total += loss.item()
        total = distributed.total(total)
        for name, master in self.masters.items():
            parameter = self.parameters[name]
            if master is not parameter and parameter.grad is not None:
                master.grad, parameter.grad = parameter.grad.float(), None
        norm = distributed.full(nn.utils.clip_grad_norm_(list(self.masters.values()), self.optimisation.gradient_clip))
        if not (math.isfinite(total) and torch.isfinite(norm)):
            raise UserError(
                f"Step {self.step}: the loss ({total}) or its gradient ({norm.item()}) is not finite",
                "Lower the learning rate and run again; the last checkpoint on disk is untouched",
            )
        rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.step()
        self._place(self.masters)
        self._follow()
        return {"loss": total, "gradient_norm": norm.item(), "learning_rate": rate}

    def _follow(self) -> None:
        if not self.average:
            return
        # Early on the average follows closely, or it would remember the random start.
        decay = min(self.optimisation.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.masters.values()), 1 - decay)

    @torch.no_grad()
    def _place(self, values: Mapping[str, Tensor]) -> None:
        """Copy weights into the module, in its precision."""
        for name, value in values.items():
            if value is not self.parameters[name]:
                self.parameters[name].copy_(value)

    def use_average(self) -> None:
        """Put the averaged weights in place: the last act of a run."""
        self._place(self.average)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within this block the averaged weights are in place."""
        before = {name: self.parameters[name].detach().clone() for name in self.average}
        self._place(self.average)
        try:
            yield
        finally:
            self._place(before)

    def keep(self) -> None:
        """Remember the averaged weights of now, or the weights where there is no average, in a file."""
        kept = distributed.collected(self.average or self.masters)
        if distributed.rank() == 0:
            with replacing(self.folder / "kept.safetensors") as temporary:
                save_file(kept, temporary)
        distributed.barrier(f"step {self.step} kept")

    def use_kept(self) -> None:
        """Put the weights that were kept last in place, as the last act of a run."""
        kept = load_file(self.folder / "kept.safetensors")
        self._place({name: distributed.placed(value, self.masters[name]) for name, value in kept.items()})

    # --- steps and checkpoints --------------------------------------------------------------------------------------

    def steps(self) -> Iterable[int]:
        """The steps still to be done; saves every `checkpoint_every` steps and at SIGTERM."""
        previous = self._listen()
        try:
            while self.step < self.optimisation.steps:
                yield self.step
                self.step += 1
                stop = distributed.anyone(self._stop)
                if stop or self.step % self.optimisation.checkpoint_every == 0:
                    self.save()
                if stop:
                    raise Stopped(f"Stopped at step {self.step}", "Run the same command again to go on from there")
        finally:
            if previous is not None:
                signal.signal(signal.SIGTERM, previous)

    def _listen(self) -> Any:
        if threading.current_thread() is not threading.main_thread():
            return None

        def stop(*_: object) -> None:
            self._stop = True

        return signal.signal(signal.SIGTERM, stop)

    def save(self) -> None:
        """Write the whole state under a temporary name, then give it its name.

        Tensors are written whole, by the first rank, so that a run may go on with another number of processes.
        """
        distributed.barrier(f"step {self.step}")
        state = {"weights": distributed.collected(self.masters), "optimizer": distributed.collected(self._moments())}
        if self.average:
            state["average"] = distributed.collected(self.average)
        if distributed.rank() == 0:
            temporary = self.folder / "checkpoint.tmp"
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            for name, tensors in state.items():
                save_file(tensors, temporary / f"{name}.safetensors")
            (temporary / "state.json").write_text(json.dumps({"step": self.step, "notes": self.notes}))
            replace_folder(temporary, self.folder / "checkpoint")
        distributed.barrier(f"step {self.step} saved")

    def _moments(self) -> dict[str, Tensor]:
        return {
            f"{name}|{key}": torch.as_tensor(value)
            for name, parameter in self.masters.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }

    def _resume(self) -> None:
        checkpoint = standing(self.folder / "checkpoint")
        if checkpoint is None:
            return
        state = json.loads((checkpoint / "state.json").read_text())
        self.step, self.notes = state["step"], state["notes"]
        with torch.no_grad():
            for name, value in load_file(checkpoint / "weights.safetensors").items():
                self.masters[name].copy_(distributed.placed(value, self.masters[name]))
        self._place(self.masters)
        if self.average:
            saved = load_file(checkpoint / "average.safetensors")
            self.average = {name: distributed.placed(saved[name], p) for name, p in self.masters.items()}
        for key, value in load_file(checkpoint / "optimizer.safetensors").items():
            name, moment = key.rsplit("|", 1)
            parameter = self.masters[name]
            # AdamW counts its steps in a plain number on the CPU.
            self.optimizer.state[parameter][moment] = distributed.placed(value, parameter) if value.ndim else value
