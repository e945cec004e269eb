"""How much memory a search needs, beyond the model and what it searches."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import torch

MEBIBYTE = 2**20
PATIENCE = 120.0
"""Seconds after which a search that is measured is given up."""


def peak_memory(search: Callable[[], object], device: torch.device) -> float | None:
    """Memory (MiB) that a call takes at most beyond what is taken before; None where it cannot be measured.

    On a GPU that is what torch allocates. Elsewhere the call is made, on one thread, in a copy of this process that is
    thrown away, so that every search begins with the same memory and gains nothing from what another has freed. What
    this process has freed lies in holes there, as it does here, so a call may take somewhat more than in a new one.
    """
    if device.type == "cuda":
        return _on_gpu(search, device)
    if not Path("/proc/self/clear_refs").exists():
        return None
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _measure(search, writing)
    os.close(writing)
    return _answer(child, reading)


def _on_gpu(search: Callable[[], object], device: torch.device) -> float:
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    search()
    return (torch.cuda.max_memory_allocated(device) - before) / MEBIBYTE


def _measure(search: Callable[[], object], writing: int) -> None:
    """In the copy: search, tell the peak, and end without any clean-up of what belongs to the original.

    Pages of programs and libraries are no memory of the search; they can only be told apart after it. Source of the
    names: proc(5), /proc/[pid]/status and clear_refs.
    """
    status = 1
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        torch.set_num_threads(1)  # the threads of the original are not copied
        _return_freed_memory()
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest resident size so far
        before = _status("RssAnon")
        search()
        highest = _status("VmHWM") - _status("RssFile") - _status("RssShmem")
        os.write(writing, struct.pack("d", max(0.0, highest - before)))
        status = 0
    finally:
        os._exit(status)


def _return_freed_memory() -> None:
    """Give what was freed, and is kept for later, back to the system; where the C library is not glibc, do nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status(name: str) -> float:
    """An entry (MiB) of this process's status."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


def _answer(child: int, reading: int) -> float | None:
    """What the copy tells; None if it fails or takes too long."""
    with os.fdopen(reading, "rb") as pipe:
        ready, _, _ = select.select([pipe], [], [], PATIENCE)
        answer = pipe.read(8) if ready else b""
    if not ready:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return float(struct.unpack("d", answer)[0]) if len(answer) == 8 else None
