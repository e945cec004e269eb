"""The pruned transducer loss, forward and backward, against its peers.

    python -m benchmarks.pruned_transducer

Peers are k2 and fast_rnnt where they are installed, called as icefall calls them. Two inputs: random ones, as when
training begins, and ones to which the loss was fitted for some steps, as later, when few alignments have weight.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.tables import Floor, Report, Table, command_line
from benchmarks.timing import Timing, peak_memory, take_turns
from benchmarks.transducer_batch import Batch, make_batch, step_by_step
from shared_moe_conformer.loss import transducer
from shared_moe_conformer.loss.backend import transducer_functions
from shared_moe_conformer.loss.pruned_transducer import pruned_transducer_loss
from shared_moe_conformer.loss.transducer import full_transducer_loss

N, T, U, V, J, PRUNE_RANGE = 8, 250, 40, 500, 512, 5
QUICK = (2, 12, 3, 7, 4, 2)
FITTING_STEPS = 30
TIME_FLOOR, MEMORY_FLOOR, GRADIENT_FLOOR = 0.5, 0.4, 1e-5
OURS, FULL = "ours, torch", "all positions, no pruning"

Loss = Callable[[Batch], Tensor]


def measure(quick: bool) -> Report:
    """Times on both inputs and peaks; gradients against k2's."""
    n, t, u, v, j, prune_range = QUICK if quick else (N, T, U, V, J, PRUNE_RANGE)
    torch.manual_seed(0)
    batch = make_batch([t] * n, [u] * n, vocab_size=v, joiner_dim=j)
    losses = contenders(prune_range)
    peaks = {name: peak_memory(call_of, name, quick) for name in losses}
    random = times_of(losses, batch, rounds=1 if quick else 11)
    gradient_floors = gradient_difference(losses, batch)
    fit(batch, losses[OURS], steps=1 if quick else FITTING_STEPS)
    fitted = times_of({name: loss for name, loss in losses.items() if name != FULL}, batch, rounds=1 if quick else 11)
    first = next(iter(losses))
    rows = [
        [
            name,
            1e3 * random[name].seconds,
            random[name].ratio,
            fitted[name].ratio if name in fitted else None,
            peaks[name],
            peaks[name] / max(peaks[first], 0.1),
        ]
        for name in losses
    ]
    columns = ["", "ms", f"ratio to {first}", "ratio, fitted input", "peak MiB", "ratio"]
    title = f"Pruned transducer, N {n}, T {t}, U {u}, V {v}, joiner {j}, range {prune_range}; forward and backward"
    floors = []
    if first == "k2":
        floors = [
            Floor("loss against k2, time", TIME_FLOOR, random[OURS].ratio),
            Floor("loss against k2, time, fitted input", TIME_FLOOR, fitted[OURS].ratio),
            Floor("loss against k2, memory", MEMORY_FLOOR, peaks[OURS] / max(peaks[first], 0.1)),
        ]
    return Report([Table(title, columns, rows)], floors + gradient_floors)


def as_in_icefall(functions: Any, prune_range: int) -> Loss:
    """The loss by a module's four functions."""
    return lambda batch: sum(step_by_step(batch, prune_range, functions), torch.zeros(()))


def ours(backend: str, prune_range: int) -> Loss:
    """The loss of this package."""
    functions = transducer_functions(backend, "cpu")
    options: dict[str, Any] = {"prune_range": prune_range, "lm_only_scale": 0.25, "am_only_scale": 0.0}
    return lambda batch: sum(pruned_transducer_loss(*batch, functions=functions, **options), torch.zeros(()))


def without_pruning(batch: Batch) -> Tensor:
    """The joiner at every pair of frames."""
    logits = batch.joiner(batch.encoder_frames.unsqueeze(2), batch.decoder_frames.unsqueeze(1))
    return full_transducer_loss(logits, batch.y, batch.boundary())


def contenders(prune_range: int) -> dict[str, Loss]:
    """By name; the first is what the others are compared to."""
    peers = [name for name in ("k2", "fast_rnnt") if importlib.util.find_spec(name)]
    table = {name: as_in_icefall(importlib.import_module(name), prune_range) for name in peers}
    table["torch, step by step"] = as_in_icefall(transducer, prune_range)
    table[OURS] = ours("torch", prune_range)
    if "k2" in peers:
        table["ours, k2"] = ours("k2", prune_range)
    table[FULL] = without_pruning
    return table


def call_of(name: str, quick: bool) -> Callable[[], object]:
    """Forward and backward of a contender, for a process of its own."""
    n, t, u, v, j, prune_range = QUICK if quick else (N, T, U, V, J, PRUNE_RANGE)
    return backward(contenders(prune_range)[name], make_batch([t] * n, [u] * n, vocab_size=v, joiner_dim=j))


def backward(loss: Loss, batch: Batch) -> Callable[[], object]:
    """Forward and backward."""
    return lambda: batch.gradients(loss(batch))


def times_of(losses: dict[str, Loss], batch: Batch, *, rounds: int) -> dict[str, Timing]:
    """Each loss's time on one input."""
    return take_turns({name: backward(loss, batch) for name, loss in losses.items()}, rounds=rounds)


def gradient_difference(losses: dict[str, Loss], batch: Batch) -> list[Floor]:
    """The largest difference of ours from k2's, as a share of each gradient's largest value.

    Over k2's pruning ranges: k2 finds them in float32, where some of them nearly tie, this package in float64.
    """
    if "k2" not in losses:
        return []
    pairs = zip(batch.gradients(losses["ours, k2"](batch)), batch.gradients(losses["k2"](batch)), strict=True)
    difference = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
    return [Floor("loss against k2, gradients' difference over equal pruning ranges", GRADIENT_FLOOR, difference)]


def fit(batch: Batch, loss: Loss, *, steps: int) -> None:
    """Change the batch until its alignments are clear."""
    optimizer = torch.optim.Adam(batch.parameters(), lr=0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()


if __name__ == "__main__":
    command_line(measure, __doc__)
