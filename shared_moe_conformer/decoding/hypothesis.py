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
    confidences: list[float] | None = None
    """How sure the search is of each token, 0 to 1; None: it does not say."""
    word_frames: list[int] | None = None
    """Encoder frame at which the graph gave each of `words`."""
    word_confidences: list[float] | None = None
    """How sure the search is of each of `words`; None: as sure as of its least sure token."""


def hypotheses_from_frames(
    tokens: Tensor, scores: Tensor, *, blank_id: int = 0, confidences: Tensor | None = None
) -> list[Hypothesis]:
    """The hypotheses of tokens that were found frame by frame.

    Args:
      tokens: the token of each frame, blank where there is none, (N, T), or (N, T, S) with up to S tokens a frame.
      scores: log-probability of each utterance, (N,).
      confidences: of each token, in the shape of `tokens`.
    """
    tokens = tokens.cpu()
    found = tokens != blank_id
    hyps = [
        Hypothesis(row[mask].tolist(), mask.nonzero()[:, 0].tolist(), score)
        for row, mask, score in zip(tokens, found, scores.tolist())
    ]
    if confidences is None:
        return hyps
    sure = confidences.cpu()
    return [hyp._replace(confidences=row[mask].tolist()) for hyp, row, mask in zip(hyps, sure, found)]


def trace_back(parents: Tensor, values: Tensor, best: Tensor) -> Tensor:
    """What each frame added on the way to one beam entry per utterance, (N, T).

    Args:
      parents: beam entry of the frame before that each entry continues, (T, N, K).
      values: what each entry added at its frame: a token or blank, or something about it, (T, N, K).
      best: beam entry after the last frame, (N,).
    """
    path = torch.empty(values.shape[:2], dtype=values.dtype, device=values.device)
    entry = best.unsqueeze(1)
    for t in reversed(range(len(values))):
        path[t] = values[t].gather(1, entry).squeeze(1)
        entry = parents[t].gather(1, entry)
    return path.t()
