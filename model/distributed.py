"""Several processes as one trainer: who takes part, what each of them takes, and what all of them agree on.

`torchrun` starts the processes and names them by environment variables; without it every function here answers for the
one process there is and does nothing else. Models are sharded by FSDP2 (`fully_shard`). A loss is normalised over the
whole batch by whoever computes it, so gradients are summed over the ranks, never averaged. Messages are JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from data.errors import UserError

T = TypeVar("T")
PATIENCE = timedelta(minutes=20)  # how long a rank waits for the others before it gives up


@contextmanager
def processes() -> Iterator[None]:
    """Within this block the processes that torchrun started are one group (gloo on CPUs, NCCL between GPUs)."""
    if not dist.is_torchelastic_launched() or dist.is_initialized():
        yield
        return
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(device())
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process, from 0; the first one writes files and reports."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def device() -> str:
    """Where this process computes: its own GPU where there is one."""
    return f"cuda:{dist.get_node_local_rank(fallback_rank=0)}" if torch.cuda.is_available() else "cpu"


# --- what each takes, what all know -----------------------------------------------------------------------------------


def shard(items: Sequence[T], what: str) -> list[T]:
    """This rank's share: every `world()`-th item.

    Args:
        what: names the setting that makes the number of items.

    Raises:
        UserError: a rank would get nothing.
    """
    if len(items) < world():
        problem = f"{len(items)} items of {what} cannot be shared by {world()} processes"
        raise UserError(problem, f"Set {what} to {world()} or more, or start fewer processes")
    return list(items[rank() :: world()])


def places(count: int) -> range:
    """Places in the whole list of this rank's `count` items."""
    return range(rank(), world() * count, world())


def gather(value: Any) -> list[Any]:
    """What every rank has said, by rank; values are what JSON can hold."""
    if world() == 1:
        return [value]
    said = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.long) for _ in range(world())]
    dist.all_gather(lengths, torch.tensor([len(said)]))
    longest = max(int(length) for length in lengths)
    heard = [torch.zeros(longest, dtype=torch.uint8) for _ in range(world())]
    dist.all_gather(heard, torch.cat((said, said.new_zeros(longest - len(said)))))
    return [json.loads(bytes(text[: int(n)].tolist())) for text, n in zip(heard, lengths, strict=True)]


def total(value: float) -> float:
    """Sum over the ranks, the same number on all of them."""
    return float(sum(gather(value)))


def anyone(flag: bool) -> bool:
    """Whether it holds on any rank."""
    return any(gather(flag))


def barrier(where: str) -> None:
    """Wait for all ranks. UserError when they do not stand at the same place, which would mix up their results."""
    places = gather(where)
    if len(set(places)) > 1:
        told = ", ".join(f"{number}: {place}" for number, place in enumerate(places))
        raise UserError(
            f"The processes have lost each other ({told})", "Run again; training goes on from its checkpoint"
        )


# --- sharded models ---------------------------------------------------------------------------------------------------


def distribute(model: nn.Module, blocks: Sequence[nn.Module]) -> None:
    """Shard the parameters over all ranks, `blocks` one by one, the rest together; nothing with one process."""
    if world() == 1:
        return
    mesh = init_device_mesh(device().split(":")[0], (world(),))
    for module in [*blocks, model]:
        sharded = fully_shard(module, mesh=mesh)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo has no other
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_reduce_scatter_unused_params(True)  # what one rank has not used, another may have
    # Otherwise a block that is called before the model as a whole would take itself for one.
    cast(Any, model)._get_fsdp_state()._lazy_init()


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Within this block every rank holds all parameters and may call the model as often as it likes.

    Sampling needs that: ranks take different numbers of steps, and outside this block every call is a collective one.
    """
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not model, recurse=False)
            part.reshard()
        if isinstance(model, FSDPModule):
            model.reset_iter_state()  # forget the calls in between: ranks that made others would expect another order


def full(tensor: Tensor) -> Tensor:
    """The tensor with all its shards (a collective call); a plain tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed(value: Tensor, like: Tensor) -> Tensor:
    """A full tensor, known to every rank, sharded and placed as another one is."""
    value = value.to(like.device)
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def collected(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whole, on the CPU of the first rank; nothing on the others (a collective call)."""
    whole = ((name, full(tensor.detach())) for name, tensor in tensors.items())
    if rank() == 0:
        return {name: tensor.cpu().contiguous() for name, tensor in whole}
    for _ in whole:  # each is a collective call
        pass
    return {}
