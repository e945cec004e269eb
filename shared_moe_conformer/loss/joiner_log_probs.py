"""The additive joiner's log-probabilities at chosen pairs of frames, with a backward of only the pairs that matter.

Many positions that pruning keeps are passed by next to no alignment: their gradients are all but 0 and yet cost as
much as the others', or more, where they are denormal numbers. The backward leaves them out, and computes the hidden
layer of the others again rather than keep it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_moe_conformer.products import PIECE, add_outer, has_onednn, product

ROWS_PER_BLOCK = 2 * PIECE
"""Rows that are computed at once, in a CPU's cache; only log-probabilities, (R, V), are held for all of them."""
SMALLEST_GRADIENT = 2e-6
"""Rows whose gradient is less than this share of the largest one count as 0: of a frame's 5, together 1e-5 at most."""


class AdditiveJoiner(Protocol):
    """A joiner whose logits are output(tanh(encoder frame + decoder frame))."""

    @property
    def output(self) -> nn.Linear:
        """From hidden channels to logits."""


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
        encoder_index, decoder_index, token = rows
        frames = torch.cat([encoder_frames, decoder_frames])
        frames = frames.to(_at_least_float32(frames))
        pairs = torch.stack([encoder_index, decoder_index + len(encoder_frames)], dim=1)
        token_and_blank = torch.stack([token, torch.zeros_like(token)], dim=1)
        log_probs, wanted = frames.new_empty(len(pairs), len(weight)), []
        for pair, columns, of_rows in _blocks(pairs, token_and_blank, log_probs):
            logits = product(_hidden(frames, pair).to(encoder_frames.dtype), weight, bias)
            torch.log_softmax(logits.to(of_rows.dtype), 1, out=of_rows)
            wanted.append(of_rows.gather(1, columns))
        ctx.save_for_backward(frames, weight, pairs, token_and_blank, log_probs)
        ctx.sizes = len(encoder_frames), len(decoder_frames)
        ctx.dtypes = [x.dtype for x in (encoder_frames, decoder_frames, weight, bias)]
        return torch.cat(wanted)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        frames, weight, pairs, token_and_blank, log_probs = ctx.saved_tensors
        grad_frames, grad_weight = torch.zeros_like(frames), torch.zeros_like(weight, dtype=_at_least_float32(weight))
        grad_bias = grad_weight.new_zeros(len(weight))

        size = grad.abs().sum(1)
        kept = (~(size <= SMALLEST_GRADIENT * size.max())).nonzero().squeeze(1)  # so that NaN is kept
        blocks = _blocks(kept, *(x.index_select(0, kept) for x in (pairs, token_and_blank, grad)))
        for of_block, pair, columns, row_grad in blocks:
            hidden = _hidden(frames, pair).to(ctx.dtypes[0])
            grad_logits = _grad_of_logits(log_probs.index_select(0, of_block), columns, row_grad).to(hidden.dtype)
            grad_hidden = product(grad_logits, weight.to(hidden.dtype).t())
            grad_hidden = torch.ops.aten.tanh_backward(grad_hidden, hidden).to(grad_frames.dtype)
            for index in pair.unbind(1):
                grad_frames.index_add_(0, index, grad_hidden)
            add_outer(grad_weight, grad_logits.to(grad_weight.dtype), hidden.to(grad_weight.dtype))
            grad_bias += grad_logits.sum(0)
        sums = *grad_frames.split(ctx.sizes), grad_weight, grad_bias
        return (*(total.to(dtype) for total, dtype in zip(sums, ctx.dtypes)), None, None, None)


def _blocks(*rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Some rows of each tensor at a time."""
    return zip(*(x.split(ROWS_PER_BLOCK) for x in rows))


def _hidden(frames: Tensor, pairs: Tensor) -> Tensor:
    """tanh of the sum of each pair of frames, (R, J)."""
    sums = F.embedding_bag(pairs, frames, mode="sum")
    if sums.device.type == "cpu" and has_onednn():  # where torch's tanh takes four times as long as its sigmoid
        return sums.mul_(2.0).sigmoid_().mul_(2.0).sub_(1.0)
    return sums.tanh_()


def _grad_of_logits(log_probs: Tensor, columns: Tensor, grad: Tensor) -> Tensor:
    """Gradient of the logits, (R, V), from that of the log-probabilities in these columns, both (R, 2).

    It takes the place of `log_probs`.
    """
    return log_probs.exp_().mul_(-grad.sum(1, keepdim=True)).scatter_add_(1, columns, grad)


def _at_least_float32(x: Tensor) -> torch.dtype:
    """The type in which half precision is summed: float32; float64 stays."""
    return torch.promote_types(x.dtype, torch.float32)
