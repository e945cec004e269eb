"""The machine that computes: the choice of a device, settings and name of the CPU, processes, versions, memory."""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import os
import platform
import resource
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")
R = TypeVar("R")

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""Parts of torch's messages when memory runs out, on GPUs and CPUs."""


def add_device_flag(parser: argparse.ArgumentParser) -> None:
    """Add --device to a parser."""
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1 and so on; auto: a GPU if there is one [auto]"
    )


def choose_device(name: str) -> torch.device:
    """The device of a name; auto is a GPU where torch finds one, otherwise the CPU.

    Raises:
      ValueError: torch cannot use the device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)  # "cuda" gets no number here, since each of several processes has a GPU of its own
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"--device {name} cannot be used here ({str(error).splitlines()[0]}): give cpu, or leave it out"
        ) from error


CPU_INFO = Path("/proc/cpuinfo")
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Options of glibc's `mallopt`."""
PARAMETERS_PER_THREAD = 5_000_000
"""Parameters computing each frame that make another thread worthwhile."""
AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})


def tune_cpu(num_threads: int = 0) -> None:
    """Make torch fast on this machine's CPU; call it before anything is computed.

    Subnormal numbers count as zero: they are of no use here, and a CPU takes many times longer for them.
    Freed memory stays with the process and is used again; otherwise the system would clear new pages each time.
    On AMD's processors torch 1.13 and its MKL use old, slow code unless they are told otherwise.

    Args:
      num_threads: threads of torch; 0: torch's default, from OMP_NUM_THREADS or the number of cores.
    """
    for kind in (np.float32, np.float64):
        np.finfo(kind)  # numpy 1 warns if it looks at its types only after subnormals are gone
    torch.set_flush_denormal(True)  # for this thread, and for those that it makes
    if num_threads:
        torch.set_num_threads(num_threads)
    _keep_freed_memory()
    vendor, flags = vendor_and_flags()
    if vendor == "AuthenticAMD":
        _choose_code(flags)


def limit_threads(num_parameters: int) -> None:
    """Limit torch's threads to those that a model can keep busy; OMP_NUM_THREADS, if set, has its way.

    There are at least two: beside busy processes a single thread takes twice as long (benchmarks/README.md).

    Args:
      num_parameters: the model's parameters that compute a frame, counted once for each layer.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        enough = max(2, num_parameters // PARAMETERS_PER_THREAD)
        torch.set_num_threads(min(torch.get_num_threads(), enough))


def processor_name() -> str:
    """The CPU's name where Linux says it, otherwise its architecture."""
    return _cpu_info().get("model name", platform.machine())


def _keep_freed_memory() -> None:
    """Let glibc keep freed memory: small expert layers train 1.4 times as fast, with no higher peak (measured).

    Source: mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(MMAP_THRESHOLD, 2**30)
    libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)


def vendor_and_flags() -> tuple[str, frozenset[str]]:
    """The CPU's vendor and its features; empty where Linux does not say."""
    info = _cpu_info()
    return info.get("vendor_id", ""), frozenset(info.get("flags", "").split())


def _cpu_info() -> dict[str, str]:
    """Linux's description of the first core; empty where there is none."""
    if platform.system() != "Linux" or not CPU_INFO.is_file():
        return {}
    fields = (line.split(":", 1) for line in CPU_INFO.read_text().split("\n\n")[0].splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in fields}


def _choose_code(flags: frozenset[str]) -> None:
    """Let torch 1.13 use AVX-512 and its MKL 2020.0 AVX-512 or AVX2: products are 5 or 2.6 times as fast.

    A training step is 2.8 times as fast (measured on an EPYC). Both read their variable when they first compute.
    torch 2 uses AVX-512 by itself; its MKL chooses AVX2 and ignores the variable, so `kernels.linear` has oneDNN
    multiply there.
    """
    if flags >= AVX512:
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "7")
        os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx512")
    elif "avx2" in flags:
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")


AHEAD = 200
"""Tasks that wait in other processes at most."""


@contextmanager
def processes(num_jobs: int, executor: Executor | None = None) -> Iterator[Executor | None]:
    """Processes for `in_order`: the executor, or `num_jobs` new processes; None if this process works alone.

    Raises:
      ChildProcessError: one of the new processes was killed.
    """
    if executor is not None or num_jobs == 1:
        yield executor
        return
    try:
        with ProcessPoolExecutor(num_jobs, multiprocessing.get_context("spawn")) as pool:
            yield pool
    except BrokenProcessPool as error:
        raise ChildProcessError(
            f"one of {num_jobs} processes was killed, as happens where memory runs out: give a smaller --num-jobs"
        ) from error


def in_order(
    function: Callable[[T], R], tasks: Iterable[T], executor: Executor | None, *, ahead: int = AHEAD
) -> Iterator[R]:
    """The result of a function for each task, in their order; at most `ahead` tasks wait in other processes."""
    if executor is None:
        yield from map(function, tasks)
        return
    waiting: deque[Future[R]] = deque()
    try:
        for task in tasks:
            waiting.append(executor.submit(function, task))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


PACKAGES = ("torch", "lhotse", "k2", "numpy", "kaldialign", "sentencepiece")


def environment(device: torch.device) -> dict[str, str]:
    """Versions, processor and threads by name; packages that are not installed are left out."""
    found = {name: _version(name) for name in PACKAGES}
    return {
        "Python": platform.python_version(),
        **{name: version for name, version in found.items() if version},
        "system": platform.system(),
        "processor": processor_name(),
        "threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or a CPU."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY)


def memory_in_use() -> dict[str, float]:
    """The peak memory of this process and, where one is in use, of its GPU, in MiB."""
    memory = {"peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10}  # Linux counts KiB
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        memory["peak_gpu_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return memory
