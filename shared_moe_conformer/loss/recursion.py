"""The transducer's lattice: log-probability of all alignments together, and the posterior of every arc.

Node (u, t) stands before frame t with u tokens emitted. Two arcs leave it: a token to (u + 1, t), with log-probability
`px`, and blank to (u, t + 1), with log-probability `py`. An alignment is a path from (0, 0) to (U, T).
Arcs only lead from one anti-diagonal d = u + t to the next, so that one step computes a whole diagonal of all
utterances; everything is in float64, since rounding in float32 would move pruning ranges that nearly tie.

Source: Graves 2012, Sequence Transduction with RNNs, section 2.4 (arXiv 1211.3711), for the lattice; Kuang et al. 2022
(arXiv 2206.13236), section 3, for its arcs' posteriors; k2.mutual_information_recursion for names and shapes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def mutual_information_recursion(
    px: Tensor, py: Tensor, boundary: Tensor | None = None, return_grad: bool = False
) -> Any:
    """Log-probability of all alignments together, as k2's function of this name computes it (regular type).

    Args:
      px: log-probabilities of tokens, (N, U, T + 1); those of the end frame are never used (k2 wants -inf there).
      py: log-probabilities of blank, (N, U + 1, T).
      boundary: each lattice's [begin_symbol, begin_frame, end_symbol, end_frame], (N, 4), ends exclusive;
        None: [0, 0, U, T].
      return_grad: also return the arcs' posteriors, which are the gradients of the sum of the result.

    Returns:
      log-probabilities, a Tensor (N,), -inf where there is no alignment; with return_grad (log-probabilities,
      (posteriors of px, posteriors of py)), 0 outside the boundary, in float64: the pruning ranges compare nearly equal
      sums of them.
    """
    if boundary is None:
        boundary = torch.tensor([[0, 0, px.shape[1], py.shape[2]]], device=px.device).expand(len(px), 4)
    log_prob, px_posterior, py_posterior = _TotalLogProb.apply(px, py, boundary)
    return (log_prob, (px_posterior, py_posterior)) if return_grad else log_prob


class _TotalLogProb(torch.autograd.Function):
    """`_recursion` with the posteriors as gradients."""

    @staticmethod
    def forward(ctx: Any, px: Tensor, py: Tensor, boundary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_prob, px_posterior, py_posterior = _recursion(px.double(), py.double(), boundary)
        ctx.save_for_backward(px_posterior, py_posterior)
        ctx.mark_non_differentiable(px_posterior, py_posterior)
        ctx.dtype = px.dtype
        return log_prob.to(px.dtype), px_posterior, py_posterior

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        px_posterior, py_posterior = ctx.saved_tensors
        grad = grad.reshape(-1, 1, 1)
        return (grad * px_posterior).to(ctx.dtype), (grad * py_posterior).to(ctx.dtype), None


def _recursion(px: Tensor, py: Tensor, boundary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Total log-probability (N,) and the posteriors of px and py."""
    num_nodes = (py.shape[1], px.shape[2])  # (U + 1, T + 1)
    token = F.pad(px, (0, 0, 0, 1), value=-math.inf)
    blank = F.pad(py, (0, 1), value=-math.inf)
    u = torch.arange(num_nodes[0], device=px.device).reshape(1, -1, 1)
    t = torch.arange(num_nodes[1], device=px.device).reshape(1, 1, -1)
    begin_u, begin_t, end_u, end_t = boundary.reshape(-1, 4, 1, 1).unbind(1)
    inside = ((u >= begin_u) & (u <= end_u)) & ((t >= begin_t) & (t < end_t))
    # A free path leads from (0, 0) to the boundary's begin; no other arc outside can be taken.
    token = token.masked_fill(~inside | (u == end_u), -math.inf).masked_fill((t == begin_t) & (u < begin_u), 0.0)
    blank = blank.masked_fill(~inside, -math.inf).masked_fill((u == 0) & (t < begin_t), 0.0)

    token, blank = _to_diagonals(token), _to_diagonals(blank)
    prefix = _forward(token, blank)
    end = boundary[:, 2] + boundary[:, 3], torch.arange(len(px), device=px.device) * num_nodes[0] + boundary[:, 2]
    token, blank = (_from_diagonals(x, num_nodes) * inside for x in _backward(token, blank, prefix, end))
    return prefix[end], token[:, :-1], blank[:, :, :-1]


def _to_diagonals(x: Tensor) -> Tensor:
    """Anti-diagonals of grids (N, U + 1, T + 1), side by side: (U + T + 1, N * (U + 1)), -inf where there is no node.

    Row u moves u places to the right when rows that are one longer than the diagonals' number are cut to that number.
    """
    batch, rows, columns = x.shape
    width = rows + columns - 1
    x = F.pad(x, (0, rows), value=-math.inf).flatten(1)
    return x[:, : rows * width].reshape(batch * rows, width).t().contiguous()


def _from_diagonals(x: Tensor, num_nodes: tuple[int, int]) -> Tensor:
    """The inverse of `_to_diagonals`."""
    rows, columns = num_nodes
    x = x.t().reshape(-1, rows * (rows + columns - 1))
    return F.pad(x, (0, rows)).reshape(-1, rows, rows + columns)[:, :, :columns]


def _forward(token: Tensor, blank: Tensor) -> Tensor:
    """Log-probability of reaching each node, shaped as the diagonals.

    Blank leads to the same place of the next diagonal, a token to the place after it (at U that would be another
    utterance's, but no token's arc leaves U).
    """
    num_diagonals, width = blank.shape
    arcs = torch.stack([F.pad(token[:, :-1], (1, 0), value=-math.inf), blank], dim=1)  # by the place that they lead to
    padded = blank.new_full((num_diagonals, width + 1), -math.inf)
    prefix = padded[:, 1:]
    prefix[0] = 0.0  # also beyond (0, 0), where no arc leaves
    begins = padded.as_strided((num_diagonals, 2, width), (width + 1, 1, 1))  # each place's neighbour, and itself
    by_token, by_blank = paths = torch.empty_like(arcs[0])
    for arc, begin, node in zip(arcs.unbind(), begins.unbind(), prefix[1:].unbind()):
        torch.add(begin, arc, out=paths)
        torch.logaddexp(by_token, by_blank, out=node)
    return prefix.contiguous()


def _backward(token: Tensor, blank: Tensor, prefix: Tensor, end: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Posteriors of the arcs that leave each node, shaped as the diagonals.

    Each arc's share of its end node's prefixes is known for all arcs at once; what is left to do, diagonal by diagonal,
    is to hand each node's posterior, 1 at `end`, back along those shares.
    """
    reached = prefix.masked_fill(prefix == -math.inf, 0.0)  # -inf - 0 is -inf, a share of 0
    token = (token + prefix)[:-1, :-1].sub_(reached[1:, 1:]).exp_()
    blank = (blank + prefix)[:-1].sub_(reached[1:]).exp_()
    posterior = torch.zeros_like(prefix)
    posterior[end] = 1.0
    nodes, rest, last = posterior.unbind(), posterior[:, 1:].unbind(), posterior[:, :-1].unbind()
    arcs = list(zip(token.unbind(), blank.unbind()))
    for d in reversed(range(len(arcs))):
        token_arc, blank_arc = arcs[d]
        nodes[d].addcmul_(blank_arc, nodes[d + 1])
        last[d].addcmul_(token_arc, rest[d + 1])
    return F.pad(token.mul_(posterior[1:, 1:]), (0, 1, 0, 1)), F.pad(blank.mul_(posterior[1:]), (0, 0, 0, 1))
