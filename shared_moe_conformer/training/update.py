"""An update of the model, seen from around it: what it gets, what it reports, and how far the training is then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from shared_moe_conformer.training.metrics import LossTotals


class AsrBatchLike(Protocol):
    """What the trainer reads of a batch; `data.batch.AsrBatch` is one."""

    @property
    def x(self) -> Tensor:
        """Features, (N, T, F)."""

    @property
    def x_lens(self) -> Tensor:
        """Valid feature frames, (N,)."""

    @property
    def y(self) -> Tensor:
        """Tokens, (N, U)."""

    @property
    def y_lens(self) -> Tensor:
        """Valid tokens, (N,)."""

    @property
    def cut_ids(self) -> Sequence[str]:
        """The cuts."""


@dataclass
class TrainState:
    """How far the training has come."""

    epoch: int = 1
    """Epoch being trained, from 1."""
    num_batches: int = 0
    """Batches of this epoch that each process has done."""
    step: int = 0
    """Updates done."""
    progress_at_peak: float = 0.0
    """Share of the training done when the learning rate reached its peak."""
    num_skipped: int = 0
    """Updates skipped, since a loss or the gradient was not finite."""
    skipped_in_a_row: int = 0
    """Updates skipped since the last that was made."""

    def next_epoch(self) -> None:
        """Go on to the beginning of the next epoch."""
        self.epoch, self.num_batches = self.epoch + 1, 0


class StepReport(NamedTuple):
    """What one update was like, over the batches of all processes."""

    totals: LossTotals
    num_feature_frames: int
    """Feature frames of the batches, of 10 ms."""
    learning_rate: float
    grad_norm: float
    """Before clipping."""
    num_batches: int = 1
    """Batches of this process."""
    frames_to_balance: Tensor | None = None
    """Frames of each expert that shall be even in each row, (L, E); None without experts, and of a skipped update."""
    clipped: bool = False
    """The gradient was longer than the config allows."""
    skipped: str = ""
    """Why the update was skipped; empty: it was made."""
    suspects: tuple[str, ...] = ()
    """Of a skipped update: the cuts whose features are not finite; where there is none, all its cuts."""
