"""The additive joiner's log-probabilities at chosen pairs of frames, with a backward of only the pairs that matter.

Many positions that pruning keeps are passed by next to no alignment: their gradients are all but 0 and yet cost as
much as the others', or more, where they are denormal numbers. The backward leaves them out, and computes the hidden
layer of the others again rather than keep it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from shared_moe_conformer.products import add_outer, product

ROWS_PER_BLOCK = 1024
"""Rows that are computed at once; only log-probabilities, (R, V), are held for all of them."""
SMALLEST_GRADIENT = 1e-6
"""Rows whose gradient is less than this share of the largest one count as 0; near float32's rounding of the sums."""


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
        log_probs, wanted = [], []
        for encoder_index, decoder_index, token in _blocks(*rows):
            logits = product(_hidden(encoder_frames, decoder_frames, encoder_index, decoder_index), weight, bias)
            log_probs.append(logits.to(_at_least_float32(logits)).log_softmax(1))
            wanted.append(log_probs[-1].gather(1, _token_and_blank(token)))
        ctx.save_for_backward(encoder_frames, decoder_frames, weight, bias, *rows, *log_probs)
        return torch.cat(wanted)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        *inputs, encoder_indices, decoder_indices, tokens = ctx.saved_tensors[:7]
        log_probs = ctx.saved_tensors[7:]
        encoder_frames, decoder_frames, weight, _ = inputs
        sums = [torch.zeros_like(x, dtype=_at_least_float32(x)) for x in inputs]
        grad_encoder, grad_decoder, grad_weight, grad_bias = sums

        size = grad.abs().sum(1)
        matters = ~(size <= SMALLEST_GRADIENT * size.max())  # so that NaN matters
        blocks = _blocks(matters, grad, encoder_indices, decoder_indices, tokens)
        for block in zip(log_probs, blocks):
            kept = block[1][0].nonzero().squeeze(1)
            parts = block[0], *block[1][1:]
            of_rows, row_grad, encoder_index, decoder_index, token = (x.index_select(0, kept) for x in parts)
            hidden = _hidden(encoder_frames, decoder_frames, encoder_index, decoder_index)
            grad_logits = _grad_of_logits(of_rows, token, row_grad).to(hidden.dtype)
            grad_frames = product(grad_logits, weight.to(hidden.dtype).t())
            grad_frames = torch.ops.aten.tanh_backward(grad_frames, hidden)
            grad_encoder.index_add_(0, encoder_index, grad_frames.to(grad_encoder.dtype))
            grad_decoder.index_add_(0, decoder_index, grad_frames.to(grad_decoder.dtype))
            add_outer(grad_weight, grad_logits.to(grad_weight.dtype), hidden.to(grad_weight.dtype))
            grad_bias += grad_logits.sum(0)
        return (*(total.to(x.dtype) for total, x in zip(sums, inputs)), None, None, None)


def _blocks(*rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Some rows of each tensor at a time."""
    return zip(*(x.split(ROWS_PER_BLOCK) for x in rows))


def _hidden(encoder_frames: Tensor, decoder_frames: Tensor, encoder_index: Tensor, decoder_index: Tensor) -> Tensor:
    """tanh of the sums of these frames, (R, J)."""
    return encoder_frames.index_select(0, encoder_index).add_(decoder_frames.index_select(0, decoder_index)).tanh_()


def _token_and_blank(token: Tensor) -> Tensor:
    """Columns of the wanted log-probabilities, (R, 2)."""
    return torch.stack([token, torch.zeros_like(token)], dim=1)


def _grad_of_logits(log_probs: Tensor, token: Tensor, grad: Tensor) -> Tensor:
    """Gradient of the logits, (R, V), from that of the token's and blank's log-probabilities, (R, 2).

    It takes the place of `log_probs`.
    """
    return log_probs.exp_().mul_(-grad.sum(1, keepdim=True)).scatter_add_(1, _token_and_blank(token), grad)


def _at_least_float32(x: Tensor) -> torch.dtype:
    """The type in which half precision is summed: float32; float64 stays."""
    return torch.promote_types(x.dtype, torch.float32)
