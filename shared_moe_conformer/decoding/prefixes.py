"""Tools of batched beams: the best extensions, hashes that show which prefixes are equal, and tracing back a path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shared_moe_conformer.decoding.hypothesis import Chunk

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

    Two different sequences of a beam have the same hash with a probability of about 2**-64.
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


class Steps(NamedTuple):
    """How each beam entry arose at each frame of a chunk; (T, N, K), except `valid`."""

    parents: Tensor
    """The entry of the frame before that it continues."""
    tokens: Tensor
    """The token that it added, or blank."""
    log_probs: Tensor
    """The model's log-probability of that, or of the entry's last token; 0 in padding."""
    valid: Tensor
    """True where the frame belongs to the utterance, (N, T)."""

    @classmethod
    def none(cls, num_utterances: int, beam_size: int, device: torch.device) -> Steps:
        """The steps of a chunk without frames."""
        nothing = torch.zeros(0, num_utterances, beam_size, device=device)
        return cls(nothing.long(), nothing.long(), nothing, nothing[:, :, 0].t().bool())

    @classmethod
    def of_valid(cls, parents: Tensor, tokens: Tensor, log_probs: Tensor, valid: Tensor, *, blank_id: int) -> Steps:
        """The given steps, except that every entry continues itself by a blank in padding."""
        padding = ~valid.t().unsqueeze(2)
        itself = torch.arange(parents.size(2), device=parents.device).expand_as(parents)
        return cls(
            itself.where(padding, parents),
            tokens.masked_fill(padding, blank_id),
            log_probs.masked_fill(padding, 0.0),
            valid,
        )


def where_active(active: Tensor, after: Sequence[Tensor], before: Sequence[Tensor]) -> list[Tensor]:
    """Beams (N, K, ..) after a frame for the utterances that have it, (N,), and those before it for the others."""
    return [new.where(active.view(-1, *[1] * (new.dim() - 1)), old) for new, old in zip(after, before)]


def path_of(steps: Sequence[Steps], best: Tensor) -> Chunk:
    """The path to one beam entry of each utterance, (N,), through the steps of one or more chunks.

    Its confidences are the probabilities of its steps.
    """
    parents, tokens, log_probs = (torch.cat(parts) for parts in list(zip(*steps))[:3])
    valid = torch.cat([chunk.valid for chunk in steps], dim=1)
    return Chunk(trace_back(parents, tokens, best), trace_back(parents, log_probs, best).exp(), valid)


def trace_back(parents: Tensor, values: Tensor, best: Tensor) -> Tensor:
    """The values along the path to one beam entry per utterance, (N, T).

    Args:
      parents: beam entry of the frame before that each entry continues, (T, N, K).
      values: one of each entry at its frame, such as the token that it added, (T, N, K).
      best: beam entry after the last frame, (N,).
    """
    path = torch.empty(values.shape[:2], dtype=values.dtype, device=values.device)
    entry = best.unsqueeze(1)
    for t in reversed(range(len(values))):
        path[t] = values[t].gather(1, entry).squeeze(1)
        entry = parents[t].gather(1, entry)
    return path.t()
