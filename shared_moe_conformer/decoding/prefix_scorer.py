"""What a beam adds to its hypotheses besides the model's own scores, as tables: language models, hotwords.

The score of a hypothesis depends on its tokens alone, so hypotheses whose tokens have become equal have equal ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

MAX_TABLE = 1 << 26
"""Entries of an automaton's tables at most, 12 bytes each: 0.8 GB."""


class PrefixScorer(NamedTuple):
    """A deterministic automaton over tokens, complete: every state has a score and a successor for every token.

    State 0 is the start. A blank changes neither state nor score.
    """

    next_state: Tensor
    """State after each token, (S, V), int64."""
    score: Tensor
    """What each token adds to the hypothesis's log-probability (nats), (S, V)."""
    final: Tensor
    """What the end adds in each state, (S,)."""

    def scaled(self, scale: float) -> PrefixScorer:
        """The automaton whose scores count this many times."""
        return self._replace(score=scale * self.score, final=scale * self.final)

    def to(self, device: torch.device) -> PrefixScorer:
        """The automaton on a device."""
        return PrefixScorer(*(table.to(device) for table in self))

    def total(self, tokens: Sequence[int]) -> float:
        """The score of a whole token sequence, one token after the other."""
        state, total = 0, 0.0
        for token in tokens:
            total += float(self.score[state, token])
            state = int(self.next_state[state, token])
        return total + float(self.final[state])
