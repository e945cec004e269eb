"""The additive joiner's log-probabilities at chosen pairs of frames, with a backward of only the pairs that matter.

Most positions that pruning keeps are passed by next to no alignment: their gradients are all but 0 and yet cost as
much as the others', or more, where they are denormal numbers. The backward leaves them out, and it recomputes the
hidden layer of the others, so that log-probabilities (R, V) are all that is held.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS_PER_BLOCK = 2048
"""Rows of which the forward computes the hidden layer and the logits at once."""
SMALLEST_GRADIENT = 1e-6
"""Rows whose gradient is less than this share of the largest one count as 0; near float32's rounding of the sums."""


class AdditiveJoiner(Protocol):
    """A joiner whose logits are output(tanh(encoder frame + decoder frame))."""

    output: nn.Linear


class Rows(NamedTuple):
    """Where the joiner is evaluated, and of which token besides blank (0) the log-probability is wanted; each (R,)."""

    encoder_frame: Tensor
    """Index into N * T encoder frames."""
    decoder_frame: Tensor
    """Index into N * (U + 1) decoder frames."""
    token: Tensor
    """Token."""


def joiner_log_probs(joiner: AdditiveJoiner, encoder_frames: Tensor, decoder_frames: Tensor, rows: Rows) -> Tensor:
    """Log-probabilities of each row's token and of blank, (R, 2), in float32 or wider.

    Args:
      joiner: its output layer is all that is used.
      encoder_frames: projected to the joiner's size, (N, T, J).
      decoder_frames: projected to the joiner's size, (N, U + 1, J).
      rows: the pairs of frames.
    """
    return _JoinerLogProbs.apply(
        encoder_frames.flatten(0, 1), decoder_frames.flatten(0, 1), joiner.output.weight, joiner.output.bias, *rows
    )


class _JoinerLogProbs(torch.autograd.Function):
    """Arguments as `joiner_log_probs`, frames flattened: encoder frames (N * T, J), decoder frames (N * (U + 1), J)."""

    @staticmethod
    def forward(
        ctx: Any, encoder_frames: Tensor, decoder_frames: Tensor, weight: Tensor, bias: Tensor, *rows: Tensor
    ) -> Tensor:
        blocks = []
        for encoder_index, decoder_index, _ in zip(*(index.split(ROWS_PER_BLOCK) for index in rows)):
            logits = F.linear(_hidden(encoder_frames, decoder_frames, encoder_index, decoder_index), weight, bias)
            blocks.append(logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1))
        log_probs = torch.cat(blocks)
        ctx.save_for_backward(encoder_frames, decoder_frames, weight, log_probs, *rows)
        return log_probs.gather(1, _token_and_blank(rows[2]))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        encoder_frames, decoder_frames, weight, log_probs, *rows = ctx.saved_tensors
        size = grad.abs().sum(1)
        matters = ~(size <= SMALLEST_GRADIENT * size.max())  # so that NaN matters
        encoder_index, decoder_index, token = (index[matters] for index in rows)
        grad = grad[matters]
        hidden = _hidden(encoder_frames, decoder_frames, encoder_index, decoder_index)
        grad_logits = log_probs[matters].exp_().mul_(-grad.sum(1, keepdim=True))
        grad_logits = grad_logits.scatter_add_(1, _token_and_blank(token), grad).to(hidden.dtype)
        grad_sum = (grad_logits @ weight.to(hidden.dtype)).mul_(1 - hidden.square())
        return (
            _sum_by_index(grad_sum, encoder_index, encoder_frames),
            _sum_by_index(grad_sum, decoder_index, decoder_frames),
            (grad_logits.t() @ hidden).to(weight.dtype),
            grad_logits.sum(0).to(weight.dtype),
            *(None for _ in rows),
        )


def _hidden(encoder_frames: Tensor, decoder_frames: Tensor, encoder_index: Tensor, decoder_index: Tensor) -> Tensor:
    """tanh of the sums of these frames, (R, J)."""
    return (encoder_frames.index_select(0, encoder_index).add_(decoder_frames.index_select(0, decoder_index))).tanh_()


def _token_and_blank(token: Tensor) -> Tensor:
    """Columns of the wanted log-probabilities, (R, 2)."""
    return torch.stack([token, torch.zeros_like(token)], dim=1)


def _sum_by_index(rows: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """Rows (R, J) of the same index added up, shaped as `like`."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.zeros_like(like, dtype=dtype).index_add_(0, index, rows.to(dtype)).to(like.dtype)
