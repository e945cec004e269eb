"""The matrix products of experts: frames sorted by expert, each expert computing one slice of them.

On a CPU a slice is computed in pieces whose hidden channels stay in its cache, and the backward computes activations
again instead of keeping them. On a GPU one grouped product computes all slices, without asking for their lengths.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from shared_moe_conformer.products import by_onednn, outer, pieces_of, product


class ExpertWeights(NamedTuple):
    """Feed-forwards of equal shape, stacked."""

    hidden_weight: Tensor
    """(E, C, H)."""
    hidden_bias: Tensor
    """(E, H)."""
    output_weight: Tensor
    """(E, H, C)."""
    output_bias: Tensor
    """(E, C)."""


def gated_experts(x: Tensor, index: Tensor, gates: Tensor, counts: Tensor, weights: ExpertWeights) -> Tensor:
    """The gated sum (M, C) of the outputs of each frame's experts; 0 where a frame has none.

    Args:
      x: frames, (M, C).
      index: the frames that each expert computes, expert by expert, (R,); a frame may occur several times.
      gates: weight of each of these outputs, (R,).
      counts: how many of them are each expert's, (E,).
      weights: the experts.
    """
    dtype = _dtype_of_products(x, weights.hidden_weight)
    x, gates, *parts = (tensor.to(dtype) for tensor in (x, gates, *weights))
    if x.is_cuda and has_grouped_product():
        return by_grouped_product(x, index, gates, counts, ExpertWeights(*parts))
    arguments: tuple[Any, ...] = (x, gates, index, counts.tolist(), *parts)
    if torch.is_grad_enabled():
        return _GatedExperts.apply(*arguments)
    return _forward(*arguments, keep=False)[0]


def has_grouped_product() -> bool:
    """Whether torch has products of matrices of different lengths (from 2.10)."""
    return hasattr(F, "grouped_mm")


def by_grouped_product(x: Tensor, index: Tensor, gates: Tensor, counts: Tensor, weights: ExpertWeights) -> Tensor:
    """What `gated_experts` returns, by `torch.nn.functional.grouped_mm`."""
    ends = counts.cumsum(0).to(torch.int32)
    expert = torch.searchsorted(ends, torch.arange(len(index), device=x.device), right=True)
    product = vars(F)["grouped_mm"]  # older torch lacks it
    hidden = product(x.index_select(0, index), weights.hidden_weight, offs=ends)
    hidden = F.silu(hidden + weights.hidden_bias[expert])
    out = product(hidden, weights.output_weight, offs=ends) + weights.output_bias[expert]
    return torch.zeros_like(x).index_add(0, index, out * gates.unsqueeze(1))


class _GatedExperts(torch.autograd.Function):
    """Arguments as `_forward`; autograd would stack the weights' gradients once more and keep every activation."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gates: Tensor,
        index: Tensor,
        counts: list[int],
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
    ) -> Tensor:
        result, kept = _forward(x, gates, index, counts, w1, b1, w2, b2, keep=True)
        ctx.save_for_backward(x, gates, index, w1, w2, *kept)
        ctx.counts = counts
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, gates, index, w1, w2, *kept = ctx.saved_tensors
        hiddens, outs = kept[::2], kept[1::2]
        grad_x, grad_gates = torch.zeros_like(x), torch.empty_like(gates)
        grad_w1, grad_w2 = torch.empty_like(w1), torch.empty_like(w2)
        grad_b1, grad_b2 = (w.new_zeros(w.size(0), w.size(2)) for w in (w1, w2))
        for e in (e for e, count in enumerate(ctx.counts) if count == 0):
            grad_w1[e].zero_()
            grad_w2[e].zero_()
        for (e, piece, first), hidden, out in zip(_pieces(ctx.counts, x.dtype), hiddens, outs, strict=True):
            places = index[piece]
            grad_out = grad.index_select(0, places)
            grad_gates[piece] = (grad_out * out).sum(1)
            grad_out.mul_(gates[piece].unsqueeze(1))
            _add_outer(grad_w2[e], F.silu(hidden), grad_out, anew=first)
            grad_b2[e] += grad_out.sum(0)
            grad_hidden = torch.ops.aten.silu_backward(product(grad_out, w2[e]), hidden)
            _add_outer(grad_w1[e], x.index_select(0, places), grad_hidden, anew=first)
            grad_b1[e] += grad_hidden.sum(0)
            grad_x.index_add_(0, places, product(grad_hidden, w1[e]))
        return grad_x, grad_gates, None, None, grad_w1, grad_b1, grad_w2, grad_b2


def _forward(
    x: Tensor,
    gates: Tensor,
    index: Tensor,
    counts: list[int],
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    keep: bool,
) -> tuple[Tensor, list[Tensor]]:
    """The gated sum (M, C), and of each piece, for the backward, hidden channels before the activation and outputs."""
    result = torch.zeros_like(x)
    kept: list[Tensor] = []
    for e, piece, _ in _pieces(counts, x.dtype):
        rows = x.index_select(0, index[piece])
        hidden = product(rows, w1[e].t(), b1[e], silu=not keep)
        out = product(F.silu(hidden) if keep else hidden, w2[e].t(), b2[e])
        if keep:
            kept += hidden, out
        result.index_add_(0, index[piece], out * gates[piece].unsqueeze(1))
    return result, kept


def _add_outer(total: Tensor, x: Tensor, y: Tensor, *, anew: bool) -> None:
    """total (I, O) += x^T y, or = if `anew`, of rows (M, I) and (M, O)."""
    if not by_onednn(x, total):
        total.addmm_(x.t(), y, beta=0 if anew else 1)
    elif anew:
        total.copy_(outer(x, y))
    else:
        total += outer(x, y)


def _pieces(counts: list[int], dtype: torch.dtype) -> Iterator[tuple[int, slice, bool]]:
    """Each expert, some of its rows, and whether they are its first.

    In half precision all its rows at once, because sums of gradients would be rounded too often.
    """
    begin = 0
    for e, count in enumerate(counts):
        sizes = pieces_of(count) if dtype in (torch.float32, torch.float64) else [count]
        for number, size in enumerate(sizes if count else []):
            yield e, slice(begin, begin + size), number == 0
            begin += size


def _dtype_of_products(x: Tensor, weight: Tensor) -> torch.dtype:
    """What autocast makes of a product, or the tensors' own type."""
    with torch.no_grad():
        return torch.mm(x[:0], weight[0]).dtype
