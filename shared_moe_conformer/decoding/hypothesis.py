"""What a search returns for an utterance, and the way back through a batched beam."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Hypothesis(NamedTuple):
    """The best tokens of one utterance."""

    tokens: list[int]
    """Units, without blanks."""
    frames: list[int]
    """Encoder frame at which each token was found."""
    score: float
    """Log-probability under the search's own model of alignments; -inf where no path was found."""
    words: list[str] | None = None
    """The words, where a graph with a lexicon gave them; None: the tokens alone tell the text."""


def hypotheses_from_frames(tokens: Tensor, scores: Tensor, *, blank_id: int = 0) -> list[Hypothesis]:
    """The hypotheses of tokens that were found frame by frame.

    Args:
      tokens: the token of each frame, blank where there is none, (N, T), or (N, T, S) with up to S tokens a frame.
      scores: log-probability of each utterance, (N,).
    """
    tokens = tokens.cpu()
    found = tokens != blank_id
    return [
        Hypothesis(row[mask].tolist(), mask.nonzero()[:, 0].tolist(), score)
        for row, mask, score in zip(tokens, found, scores.tolist())
    ]


def trace_back(parents: Tensor, tokens: Tensor, best: Tensor) -> Tensor:
    """The token of each frame on the way to one beam entry per utterance, (N, T).

    Args:
      parents: beam entry of the frame before that each entry continues, (T, N, K).
      tokens: token that each entry added at its frame, or blank, (T, N, K).
      best: beam entry after the last frame, (N,).
    """
    path = torch.empty(tokens.shape[:2], dtype=tokens.dtype, device=tokens.device)
    entry = best.unsqueeze(1)
    for t in reversed(range(len(tokens))):
        path[t] = tokens[t].gather(1, entry).squeeze(1)
        entry = parents[t].gather(1, entry)
    return path.t()
