"""Updates that are skipped, since a loss or the gradient is not finite: named, kept for a look, and not too many."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from shared_moe_conformer.training.checkpoint import save_checkpoint
from shared_moe_conformer.training.distributed import gather, world
from shared_moe_conformer.training.log import logger
from shared_moe_conformer.training.metrics import NonFiniteError
from shared_moe_conformer.training.update import AsrBatchLike, StepReport, TrainState

FOLDER = "skipped"
MAX_SAVED = 10
"""Files that each process leaves at most."""
MAX_NAMED = 20
"""Cuts that one line names at most."""


class SkippedSteps:
    """Logs skipped updates, keeps their batches, and ends a training in which too many follow each other."""

    def __init__(self, exp_dir: Path, *, max_in_a_row: int) -> None:
        """Nothing is written yet.

        Args:
          exp_dir: the experiment's folder.
          max_in_a_row: how many may follow each other; with the next one the training ends.
        """
        self.folder = exp_dir / FOLDER
        self.max_in_a_row = max_in_a_row

    def handle(self, report: StepReport, batches: Sequence[AsrBatchLike], state: TrainState) -> None:
        """Log a skipped update and keep its batches.

        Raises:
          NonFiniteError: it was one too many.
        """
        cuts = named(report.suspects)
        logger.warning("%s; the update is skipped (%d so far). Cuts: %s", report.skipped, state.num_skipped, cuts)
        name = f"epoch-{state.epoch}-batch-{state.num_batches}-process-{world().rank}.pt"
        self._save(self.folder / name, batches)
        if state.skipped_in_a_row > self.max_in_a_row:
            raise NonFiniteError(
                f"{report.skipped}; {state.skipped_in_a_row} updates in a row were of no use, nothing was changed by "
                f"them. Look at the cuts {cuts} (their batches are in {self.folder}), or lower --learning-rate, and go "
                "on from the last checkpoint with --resume true"
            )

    def _save(self, path: Path, batches: Sequence[AsrBatchLike]) -> None:
        """Keep this process's batches, if there are not many already; that the disk is full stops nothing."""
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


def suspects(batches: Sequence[AsrBatchLike]) -> tuple[str, ...]:
    """The cuts of all processes' batches whose features are not finite; where there is none, all the cuts."""
    pairs = [
        (cut_id, bool(features[:frames].isfinite().all()))
        for batch in batches
        for cut_id, features, frames in zip(batch.cut_ids, batch.x, batch.x_lens)
    ]
    everyone = [pair for part in gather(pairs) for pair in part]
    bad = tuple(cut_id for cut_id, finite in everyone if not finite)
    return bad or tuple(cut_id for cut_id, _ in everyone)


def named(cut_ids: Sequence[str]) -> str:
    """The ids in one line, the first of them if there are many."""
    more = f" and {len(cut_ids) - MAX_NAMED} more" if len(cut_ids) > MAX_NAMED else ""
    return ", ".join(cut_ids[:MAX_NAMED]) + more
