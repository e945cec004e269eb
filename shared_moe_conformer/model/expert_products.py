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

from shared_moe_conformer.products import (
    FEWEST_ROWS,
    add_outer,
    by_onednn,
    has_onednn,
    missing_rows,
    pieces_of,
    product,
)

PIECE = 384 if has_onednn() else 256
"""Rows of an expert that are computed at once. With oneDNN more than in dense products, since each piece fetches the
weights of its expert into the cache; its code grows with them."""

BYTES_OF_GROUPED_ROWS = 16
"""Of which `grouped_mm` wants multiples."""


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


def gated_experts(
    x: Tensor, slots: Tensor, gates: Tensor, counts: Tensor, weights: ExpertWeights, *, top_k: int = 1
) -> Tensor:
    """The gated sum (M, C) of the outputs of each frame's experts; 0 where a frame has none.

    Args:
      x: frames, (M, C).
      slots: what each expert computes, expert by expert, (R,): k + K m is the choice k of frame m.
      gates: weight of each of these outputs, (R,).
      counts: how many of them are each expert's, (E,).
      weights: the experts.
      top_k: choices of a frame at most, K.
    """
    dtype = _dtype_of_products(x, weights.hidden_weight)
    x, gates, *parts = (tensor.to(dtype) for tensor in (x, gates, *weights))
    if x.is_cuda and has_grouped_product() and fits_grouped_product(parts[0]):
        return by_grouped_product(x, slots, gates, counts, ExpertWeights(*parts), top_k=top_k)
    if torch.is_grad_enabled():
        out: Tensor = _GatedExperts.apply(x, slots, gates, counts.tolist(), top_k, *parts)
        return out
    outputs, _ = _outputs(x, slots // top_k, counts.tolist(), *parts, keep=False)
    return _sums(outputs, slots, gates, (len(x), top_k))


def has_grouped_product() -> bool:
    """Whether torch has products of matrices of different lengths (from 2.10)."""
    return hasattr(F, "grouped_mm")


def fits_grouped_product(hidden_weight: Tensor) -> bool:
    """Whether the rows of these matrices, (E, C, H), and of those that lead back have multiples of 16 bytes."""
    return all(size * hidden_weight.element_size() % BYTES_OF_GROUPED_ROWS == 0 for size in hidden_weight.shape[1:])


def by_grouped_product(
    x: Tensor, slots: Tensor, gates: Tensor, counts: Tensor, weights: ExpertWeights, *, top_k: int = 1
) -> Tensor:
    """What `gated_experts` returns, by `torch.nn.functional.grouped_mm`."""
    ends = counts.cumsum(0).to(torch.int32)
    expert = torch.searchsorted(ends, torch.arange(len(slots), device=x.device), right=True)
    index = slots // top_k
    product = vars(F)["grouped_mm"]  # older torch lacks it
    hidden = product(x.index_select(0, index), weights.hidden_weight, offs=ends)
    hidden = F.silu(hidden + weights.hidden_bias[expert])
    out = product(hidden, weights.output_weight, offs=ends) + weights.output_bias[expert]
    return torch.zeros_like(x).index_add(0, index, out * gates.unsqueeze(1))


class _GatedExperts(torch.autograd.Function):
    """Autograd would stack the weights' gradients once more and keep every activation."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, slots: Tensor, gates: Tensor, counts: list[int], top_k: int, *weights: Tensor
    ) -> Tensor:
        outputs, kept = _outputs(x, slots // top_k, counts, *weights, keep=True)
        ctx.save_for_backward(x, slots, gates, outputs, weights[0], weights[2], *kept)
        ctx.counts, ctx.top_k = counts, top_k
        return _sums(outputs, slots, gates, (len(x), top_k))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, slots, gates, outputs, w1, w2, *kept = ctx.saved_tensors
        grad_rows, grad_gates = torch.empty_like(outputs), torch.empty_like(gates)
        grad_w1, grad_w2 = torch.empty_like(w1), torch.empty_like(w2)
        grad_b1, grad_b2 = (w.new_zeros(w.size(0), w.size(2)) for w in (w1, w2))
        of_experts = list(zip(*(tensor.unbind() for tensor in (w1, w2, grad_w1, grad_b1, grad_w2, grad_b2))))
        for (_, _, weight1, _, weight2, _), count in zip(of_experts, ctx.counts, strict=True):
            if count == 0:
                weight1.zero_()
                weight2.zero_()
        pieces = _pieces(ctx.counts, slots // ctx.top_k, gates, grad_gates, outputs[:-1], grad_rows[:-1])
        for piece, rows, hidden in zip(pieces, kept[::2], kept[1::2], strict=True):
            expert, first, places, gate, grad_gate, out, grad_row = piece
            weight1, weight2, *sums = of_experts[expert]
            grad_out = grad.index_select(0, _filled_up(places, x, weight1))
            valid = grad_out[: len(places)]
            torch.sum(valid * out, 1, out=grad_gate)
            valid *= gate.unsqueeze(1)
            grad_out[len(places) :] = 0
            grad_hidden = torch.ops.aten.silu_backward(product(grad_out, weight2, piece=PIECE), hidden)
            _add_gradients(sums[2], sums[3], F.silu(hidden), grad_out, first=first)
            _add_gradients(sums[0], sums[1], rows, grad_hidden, first=first)
            grad_row.copy_(product(grad_hidden, weight1, piece=PIECE)[: len(places)])
        grad_rows[-1] = 0
        grad_x = _sums(grad_rows, slots, torch.ones_like(gates), (len(x), ctx.top_k))
        return grad_x, None, grad_gates, None, None, grad_w1, grad_b1, grad_w2, grad_b2


def _outputs(
    x: Tensor,
    index: Tensor,
    counts: list[int],
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    keep: bool,
) -> tuple[Tensor, list[Tensor]]:
    """What experts make of frames (R,), expert by expert, and a row of zeros, (R + 1, C); and for the backward of each
    piece its frames and its hidden channels before the activation."""
    outputs = x.new_empty(len(index) + 1, x.size(1))
    outputs[-1] = 0
    kept: list[Tensor] = []
    of_experts = list(zip(w1.transpose(1, 2).unbind(), b1.unbind(), w2.transpose(1, 2).unbind(), b2.unbind()))
    for expert, _, places, out in _pieces(counts, index, outputs[:-1]):
        weight1, bias1, weight2, bias2 = of_experts[expert]
        rows = x.index_select(0, _filled_up(places, x, weight1))
        hidden = product(rows, weight1, bias1, silu=not keep, piece=PIECE)
        if keep:
            kept += rows, hidden
            hidden = F.silu(hidden)
        out.copy_(product(hidden, weight2, bias2, piece=PIECE)[: len(places)])
    return outputs, kept


def _sums(rows: Tensor, slots: Tensor, gates: Tensor, shape: tuple[int, int]) -> Tensor:
    """The gated sum (M, C) of each frame's rows.

    Args:
      rows: (R + 1, C), the last of them 0.
      slots: which choice of which frame each of the R is.
      gates: (R,).
      shape: (M, K).
    """
    num_slots = shape[0] * shape[1]
    places = slots.new_full((num_slots,), len(slots))
    places.scatter_(0, slots, torch.arange(len(slots), device=slots.device))
    of_slots = gates.new_zeros(num_slots).scatter_(0, slots, gates)
    places, of_slots = places.view(shape), of_slots.view(shape)
    if rows.dtype in (torch.float32, torch.float64):
        return F.embedding_bag(places, rows, mode="sum", per_sample_weights=of_slots)
    return (F.embedding(places, rows) * of_slots.unsqueeze(2)).sum(1, dtype=rows.dtype)


def _filled_up(places: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The places of rows, the last of them again and again where a product would fill rows up.

    To gather rows more is cheaper than to copy all of them into a larger matrix.
    """
    missing = missing_rows(len(places))
    if not missing or len(places) < FEWEST_ROWS or not by_onednn(x, weight):
        return places
    return torch.cat([places, places[-1:].expand(missing)])


def _add_gradients(weight: Tensor, bias: Tensor, x: Tensor, grad: Tensor, *, first: bool) -> None:
    """weight (I, O) += x^T grad, or = if `first`, of rows (M, I) and (M, O), and bias (O,) += their sum."""
    bias += grad.sum(0)
    add_outer(weight, x, grad, anew=first, piece=PIECE)


def _pieces(counts: list[int], *rows: Tensor) -> Iterator[tuple[Any, ...]]:
    """An expert, whether the piece is its first, and the piece's part of each tensor (R, ...), expert by expert.

    In half precision all rows of an expert are one piece, because sums of gradients would be rounded too often.
    """
    whole = rows[-1].dtype not in (torch.float32, torch.float64)
    sizes = [([count] if whole else pieces_of(count, PIECE)) if count else [] for count in counts]
    numbers = ((expert, number == 0) for expert, some in enumerate(sizes) for number in range(len(some)))
    parts = zip(*(tensor.split([size for some in sizes for size in some]) for tensor in rows))
    return ((*number, *part) for number, part in zip(numbers, parts))


def _dtype_of_products(x: Tensor, weight: Tensor) -> torch.dtype:
    """What autocast makes of a product, or the tensors' own type."""
    with torch.no_grad():
        return torch.mm(x[:0], weight[0]).dtype
