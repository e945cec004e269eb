"""Several processes, started by torchrun, that train one model; each has a part of every update's batches.

Everything here also works in a process that trains alone: sums and means are then over one process.
"""

from __future__ import annotations

import inspect
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from shared_moe_conformer.config import require
from shared_moe_conformer.training.metrics import LossTotals

SECONDS_BEFORE_END = 0.5
LONGEST_WAIT = timedelta(days=1)
"""Time within which a large corpus must be read; a process that dies meanwhile is noticed at once."""

T = TypeVar("T")


class World(NamedTuple):
    """The processes of a training, and this one's place among them."""

    rank: int = 0
    """Number of this process, from 0; only process 0 writes checkpoints and the log."""
    size: int = 1
    """Processes on all machines."""
    local_rank: int = 0
    """Number of this process among those of its machine, from 0."""


def world() -> World:
    """The processes that torchrun started; one if the program was started without it.

    Source: the environment variables of torchrun, https://pytorch.org/docs/stable/elastic/run.html
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        return World()
    values = [os.environ.get(name, "0") for name in names]
    require(all(value.isdigit() for value in values), f"{', '.join(names)} are {', '.join(values)}: use torchrun")
    return World(*map(int, values))


@contextmanager
def connected(device: torch.device) -> Iterator[None]:
    """Connect the processes while the block runs, with nccl between GPUs and gloo between CPUs."""
    if world().size == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, rank, size = next(iter(dist.rendezvous("env://")))
    store = dist.PrefixStore(agreed_name(store, rank, size), store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        yield
    finally:
        # torch 1.13 waits here, holding Python's lock, for a thread that may still need the lock to free a tensor
        time.sleep(SECONDS_BEFORE_END)
        dist.destroy_process_group()


def agreed_name(store: dist.Store, rank: int, size: int) -> str:
    """A name shared by the processes that meet now, and by none before them.

    torchrun's store outlives a restart and still holds the addresses of processes that have died. Restarts cannot serve
    as the name, since each agent counts only those that it has seen. Here the first process makes up a name and sends
    it as the answer to each other process's question, a random number that only a living process waits for.
    """
    if rank:
        question = secrets.token_hex(8)
        store.set(f"question_of_{rank}", question)
        store.add(f"questions_of_{rank}", 1)
        name = store.get(f"answer_to_{question}").decode()
        store.add(f"answered_{name}", 1)
        return name
    name = secrets.token_hex(8)
    while store.add(f"answered_{name}", 0) < size - 1:
        for other in range(1, size):
            if store.add(f"questions_of_{other}", 0):
                question = store.get(f"question_of_{other}").decode()
                store.set(f"answer_to_{question}", name)
        time.sleep(0.02)
    return name


def gather(value: Any) -> list[Any]:
    """The value of every process, in order of rank."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def from_local_leader(make: Callable[[], T]) -> T:
    """Have the first process of each machine make a value, and return it in all processes of that machine.

    Raises:
      ValueError, OSError: `make` raised it; every process of the machine raises it too.
    """
    mine: T | Exception | None = None
    if world().local_rank == 0:
        try:
            mine = make()
        except (ValueError, OSError) as error:
            mine = error
    values: list[Any] = [None] * world().size
    dist.all_gather_object(values, mine, group=dist.new_group(backend="gloo", timeout=LONGEST_WAIT))
    made = values[world().rank - world().local_rank]
    if isinstance(made, Exception):
        raise made
    return made


def total_losses(totals: LossTotals) -> LossTotals:
    """The sum of the losses of all processes; some may have none."""
    total = LossTotals()
    for part in gather(totals):
        if part.num_frames:
            total.add(part)
    return total


def add_up(values: Sequence[float], device: torch.device) -> list[float]:
    """Each value summed over all processes, in float64; all processes give the same number of values."""
    if not dist.is_initialized():
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return total.tolist()


def total_of_update(totals: LossTotals, num_feature_frames: int, device: torch.device) -> tuple[LossTotals, int]:
    """The losses and feature frames of all processes' batches of an update, in one small exchange."""
    if not dist.is_initialized():
        return totals, num_feature_frames
    names, usage = list(totals.sums), totals.frames_per_expert
    counts = [] if usage is None else usage.flatten().tolist()
    sums = add_up([*totals.sums.values(), *counts, totals.num_frames, num_feature_frames], device)
    *sums, num_frames, num_feature_frames = sums  # type: ignore[assignment]
    if usage is not None:
        usage = torch.tensor(sums[len(names) :]).view_as(usage).to(usage)
    total = LossTotals(round(num_frames), dict(zip(names, sums)), usage)
    return total, round(num_feature_frames)


@torch.no_grad()
def average_buffers(model: nn.Module) -> None:
    """Replace the buffers by their means over all processes, since each gathers its own batch statistics.

    Counts and statistics of the whole update are the same in all processes and stay the same.
    """
    buffers = list(model.buffers())
    if not dist.is_initialized() or not buffers:
        return
    flat = torch.cat([buffer.flatten().double() for buffer in buffers])
    dist.all_reduce(flat)
    means = (flat / dist.get_world_size()).split([buffer.numel() for buffer in buffers])
    for buffer, mean in zip(buffers, means):
        exact = mean if buffer.is_floating_point() else mean.round()
        buffer.copy_(exact.view_as(buffer))


def data_parallel(model: nn.Module) -> nn.Module:
    """A wrapper of the model whose `backward` averages gradients over all processes; the model itself if there is one.

    It leaves buffers alone (`average_buffers`).
    """
    if not dist.is_initialized():
        return model
    parameters = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"  # its old name
    changes = any(getattr(module, "depths", ()) for module in model.modules())  # a batch may leave layers out
    options: dict[str, Any] = {option: False, "find_unused_parameters": changes}
    return nn.parallel.DistributedDataParallel(model, **options)
