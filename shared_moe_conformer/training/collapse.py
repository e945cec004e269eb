"""Experts that hardly compute any frame: a router has given them up, and their weights are wasted."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from shared_moe_conformer.training.metrics import expert_shares

SMALLEST_SHARE = 0.01
NUM_UPDATES = 200


class CollapsedExpert(NamedTuple):
    """An expert that computed nearly nothing of what one feed-forward gave to its experts."""

    feed_forward: int
    """In the order of depth, from 0."""
    expert: int
    """From 0."""
    share: float
    """Of the feed-forward's frames."""


class CollapseDetector:
    """Looks at the experts' shares over every 200 updates; each expert of a feed-forward is reported once."""

    def __init__(self) -> None:
        self._frames: Tensor | None = None
        self._num_updates = 0
        self._known: set[tuple[int, int]] = set()

    def add(self, frames_per_expert: Tensor | None) -> list[CollapsedExpert]:
        """The experts that are found collapsed with this update.

        Args:
          frames_per_expert: of the update, those that shall be even in each row, (L, E); None without experts.
        """
        if frames_per_expert is None:
            return []
        self._frames = frames_per_expert if self._frames is None else self._frames + frames_per_expert
        self._num_updates += 1
        if self._num_updates < NUM_UPDATES:
            return []
        shares, self._frames, self._num_updates = expert_shares(self._frames), None, 0
        found = [
            CollapsedExpert(layer, expert, float(shares[layer, expert]))
            for layer, expert in (shares < SMALLEST_SHARE).nonzero().tolist()
            if (layer, expert) not in self._known
        ]
        self._known |= {(layer, expert) for layer, expert, _ in found}
        return found
