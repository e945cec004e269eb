"""Products of frames with weight matrices, on a CPU by the fastest code that torch has for it.

torch multiplies float32 matrices with MKL, which gives CPUs that are not Intel's no more than AVX2. The oneDNN inside
torch uses AVX-512 wherever there is some: on an AMD EPYC it is 2.3 times as fast. It generates code for each number of
rows, half a megabyte of it; so products are computed in pieces of few sizes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

PIECE = 256
"""Rows that are computed at once, so that what comes of them stays in a CPU's cache; the last piece has half to three
halves of so many."""
FEWEST_ROWS = 16
"""Rows from which on oneDNN is faster than MKL."""
ROW_STEP = 16
"""oneDNN gets rows filled up to a multiple of it."""
SMALLEST_WEIGHT = 2**15
"""Elements of a weight matrix from which on oneDNN is faster than MKL."""


class Linear(nn.Linear):
    """`nn.Linear`, by the faster code."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out channels) for frames (..., in channels)."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear`, by the faster code.

    Args:
      x: (..., I).
      weight: (O, I).
      bias: (O,).
    """
    if _traced() or not by_onednn(x, weight) or x.numel() < FEWEST_ROWS * x.size(-1):
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.size(-1))
    out = _Linear.apply(rows, weight, bias) if torch.is_grad_enabled() else product(rows, weight, bias)
    return out.view(*x.shape[:-1], -1)


def feed_forward(x: Tensor, hidden: nn.Linear, output: nn.Linear) -> Tensor:
    """`output(F.silu(hidden(x)))` of frames (..., C), without gradient; few hidden channels are held at once."""
    if _traced() or not by_onednn(x, hidden.weight):
        return output(F.silu(hidden(x)))
    out = x.new_empty(x.shape)
    frames, places = x.reshape(-1, x.size(-1)), out.view(-1, x.size(-1))
    pieces = pieces_of(len(frames))
    for rows, place in zip(frames.split(pieces), places.split(pieces), strict=True):
        place.copy_(product(product(rows, hidden.weight, hidden.bias, silu=True), output.weight, output.bias))
    return out


def pieces_of(num_rows: int, piece: int = PIECE) -> list[int]:
    """So many rows in pieces."""
    num_full = max(-(-(num_rows - piece * 3 // 2) // piece), 0)
    return [*[piece] * num_full, num_rows - piece * num_full]


def by_onednn(x: Tensor, y: Tensor, weight_size: int | None = None) -> bool:
    """Whether a product of these is one that oneDNN computes faster.

    Args:
      x: rows.
      y: a weight matrix, or more rows.
      weight_size: elements of the weight matrix, if that is neither.
    """
    return (
        has_onednn()
        and x.device.type == "cpu"
        and x.dtype == y.dtype == torch.float32
        and (y.numel() if weight_size is None else weight_size) >= SMALLEST_WEIGHT
        and not torch.is_autocast_enabled("cpu")  # type: ignore[call-arg]
    )


@functools.cache
def has_onednn() -> bool:
    """Whether torch offers oneDNN's products of ordinary tensors (here from 2.4 on) and the CPU has AVX-512."""
    if not hasattr(torch.amp, "is_autocast_available") or not torch.backends.mkldnn.is_available():
        return False
    capability = torch.backends.cpu.get_cpu_capability()  # type: ignore[attr-defined]
    return hasattr(torch.ops.mkldnn, "_linear_pointwise") and capability == "AVX512"


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, silu: bool = False, piece: int = PIECE) -> Tensor:
    """`F.linear` of rows (M, I), with SiLU or without, without gradient; weights may be transposed views."""
    if len(x) < FEWEST_ROWS or not by_onednn(x, weight):
        out = F.linear(x, weight, bias)
        return F.silu(out, inplace=True) if silu else out
    pieces = pieces_of(len(x), piece)
    if len(pieces) == 1:
        padded = _padded(x)
        out = _onednns_linear()(padded, weight, bias, "swish" if silu else "none", [], "")
        return out if padded is x else out[: len(x)]
    out = x.new_empty(len(x), len(weight))
    for rows, place in zip(x.split(pieces), out.split(pieces), strict=True):
        place.copy_(product(rows, weight, bias, silu=silu, piece=piece))
    return out


def outer(x: Tensor, y: Tensor, *, piece: int = PIECE) -> Tensor:
    """x^T y (I, O) of rows (M, I) and (M, O), the gradient of weights, without gradient."""
    if not by_onednn(x, y, x.size(1) * y.size(1)):
        return x.t() @ y
    pieces = pieces_of(len(x), piece)
    parts = (
        _onednns_linear()(_padded(rows).t(), _padded(others).t(), None, "none", [], "")
        for rows, others in zip(x.split(pieces), y.split(pieces), strict=True)
    )
    return functools.reduce(Tensor.add_, parts)


def add_outer(total: Tensor, x: Tensor, y: Tensor, *, anew: bool = False, piece: int = PIECE) -> None:
    """total (I, O) += x^T y, or = if `anew`, of rows (M, I) and (M, O), without gradient."""
    if not by_onednn(x, total):
        total.addmm_(x.t(), y, beta=0 if anew else 1)
    elif anew:
        total.copy_(outer(x, y, piece=piece))
    else:
        total += outer(x, y, piece=piece)


def missing_rows(num_rows: int) -> int:
    """How many to add to these, so that few numbers of rows occur."""
    return -num_rows % ROW_STEP


@functools.cache
def _onednns_linear() -> Callable[..., Tensor]:
    """torch's function; to look it up takes half as long as the call of it."""
    function: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default
    return function


def _padded(rows: Tensor) -> Tensor:
    """The rows and zeros after them."""
    missing = missing_rows(len(rows))
    return F.pad(rows, (0, 0, 0, missing)) if missing else rows


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        grad_x = product(grad, weight.t(), None) if ctx.needs_input_grad[0] else None
        grad_weight = outer(grad, x) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, grad.sum(0) if ctx.has_bias else None


def _traced() -> bool:
    """Whether a graph is made for others to run."""
    return torch.jit.is_tracing() or (hasattr(torch, "compiler") and torch.compiler.is_compiling())
