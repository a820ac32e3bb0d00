"""Functions run by several processes at once, as torchrun would start them."""

import multiprocessing
import os
import socket
import time

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["model.rl", "model.sft", "tests.model.toys"])  # imported once, by the server


def within(seconds, holds):
    """Wait for what another process brings about."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _enter(rank, world, port, function, arguments):
    import torch

    from model.distributed import processes

    torch.set_num_threads(1)
    names = {
        "TORCHELASTIC_RUN_ID": "test",
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": world,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    os.environ.update({name: str(value) for name, value in names.items()})
    with processes():
        function(*arguments)


def on_ranks(world, function, *arguments, seconds=120):
    """Run a function of a test module on `world` ranks; all of them must end well within the time."""
    port = free_port()
    workers = [FORKS.Process(target=_enter, args=(rank, world, port, function, arguments)) for rank in range(world)]
    for worker in workers:
        worker.start()
    until = time.monotonic() + seconds
    for worker in workers:
        worker.join(max(0.0, until - time.monotonic()))
    codes = [worker.exitcode for worker in workers]
    for worker in workers:
        worker.kill()
    assert codes == [0] * world, codes
