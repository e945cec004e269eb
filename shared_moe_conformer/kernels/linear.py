"""Linear maps, on AMD's CPUs by oneDNN.

torch multiplies float32 matrices with MKL, which on a CPU that is not Intel's uses no more than AVX2. The oneDNN inside
torch uses AVX-512 wherever there is some: 2.3 times as fast on an AMD EPYC, a fifth slower on an Intel Xeon. oneDNN
generates code for each number of rows; therefore products are computed in pieces of few sizes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from shared_moe_conformer.device import vendor_and_flags

PIECE = 256
"""Rows that are computed at once, so that their results stay in a CPU's cache; the last piece has 128 to 384."""
FEWEST_ROWS = 16
"""Least number of rows for which oneDNN is faster than MKL; rows are filled up to a multiple of it."""
SMALLEST_WEIGHT = 2**15
"""Least number of elements of a weight matrix for which oneDNN is faster than MKL."""


class Linear(nn.Linear):
    """`nn.Linear`, by the faster code."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out channels) for frames (..., in channels)."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear` of x (..., I), weight (O, I) and bias (O,), by the faster code."""
    if not _by_onednn(x, weight) or x.numel() < FEWEST_ROWS * x.size(-1) or _is_traced():
        return F.linear(x, weight, bias)
    out: Tensor = _Linear.apply(x.reshape(-1, x.size(-1)), weight, bias)
    return out.view(*x.shape[:-1], -1)


@functools.cache
def prefers_onednn() -> bool:
    """Whether this CPU is AMD's with AVX-512, and torch offers oneDNN's products of ordinary tensors (from 2.4 on)."""
    vendor, flags = vendor_and_flags()
    if vendor != "AuthenticAMD" or "avx512f" not in flags or not torch.backends.mkldnn.is_available():
        return False
    return hasattr(torch.amp, "is_autocast_available") and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        prefers_onednn()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and weight.numel() >= SMALLEST_WEIGHT
        and not torch.is_autocast_enabled("cpu")  # type: ignore[call-arg]
    )


def _is_traced() -> bool:
    """Whether a graph is made for others to run."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()  # type: ignore[attr-defined]  # from torch 2.1 on


class _Linear(torch.autograd.Function):
    """The product of rows (M, I) with a weight (O, I), and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        pieces = _pieces(x)
        ctx.save_for_backward(weight, *pieces)
        ctx.has_bias = bias is not None
        return _product(pieces, weight, bias, len(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weight, *pieces = ctx.saved_tensors
        grads = _pieces(grad)
        grad_x = _product(grads, weight.t(), None, len(grad)) if ctx.needs_input_grad[0] else None
        grad_weight = _outer(grads, pieces, like=weight) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, grad.sum(0) if ctx.has_bias else None


def _pieces(x: Tensor) -> list[Tensor]:
    """The rows (M, I) in pieces; the last is filled up with zeros, so that few numbers of rows occur."""
    *full, last = x.split(_lengths(len(x)))
    missing = -len(last) % FEWEST_ROWS
    return [*full, F.pad(last, (0, 0, 0, missing)) if missing else last]


def _lengths(num_rows: int) -> list[int]:
    """The rows of each piece."""
    num_full = max(-(-(num_rows - PIECE * 3 // 2) // PIECE), 0)
    return [*[PIECE] * num_full, num_rows - PIECE * num_full]


def _product(pieces: Sequence[Tensor], weight: Tensor, bias: Tensor | None, num_rows: int) -> Tensor:
    """x W^T + b, (M, O), of M rows in pieces."""
    if len(pieces) == 1:
        return _onednn(pieces[0], weight, bias)[:num_rows]
    out = weight.new_empty(num_rows, len(weight))
    for rows, place in zip(pieces, out.split(_lengths(num_rows))):
        place.copy_(_onednn(rows, weight, bias)[: len(place)])
    return out


def _outer(xs: Sequence[Tensor], ys: Sequence[Tensor], *, like: Tensor) -> Tensor:
    """x^T y (I, O) of rows (M, I) and (M, O), in pieces; transposed in memory where `like` is: sums are faster then."""
    if like.t().is_contiguous() and not like.is_contiguous():
        return _outer(ys, xs, like=like.t()).t()
    return functools.reduce(Tensor.add_, (_onednn(x.t(), y.t(), None) for x, y in zip(xs, ys)))


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
    return out
