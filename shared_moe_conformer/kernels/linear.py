"""Linear maps, on AMD's CPUs by oneDNN.

torch multiplies float32 matrices with MKL, which on a CPU that is not Intel's uses no more than AVX2. The oneDNN inside
torch uses AVX-512 wherever there is some: 2.3 times as fast on an AMD EPYC, a fifth slower on an Intel Xeon. oneDNN
generates code for each number of rows; therefore products are computed in pieces of few sizes.
"""

from __future__ import annotations

import functools
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
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        grad_x = _product(grad, weight.t(), None) if ctx.needs_input_grad[0] else None
        grad_weight = _outer(grad, x) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, grad.sum(0) if ctx.has_bias else None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b, (M, O)."""
    if len(x) < FEWEST_ROWS:
        return F.linear(x, weight, bias)
    out = x.new_empty(len(x), len(weight))
    for rows, place in zip(x.split(_pieces(len(x))), out.split(_pieces(len(x)))):
        place.copy_(_onednn(_filled_up(rows), weight, bias)[: len(rows)])
    return out


def _outer(x: Tensor, y: Tensor) -> Tensor:
    """x^T y (I, O) of rows (M, I) and (M, O)."""
    pieces = zip(x.split(_pieces(len(x))), y.split(_pieces(len(y))))
    parts = (_onednn(_filled_up(rows).t(), _filled_up(others).t(), None) for rows, others in pieces)
    return functools.reduce(Tensor.add_, parts)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
    return out


def _pieces(num_rows: int) -> list[int]:
    num_full = max(-(-(num_rows - PIECE * 3 // 2) // PIECE), 0)
    return [*[PIECE] * num_full, num_rows - PIECE * num_full]


def _filled_up(rows: Tensor) -> Tensor:
    """The rows and zeros after them, so that few numbers of rows occur."""
    return F.pad(rows, (0, 0, 0, -len(rows) % FEWEST_ROWS))
