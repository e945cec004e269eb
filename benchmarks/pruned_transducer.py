#!/usr/bin/env python3
"""Time and memory of the pruned transducer loss, forward and backward, as ratios to its peers in the same run.

    benchmarks/pruned_transducer.py --threads 1

Peers are k2 and fast_rnnt where they are installed, called as icefall calls them; contenders take turns, so that what
else the machine does falls on all of them. Two inputs: random ones, as when training begins, and ones to which the loss
was fitted for some steps, as later, when few alignments have weight.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from shared_moe_conformer.loss import transducer
from shared_moe_conformer.loss.backend import transducer_functions
from shared_moe_conformer.loss.pruned_transducer import pruned_transducer_loss
from shared_moe_conformer.model.joiner import Joiner

N, T, U, V, J, PRUNE_RANGE = 8, 250, 40, 500, 512, 5
FITTING_STEPS = 30


class Batch(NamedTuple):
    am_simple: Tensor
    lm_simple: Tensor
    encoder_frames: Tensor
    decoder_frames: Tensor
    joiner: Joiner
    y: Tensor
    x_lens: Tensor
    y_lens: Tensor

    def parameters(self) -> list[Tensor]:
        return [*self[:4], *self.joiner.output.parameters()]


def make_batch(num_frames: int = T, num_tokens: int = U) -> Batch:
    """Random frames, all utterances of full length."""
    torch.manual_seed(0)

    def frames(length: int, channels: int) -> Tensor:
        return torch.randn(N, length, channels, requires_grad=True)

    return Batch(
        am_simple=frames(num_frames, V),
        lm_simple=frames(num_tokens + 1, V),
        encoder_frames=frames(num_frames, J),
        decoder_frames=frames(num_tokens + 1, J),
        joiner=Joiner(1, 1, J, V),
        y=torch.randint(1, V, (N, num_tokens)),
        x_lens=torch.full((N,), num_frames),
        y_lens=torch.full((N,), num_tokens),
    )


def as_in_icefall(functions: Any) -> Callable[[Batch], Tensor]:
    """The loss by k2's four functions, or another module's of the same names."""

    def loss(batch: Batch) -> Tensor:
        zeros = torch.zeros_like(batch.x_lens)
        boundary = torch.stack([zeros, zeros, batch.y_lens, batch.x_lens], dim=1)
        common = {"symbols": batch.y, "termination_symbol": 0, "boundary": boundary, "reduction": "sum"}
        simple_loss, (px_grad, py_grad) = functions.rnnt_loss_smoothed(
            lm=batch.lm_simple,
            am=batch.am_simple,
            lm_only_scale=0.25,
            am_only_scale=0.0,
            return_grad=True,
            **common,
        )
        ranges = functions.get_rnnt_prune_ranges(px_grad, py_grad, boundary, PRUNE_RANGE)
        frames = functions.do_rnnt_pruning(batch.encoder_frames, batch.decoder_frames, ranges)
        return simple_loss + functions.rnnt_loss_pruned(logits=batch.joiner(*frames), ranges=ranges, **common)

    return loss


def ours(backend: str) -> Callable[[Batch], Tensor]:
    """The loss of this package."""
    functions = transducer_functions(backend, "cpu")
    options: dict[str, Any] = {"prune_range": PRUNE_RANGE, "lm_only_scale": 0.25, "am_only_scale": 0.0}
    return lambda batch: sum(pruned_transducer_loss(*batch, functions=functions, **options), torch.zeros(()))


def contenders() -> dict[str, Callable[[Batch], Tensor]]:
    """By name; the first is what the others are compared to."""
    peers = [name for name in ("k2", "fast_rnnt") if importlib.util.find_spec(name)]
    table = {name: as_in_icefall(importlib.import_module(name)) for name in peers}
    table["torch, step by step"] = as_in_icefall(transducer)
    table["ours, torch"] = ours("torch")
    if "k2" in peers:
        table["ours, k2"] = ours("k2")
    return table


def seconds(function: Callable[[Batch], Tensor], batch: Batch) -> float:
    start = time.perf_counter()
    torch.autograd.grad(function(batch), batch.parameters())
    return time.perf_counter() - start


def fit(batch: Batch) -> None:
    """Change the batch until its alignments are clear."""
    optimizer = torch.optim.Adam(batch.parameters(), lr=0.03)
    for _ in range(FITTING_STEPS):
        optimizer.zero_grad()
        ours("torch")(batch).backward()
        optimizer.step()


def peak_memory(name: str, threads: int) -> float:
    """Memory that one forward and backward needs beside its inputs, in MiB, measured in a process of its own."""
    command = [sys.executable, __file__, "--threads", str(threads), "--peak-memory-of", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def own_peak_memory(function: Callable[[Batch], Tensor]) -> float:
    batch = make_batch()
    seconds(function, make_batch(50, 10))  # what libraries allocate once
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident("VmHWM")
    seconds(function, batch)
    return resident("VmHWM") - before


def resident(field: str) -> float:
    """A memory figure of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def print_table(title: str, times: dict[str, list[float]], memory: dict[str, float]) -> None:
    first = next(iter(times))
    print(f"\n{title}; ratios to {first}\n{'':22}{'ms':>8}{'ratio':>8}{'peak MiB':>12}{'ratio':>8}")
    for name, values in times.items():
        ratio = statistics.median(x / y for x, y in zip(values, times[first]))
        print(
            f"{name:22}{1e3 * statistics.median(values):8.0f}{ratio:8.2f}"
            f"{memory[name]:12.0f}{memory[name] / memory[first]:8.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--rounds", type=int, default=11, help="times that each contender is measured")
    parser.add_argument("--peak-memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = contenders()
    if options.peak_memory_of:
        print(own_peak_memory(table[options.peak_memory_of]))
        return
    print(
        f"torch {torch.__version__}, {options.threads} threads; N {N}, T {T}, U {U}, V {V}, J {J}, range {PRUNE_RANGE}"
    )
    memory = {name: peak_memory(name, options.threads) for name in table}
    batch = make_batch()
    for title in ("random", "fitted"):
        if title == "fitted":
            fit(batch)
        times: dict[str, list[float]] = {name: [] for name in table}
        for _ in range(options.rounds):
            for name, function in table.items():
                times[name].append(seconds(function, batch))
        print_table(title, times, memory)


if __name__ == "__main__":
    main()
