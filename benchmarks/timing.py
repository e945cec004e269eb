"""The way to measure: contenders take turns, so that other work of the machine falls on all of them."""

from __future__ import annotations

import ctypes
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.tables import Ratio


@dataclass(frozen=True)
class Timing:
    """CPU seconds of a contender and of the first one, round by round."""

    own: list[float]
    of_first: list[float]

    @property
    def seconds(self) -> float:
        """The median."""
        return statistics.median(self.own)

    @property
    def ratio(self) -> Ratio:
        """To the first contender."""
        return ratio_of(self.own, self.of_first)

    def over(self, other: Timing) -> Ratio:
        """To another contender of the same rounds."""
        return ratio_of(self.own, other.own)


def ratio_of(numerators: list[float], denominators: list[float]) -> Ratio:
    """The ratio of two contenders' times, over the rounds in which both were called."""
    ratios = [x / y for x, y in zip(numerators, denominators, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Ratio(median, low, high)


def take_turns(contenders: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 1) -> dict[str, Timing]:
    """Call each contender once a round, in one order and then in the other; the first is what all are compared to.

    CPU time of the process counts, not the clock: another program's load would be on the clock.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warm_up, rounds):
        for name in names if number % 2 else reversed(names):
            start = time.process_time()
            contenders[name]()
            if number >= 0:
                seconds[name].append(time.process_time() - start)
    return {name: Timing(values, seconds[names[0]]) for name, values in seconds.items()}


def forward(function: Callable[..., Any], *inputs: Any) -> Callable[[], object]:
    """A call without gradients."""

    def call() -> object:
        with torch.no_grad():  # inference tensors that a peer caches would be refused in training
            return function(*inputs)

    return call


def training_step(module: nn.Module, function: Callable[[], Tensor]) -> Callable[[], object]:
    """Forward, backward and update of a module in training mode; `function` returns its output frames or loss."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.0)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        function().square().mean().backward()
        optimizer.step()

    return step


def peak_memory(function: Callable[..., Callable[[], object]], *arguments: Any) -> float:
    """Memory that a call needs beside what was there before it, in MiB, measured in a process of its own.

    Args:
      function: top-level, called with the arguments; what it returns is measured at its second call, since libraries
        allocate much once.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_own_peak_memory, function, arguments).result()


def _own_peak_memory(function: Callable[..., Callable[[], object]], arguments: tuple[Any, ...]) -> float:
    torch.set_num_threads(1)
    call = function(*arguments)
    call()
    ctypes.CDLL(None).malloc_trim(0)  # otherwise what the first call freed would be at hand
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident_memory()
    call()
    return peak_resident_memory() - before


def resident_memory() -> float:
    """Memory of this process, in MiB."""
    return _status("VmRSS")


def peak_resident_memory() -> float:
    """The most memory that this process has had, in MiB."""
    return _status("VmHWM")


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
