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
from torch import Tensor
from torch.autograd.function import once_differentiable


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
    """`_recursion` with the posteriors as gradients, which have no gradients of their own."""

    @staticmethod
    def forward(ctx: Any, px: Tensor, py: Tensor, boundary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_prob, px_posterior, py_posterior = _recursion(px.double(), py.double(), boundary)
        ctx.save_for_backward(px_posterior, py_posterior)
        ctx.mark_non_differentiable(px_posterior, py_posterior)
        ctx.dtype = px.dtype
        return log_prob.to(px.dtype), px_posterior, py_posterior

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        px_posterior, py_posterior = ctx.saved_tensors
        grad = grad.reshape(-1, 1, 1)
        return (grad * px_posterior).to(ctx.dtype), (grad * py_posterior).to(ctx.dtype), None


def _recursion(px: Tensor, py: Tensor, boundary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Total log-probability (N,) and the posteriors of px and py.

    A lattice and the same one turned round stand in one batch, so that one pass reaches each node from both ends.
    """
    batch, size = len(px), boundary.new_tensor([px.shape[1], py.shape[2]])
    begin, end = boundary.split(2, dim=1)
    token, blank = _inside(px, begin, end), _inside(py, begin, end + boundary.new_tensor([1, 0]))
    both_ways = (torch.cat([arcs, arcs.flip(1, 2)]) for arcs in (token, blank))
    prefix, suffix = _log_prefixes(*_with_way_to(torch.cat([begin, size - end]), *both_ways)).split(batch)
    suffix = suffix.flip(1, 2)

    log_prob = prefix[torch.arange(batch, device=px.device), boundary[:, 2], boundary[:, 3]]
    total = log_prob.masked_fill(log_prob == -math.inf, 0.0).reshape(-1, 1, 1)  # then every arc's sum is -inf, too
    token = _exp_(token.add_(prefix[:, :-1]).add_(suffix[:, 1:]).sub_(total))
    blank = _exp_(blank.add_(prefix[:, :, :-1]).add_(suffix[:, :, 1:]).sub_(total))
    return log_prob, token, blank


def _exp_(x: Tensor) -> Tensor:
    """exp in place, without the twenty times longer that a CPU takes for one that is next to 0."""
    return torch.threshold_(x.clamp_(min=-700.0).exp_(), 1e-300, 0.0)


def _inside(arcs: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    """Arcs (N, ., .), -inf unless the node that they leave is inside begin (N, 2) and end (N, 2), exclusive."""
    u, t = (torch.arange(length, device=arcs.device) for length in arcs.shape[1:])
    inside_u, inside_t = (
        (place >= first) & (place < last)
        for place, first, last in zip((u, t), begin.unsqueeze(2).unbind(1), end.unsqueeze(2).unbind(1))
    )
    return arcs.masked_fill(~(inside_u.unsqueeze(2) & inside_t.unsqueeze(1)), -math.inf)


def _with_way_to(begin: Tensor, token: Tensor, blank: Tensor) -> tuple[Tensor, Tensor]:
    """The arcs with a path of log-probability 0 from (0, 0) to begin, (N, 2), on arcs that were -inf."""
    begin_u, begin_t = begin.unsqueeze(2).unbind(1)
    u, t = (torch.arange(length, device=token.device) for length in (token.shape[1], blank.shape[2]))
    blank[:, 0].masked_fill_(t < begin_t, 0.0)
    column = begin_t.unsqueeze(2).expand(-1, len(u), 1)
    token.scatter_(2, column, token.gather(2, column).masked_fill_((u < begin_u).unsqueeze(2), 0.0))
    return token, blank


def _log_prefixes(token: Tensor, blank: Tensor) -> Tensor:
    """Log-probability of reaching each node, (N, U + 1, T + 1), by tokens (N, U, T + 1) and blanks (N, U + 1, T).

    Diagonal d = u + t of all lattices is one row, whose places are (utterance, u). Blank leads to the same place of the
    next diagonal, a token to the place after it; both are kept by the place that they lead to.
    """
    batch, rows, num_frames = blank.shape
    num_diagonals, width = rows + num_frames, batch * rows
    arcs = blank.new_full((num_diagonals - 1, 2, width), -math.inf)
    skewed = (rows, 2 * width + 1, 2 * width)  # of (utterance, u, t)
    arcs.as_strided(token.shape, skewed, 1).copy_(token)
    arcs.as_strided(blank.shape, skewed, width).copy_(blank)

    padded = blank.new_full((num_diagonals, 1 + width), -math.inf)
    prefix = padded[:, 1:]
    prefix[0] = 0.0  # also beyond (0, 0), where no arc leaves
    origins = padded.as_strided((num_diagonals, 2, width), (width + 1, 1, 1))  # each place's neighbour, and itself
    by_token, by_blank = paths = torch.empty_like(arcs[0])
    for arc, origin, node in zip(arcs.unbind(), origins.unbind(), prefix[1:].unbind()):
        torch.add(origin, arc, out=paths)
        torch.logaddexp(by_token, by_blank, out=node)
    return padded.as_strided((batch, rows, num_frames + 1), (rows, width + 2, width + 1), 1)
