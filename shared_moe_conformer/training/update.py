"""An update of the model: the state before it, its report, and the treatment of an update that must be skipped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from shared_moe_conformer.training.checkpoint import save_checkpoint
from shared_moe_conformer.training.distributed import gather, world
from shared_moe_conformer.training.log import logger
from shared_moe_conformer.training.metrics import LossTotals, NonFiniteError

if TYPE_CHECKING:
    from shared_moe_conformer.data.batch import AsrBatch

FOLDER = "skipped"
MAX_SAVED = 10
"""Files of skipped batches that each process leaves at most."""
MAX_NAMED = 20
"""Cuts that one line names at most."""


@dataclass
class TrainState:
    """The progress of a training."""

    epoch: int = 1
    """The epoch that is being trained, from 1."""
    num_batches: int = 0
    """Batches of this epoch that each process has done."""
    step: int = 0
    """Updates done."""
    progress: float = 0.0
    """Share of the training done, in epochs."""
    progress_at_peak: float = 0.0
    """Share of the training done when the learning rate reached its peak."""
    num_skipped: int = 0
    """Updates skipped because a loss or the gradient was not finite."""
    skipped_in_a_row: int = 0
    """Updates skipped since the last update that was made."""

    def next_epoch(self) -> None:
        """Go on to the beginning of the next epoch."""
        self.epoch, self.num_batches = self.epoch + 1, 0


class StepReport(NamedTuple):
    """The report of one update, over the batches of all processes."""

    totals: LossTotals
    num_feature_frames: int
    """Feature frames of the batches, 10 ms each; of copies only the first."""
    learning_rate: float
    grad_norm: float
    """Norm of the gradient before clipping."""
    num_batches: int = 1
    """Batches of this process."""
    frames_to_balance: Tensor | None = None
    """Frames of each expert that are balanced within each row, (L, E); None without experts and if skipped."""
    clipped: bool = False
    """Whether the gradient was longer than the config allows."""
    skipped: str = ""
    """Reason for which the update was skipped; empty: it was made."""
    suspects: tuple[str, ...] = ()
    """Cuts of a skipped update whose features are not finite; all its cuts if there is none."""


class SkippedSteps:
    """Logs skipped updates, keeps their batches, and ends a training in which too many follow each other."""

    def __init__(self, exp_dir: Path, *, max_in_a_row: int) -> None:
        """Write nothing yet.

        Args:
          max_in_a_row: skipped updates that may follow each other; one more ends the training.
        """
        self.folder = exp_dir / FOLDER
        self.max_in_a_row = max_in_a_row

    def handle(self, report: StepReport, batches: Sequence[AsrBatch], state: TrainState) -> None:
        """Log a skipped update and keep its batches.

        Raises:
          NonFiniteError: too many updates in a row were skipped.
        """
        cuts = named(report.suspects)
        logger.warning("%s; the update is skipped (%d so far). Cuts: %s", report.skipped, state.num_skipped, cuts)
        name = f"epoch-{state.epoch}-batch-{state.num_batches}-process-{world().rank}.pt"
        self._save(self.folder / name, batches)
        if state.skipped_in_a_row > self.max_in_a_row:
            raise NonFiniteError(
                f"{report.skipped}; {state.skipped_in_a_row} updates in a row were skipped and changed nothing. "
                f"Look at the cuts {cuts} (their batches are in {self.folder}), or lower --learning-rate, and go "
                "on from the last checkpoint with --resume true"
            )

    def _save(self, path: Path, batches: Sequence[AsrBatch]) -> None:
        """Keep this process's batches, unless there are many already; a full disk only gives a warning."""
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {file.name for file in self.folder.glob(f"*-process-{world().rank}.pt")}
        if len(kept) >= MAX_SAVED and path.name not in kept:
            return
        parts = [{name: getattr(batch, name).cpu() for name in ("x", "x_lens", "y", "y_lens")} for batch in batches]
        cut_ids = json.dumps([list(batch.cut_ids) for batch in batches])
        try:
            save_checkpoint(path, {"batches": parts, "cut_ids": cut_ids})
        except ValueError as error:
            logger.warning("%s", error)


def suspects(batches: Sequence[AsrBatch]) -> tuple[str, ...]:
    """The cuts of all processes' batches whose features are not finite; all the cuts if there is none."""
    pairs = [
        (cut_id, bool(features[:frames].isfinite().all()))
        for batch in batches
        for cut_id, features, frames in zip(batch.cut_ids, batch.x, batch.x_lens)
    ]
    everyone = [pair for part in gather(pairs) for pair in part]
    bad = [cut_id for cut_id, finite in everyone if not finite] or [cut_id for cut_id, _ in everyone]
    return tuple(dict.fromkeys(bad))  # copies of an utterance have one name


def named(cut_ids: Sequence[str]) -> str:
    """The ids in one line; only the first if there are many."""
    more = f" and {len(cut_ids) - MAX_NAMED} more" if len(cut_ids) > MAX_NAMED else ""
    return ", ".join(cut_ids[:MAX_NAMED]) + more
