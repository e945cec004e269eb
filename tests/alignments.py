"""The sum over all alignments of a transducer, written out."""

from __future__ import annotations

from itertools import combinations_with_replacement

import torch
from torch import Tensor


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
