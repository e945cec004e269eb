"""Faults of a training: batches too large for memory, updates that are not finite, experts that collapse."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from shared_moe_conformer.device import is_out_of_memory, memory_in_use
from shared_moe_conformer.training.distributed import gather, world
from shared_moe_conformer.training.folder import logger, rng_state, save_checkpoint, set_rng_state
from shared_moe_conformer.training.metrics import NonFiniteError, StepReport, TrainState, expert_shares, loss_scales
from shared_moe_conformer.training.trainer import Trainer

if TYPE_CHECKING:
    from shared_moe_conformer.data.batch import AsrBatch

SMALLER = (0.75, 0.5, 0.25, 0.125)
"""Shares of the wanted duration that are tried next, to find one that fits."""


def prescan(trainer: Trainer, largest_batches: Callable[[float], Sequence[AsrBatch]], *, max_duration: float) -> None:
    """Compute the gradients of the largest batches and drop them; nothing changes, bit for bit.

    Args:
      largest_batches: function from a duration in seconds to the largest batches of that duration.
      max_duration: seconds in a batch of the training.

    Raises:
      ValueError: the batches do not fit into the memory of a process; the message says which duration would.
    """
    if _fit_everywhere(trainer, largest_batches(max_duration)):
        memory = ", ".join(f"{name} {value:.0f}" for name, value in memory_in_use().items())
        logger.info("the largest batches of %g s fit into memory (%s)", max_duration, memory)
        return
    message = f"batches of --max-duration {max_duration:g} do not fit into the memory of {trainer.device}"
    for share in SMALLER:
        if _fit_everywhere(trainer, largest_batches(share * max_duration)):
            raise ValueError(
                f"{message}, those of {share * max_duration:g} do: give --max-duration {share * max_duration:g}, "
                "with a larger --accumulate-batches to keep updates as large, or --checkpoint-activations true"
            )
    raise ValueError(f"{message}, nor does an eighth of it: leave out the longest cuts, or train a smaller model")


def seconds_a_batch(trainer: Trainer, batches: Iterable[AsrBatch]) -> float:
    """Mean seconds of a batch's gradients, without the first batch; nothing changes, bit for bit."""
    times = []
    with _unchanged(trainer):
        for batch in batches:
            start = time.perf_counter()
            _backward(trainer, batch)
            if trainer.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return statistics.mean(times[1:] or times)


def _backward(trainer: Trainer, batch: AsrBatch) -> None:
    """Compute the gradient of a batch as the first update would."""
    with trainer.precision.autocast():
        loss, _ = trainer.losses(trainer.model, batch, loss_scales(trainer.config, 0))
    loss.backward()


def _fit_everywhere(trainer: Trainer, batches: Sequence[AsrBatch]) -> bool:
    return all(gather(_fit(trainer, batches)))


def _fit(trainer: Trainer, batches: Sequence[AsrBatch]) -> bool:
    """Whether this process can compute the batches beside the optimizer's memory."""
    with _unchanged(trainer):
        try:
            moments = [torch.empty_like(p) for p in trainer.model.parameters() if p.requires_grad for _ in range(2)]
            for batch in batches:
                _backward(trainer, batch)
            del moments
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
    return True


@contextmanager
def _unchanged(trainer: Trainer) -> Iterator[None]:
    """Restore generators, statistics and gradients after the block."""
    generators, buffers = rng_state(), [buffer.clone() for buffer in trainer.model.buffers()]
    trainer.train_mode()
    try:
        yield
    finally:
        trainer.optimizer.zero_grad(set_to_none=True)
        for buffer, before in zip(trainer.model.buffers(), buffers):
            buffer.copy_(before)
        set_rng_state(generators)
        if trainer.device.type == "cuda":
            torch.cuda.empty_cache()


FOLDER = "skipped"
MAX_SAVED = 10
"""Most files of skipped batches that each process keeps."""
MAX_NAMED = 20
"""Most cuts that a line names."""


class SkippedSteps:
    """Logs skipped updates, keeps their batches, and ends a training in which too many follow each other."""

    def __init__(self, exp_dir: Path, *, max_in_a_row: int) -> None:
        """Write nothing yet.

        Args:
          max_in_a_row: updates in a row that may be skipped; one more ends the training.
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
                f"Look at the cuts {cuts} (their batches are in {self.folder}). --resume true continues from the last "
                "checkpoint; a lower --learning-rate needs another --exp-dir, which may --init-from this one"
            )

    def _save(self, path: Path, batches: Sequence[AsrBatch]) -> None:
        """Keep this process's batches unless it has kept many; a full disk only gives a warning."""
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


def named(cut_ids: Sequence[str]) -> str:
    """The ids in one line, or the first of many."""
    more = f" and {len(cut_ids) - MAX_NAMED} more" if len(cut_ids) > MAX_NAMED else ""
    return ", ".join(cut_ids[:MAX_NAMED]) + more


COLLAPSED_SHARE = 0.01
"""An expert with a smaller share of its layer's frames has collapsed: the router no longer chooses it."""
NUM_UPDATES = 200
"""Updates over which an expert's frames are counted."""


class CollapsedExpert(NamedTuple):
    """An expert that computed nearly none of its feed-forward's frames."""

    feed_forward: int
    """Number of the expert feed-forward in the order of depth, from 0."""
    expert: int
    """Number of the expert, from 0."""
    share: float
    """Share of the feed-forward's frames."""


class CollapseDetector:
    """Finds collapsed experts every 200 updates, and reports each of them once."""

    def __init__(self) -> None:
        self._frames: Tensor | None = None
        self._num_updates = 0
        self._known: set[tuple[int, int]] = set()

    def add(self, frames_per_expert: Tensor | None) -> list[CollapsedExpert]:
        """Count an update; return the experts newly found to have collapsed.

        Args:
          frames_per_expert: frames of the update that are balanced within each row, (L, E); None without experts.
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
            for layer, expert in (shares < COLLAPSED_SHARE).nonzero().tolist()
            if (layer, expert) not in self._known
        ]
        self._known |= {(layer, expert) for layer, expert, _ in found}
        return found
