"""The pruned transducer loss, forward and backward, against its peers.

    python -m benchmarks.pruned_transducer

Peers are k2 and fast_rnnt where they are installed, called as icefall calls them. Two inputs: random ones, as when
training begins, and ones to which the loss was fitted for some steps, as later, when few alignments have weight.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.tables import Floor, Report, Table, command_line
from benchmarks.timing import Timing, peak_memory, take_turns
from shared_moe_conformer.loss import transducer
from shared_moe_conformer.loss.pruned_transducer import pruned_transducer_loss, transducer_functions
from shared_moe_conformer.model.asr_model import Joiner

N, T, U, V, J, PRUNE_RANGE = 8, 250, 40, 500, 512, 5
QUICK = (2, 12, 3, 7, 4, 2)
FITTING_STEPS = 30
EVERYTHING = 10**6
"""A pruning range that keeps every position."""
TIME_FLOOR, MEMORY_FLOOR, GRADIENT_FLOOR = 0.5, 0.4, 1e-5
OURS, FULL = "ours, torch", "all positions, no pruning"
FUNCTIONS = ("rnnt_loss_smoothed", "do_rnnt_pruning", "rnnt_loss_pruned", "mutual_information_recursion")

SMOOTHING: dict[str, Any] = {"lm_only_scale": 0.25, "am_only_scale": 0.0}
"""Smoothing of the simple loss, as icefall's recipes have it."""


class Batch(NamedTuple):
    """The first arguments of `pruned_transducer_loss`."""

    am_simple: Tensor
    lm_simple: Tensor
    encoder_frames: Tensor
    decoder_frames: Tensor
    joiner: Joiner
    y: Tensor
    x_lens: Tensor
    y_lens: Tensor

    def parameters(self) -> list[Tensor]:
        """The tensors that have gradients."""
        return [*self[:4], *self.joiner.output.parameters()]

    def gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        """Gradients of `parameters()`; None where the loss does not depend on one."""
        return torch.autograd.grad(loss, self.parameters(), allow_unused=True)

    def double(self) -> Batch:
        """The same in float64, with parameters of its own."""
        names = ("am_simple", "lm_simple", "encoder_frames", "decoder_frames")
        frames: dict[str, Any] = {name: getattr(self, name).detach().double().requires_grad_() for name in names}
        return self._replace(joiner=copy.deepcopy(self.joiner).double(), **frames)

    def boundary(self) -> Tensor:
        """[begin_symbol, begin_frame, end_symbol, end_frame] of each utterance, (N, 4)."""
        zeros = torch.zeros_like(self.x_lens)
        return torch.stack([zeros, zeros, self.y_lens, self.x_lens], dim=1)


def make_batch(n: int, t: int, u: int, v: int, j: int) -> Batch:
    """Random frames (N, T, ...) and tokens (N, U) of V units, for a joiner of J channels; nothing is padding."""
    shapes = {"am_simple": (t, v), "lm_simple": (u + 1, v), "encoder_frames": (t, j), "decoder_frames": (u + 1, j)}
    frames: dict[str, Any] = {name: torch.randn(n, *shape, requires_grad=True) for name, shape in shapes.items()}
    y, x_lens, y_lens = torch.randint(1, v, (n, u)), torch.full((n,), t), torch.full((n,), u)
    return Batch(**frames, joiner=Joiner(3, 3, j, v), y=y, x_lens=x_lens, y_lens=y_lens)


Loss = Callable[[Batch], Tensor]


def measure(quick: bool) -> Report:
    """Times and gradients' errors on both inputs, and peaks."""
    n, t, u, v, j, prune_range = QUICK if quick else (N, T, U, V, J, PRUNE_RANGE)
    torch.manual_seed(0)
    batch = make_batch(n, t, u, v, j)
    losses = contenders(prune_range)
    pruned = {name: loss for name, loss in losses.items() if name != FULL}
    peaks = {name: peak_memory(call_of, name, quick) for name in losses}
    random = times_of(losses, batch, rounds=1 if quick else 11)
    errors = gradient_errors(batch, prune_range)
    fit(batch, losses[OURS], steps=1 if quick else FITTING_STEPS)
    fitted = times_of(pruned, batch, rounds=1 if quick else 11)
    errors = {name: max(error, errors[name]) for name, error in gradient_errors(batch, prune_range).items()}
    first = next(iter(losses))
    rows = [
        [
            name,
            1e3 * random[name].seconds,
            random[name].ratio,
            fitted[name].ratio if name in fitted else None,
            peaks[name],
            peaks[name] / max(peaks[first], 0.1),
            errors.get(name),
        ]
        for name in losses
    ]
    columns = ["", "ms", f"ratio to {first}", "ratio, fitted input", "peak MiB", "ratio", "gradients' error"]
    title = f"Pruned transducer, N {n}, T {t}, U {u}, V {v}, joiner {j}, range {prune_range}; forward and backward"
    floors = []
    if first == "k2":
        floors = [
            Floor("loss against k2, time", TIME_FLOOR, random[OURS].ratio),
            Floor("loss against k2, time, fitted input", TIME_FLOOR, fitted[OURS].ratio),
            Floor("loss against k2, memory", MEMORY_FLOOR, peaks[OURS] / max(peaks[first], 0.1)),
            Floor("loss against k2 in float64, gradients", GRADIENT_FLOOR, errors[OURS]),
        ]
    return Report([Table(title, columns, rows)], floors)


def as_in_icefall(functions: Any, prune_range: int) -> Loss:
    """Both losses by four functions, of k2 or of another module that has them by the same names."""

    def loss(batch: Batch) -> Tensor:
        boundary = batch.boundary()
        common = {"symbols": batch.y, "termination_symbol": 0, "boundary": boundary, "reduction": "sum"}
        simple_loss, (px_grad, py_grad) = functions.rnnt_loss_smoothed(
            lm=batch.lm_simple, am=batch.am_simple, return_grad=True, **SMOOTHING, **common
        )
        ranges = functions.get_rnnt_prune_ranges(px_grad, py_grad, boundary, prune_range)
        frames = functions.do_rnnt_pruning(batch.encoder_frames, batch.decoder_frames, ranges)
        return simple_loss + functions.rnnt_loss_pruned(logits=batch.joiner(*frames), ranges=ranges, **common)

    return loss


def ours(functions: Any, prune_range: int) -> Loss:
    """The loss of this package."""
    options: dict[str, Any] = {"prune_range": prune_range, "functions": functions, **SMOOTHING}
    return lambda batch: sum(pruned_transducer_loss(*batch, **options), torch.zeros(()))


def contenders(prune_range: int, ranges: Tensor | None = None) -> dict[str, Loss]:
    """By name; the first is what the others are compared to. `FULL` keeps every position.

    Args:
      prune_range: positions kept at each frame.
      ranges: those positions, in place of the ones that each finds.
    """
    peers = [name for name in ("k2", "fast_rnnt") if importlib.util.find_spec(name)]
    modules = {name: importlib.import_module(name) for name in peers}
    table = {name: as_in_icefall(with_ranges(module, ranges), prune_range) for name, module in modules.items()}
    for name, backend in ((OURS, "torch"), ("ours, k2", "k2")):
        if backend in ("torch", *peers):
            table[name] = ours(with_ranges(transducer_functions(backend, "cpu"), ranges), prune_range)
    return table if ranges is not None else {**table, FULL: ours(transducer_functions("torch", "cpu"), EVERYTHING)}


def with_ranges(functions: Any, ranges: Tensor | None) -> Any:
    """The functions that a module has; if `ranges` are given, the one that finds pruning ranges returns these."""
    if ranges is None:
        return functions
    found = {name: getattr(functions, name) for name in FUNCTIONS if hasattr(functions, name)}
    return SimpleNamespace(**found, get_rnnt_prune_ranges=lambda *arguments: ranges)


def call_of(name: str, quick: bool) -> Callable[[], object]:
    """Forward and backward of a contender, for a process of its own."""
    n, t, u, v, j, prune_range = QUICK if quick else (N, T, U, V, J, PRUNE_RANGE)
    return backward(contenders(prune_range)[name], make_batch(n, t, u, v, j))


def backward(loss: Loss, batch: Batch) -> Callable[[], object]:
    """Forward and backward."""
    return lambda: batch.gradients(loss(batch))


def times_of(losses: dict[str, Loss], batch: Batch, *, rounds: int) -> dict[str, Timing]:
    """Each loss's time on one input."""
    return take_turns({name: backward(loss, batch) for name, loss in losses.items()}, rounds=rounds)


def gradient_errors(batch: Batch, prune_range: int) -> dict[str, float]:
    """Each loss's largest difference from the first one's gradients in float64, as a share of each one's largest value.

    All over the pruning ranges that this package finds: in float32 nearly equal ones would be found otherwise.
    """
    boundary = batch.boundary()
    common: dict[str, Any] = {"symbols": batch.y, "termination_symbol": 0, "boundary": boundary, "return_grad": True}
    _, (px_grad, py_grad) = transducer.rnnt_loss_smoothed(batch.lm_simple, batch.am_simple, **common, **SMOOTHING)
    losses = contenders(prune_range, transducer.get_rnnt_prune_ranges(px_grad, py_grad, boundary, prune_range))
    exact = batch.double()
    expected = exact.gradients(next(iter(losses.values()))(exact))

    def error(loss: Loss) -> float:
        pairs = zip(batch.gradients(loss(batch)), expected, strict=True)
        return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)

    return {name: error(loss) for name, loss in losses.items()}


def fit(batch: Batch, loss: Loss, *, steps: int) -> None:
    """Change the batch until its alignments are clear."""
    optimizer = torch.optim.Adam(batch.parameters(), lr=0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()


if __name__ == "__main__":
    command_line(measure, __doc__)
