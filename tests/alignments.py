"""The sum over all alignments of a transducer, written out."""

from __future__ import annotations

from itertools import combinations_with_replacement

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_moe_conformer.kernels.recursion import mutual_information_recursion


def sum_over_alignments(px: Tensor, py: Tensor) -> Tensor:
    """Log-probability of all ways to emit the tokens, each in one frame, in order, and a blank after each frame.

    Args:
      px: log-probabilities of tokens, (U, T).
      py: log-probabilities of blanks, (U + 1, T).
    """
    num_tokens, num_frames = px.shape[0], py.shape[1]
    alignments = []
    for frame_of_token in combinations_with_replacement(range(num_frames), num_tokens):
        emitted = [sum(t >= frame for frame in frame_of_token) for t in range(num_frames)]
        tokens, blanks = px[range(num_tokens), frame_of_token], py[emitted, range(num_frames)]
        alignments.append(tokens.sum() + blanks.sum())
    return torch.stack(alignments).logsumexp(0)


def sum_over_alignments_of_logits(logits: Tensor, y: Tensor) -> Tensor:
    """The same from a joiner's logits (T, U + 1, V) and tokens (U,)."""
    log_probs = logits.log_softmax(-1).transpose(0, 1)  # (U + 1, T, V)
    px = log_probs[:-1].gather(2, y.reshape(-1, 1, 1).expand(-1, logits.shape[0], 1)).squeeze(2)
    return sum_over_alignments(px, log_probs[..., 0])


def full_transducer_loss(logits: Tensor, y: Tensor, boundary: Tensor | None = None) -> Tensor:
    """Loss (N,) over all alignments from a joiner evaluated everywhere, (N, T, U + 1, V); blank is 0."""
    return full_loss(logits.log_softmax(-1), y, boundary)


def full_loss(log_probs: Tensor, y: Tensor, boundary: Tensor | None) -> Tensor:
    """The same of log-probabilities."""
    log_probs = log_probs.transpose(1, 2)  # (N, U + 1, T, V)
    px = log_probs[:, :-1].gather(3, y[..., None, None].expand(-1, -1, log_probs.shape[2], 1)).squeeze(3)
    return -mutual_information_recursion(F.pad(px, (0, 1)), log_probs[..., 0], boundary)
