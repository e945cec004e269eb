"""What batched beams share: the choice of the best extensions, and hashes by which they recognise equal prefixes."""

from __future__ import annotations

import torch
from torch import Tensor

# Odd 64-bit constants with well-mixed bits (Source: SplitMix64, Steele et al. 2014).
_STATE_FACTOR = 0x9E3779B97F4A7C15 - (1 << 64)
_TOKEN_FACTOR = 0xBF58476D1CE4E5B9 - (1 << 64)


def best_extensions(scores: Tensor, beam_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `beam_size` best, best first: their scores, the entries that they extend, and the tokens, each (N, K).

    Args:
      scores: log-probability of each beam entry with each token added, (N, K, V).
    """
    best, index = scores.flatten(1).topk(beam_size, dim=1)
    return best, index.div(scores.size(2), rounding_mode="floor"), index % scores.size(2)


def extended_hash(prefix_hash: Tensor, token: Tensor) -> Tensor:
    """The hashes of prefixes to each of which one token was added; both int64, of shapes that broadcast.

    Two different sequences of a beam meet with a probability of about 2**-64.
    """
    mixed = prefix_hash * _STATE_FACTOR + (token + 1) * _TOKEN_FACTOR
    return mixed ^ (mixed >> 31)


def merge_equal_prefixes(scores: Tensor, prefix_hash: Tensor) -> Tensor:
    """Scores in which the first of several equal prefixes has their summed probability, and the others -inf.

    Args:
      scores: log-probability of each beam entry, best first, (N, K).
      prefix_hash: (N, K).
    """
    same = prefix_hash.unsqueeze(2) == prefix_hash.unsqueeze(1)
    nothing = scores.new_tensor(-torch.inf)
    total = scores.unsqueeze(1).where(same, nothing).logsumexp(dim=2)
    repeated = same.tril(diagonal=-1).any(dim=2)
    return nothing.where(repeated, total)
