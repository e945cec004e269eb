"""Which checkpoints of a training make up a model: epochs, saved updates, or all updates between two; icefall's rules.

Source: icefall, pruned_transducer_stateless7/decode.py: --epoch, --iter, --avg, --use-averaged-model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from shared_moe_conformer.config import require
from shared_moe_conformer.text import counted
from shared_moe_conformer.training.averaging import average_checkpoints, mean_between
from shared_moe_conformer.training.checkpoint import (
    BEST_NAME,
    epoch_path,
    load_checkpoint,
    saved_epochs,
    saved_steps,
    step_path,
)

BEST = "best"


@dataclass(frozen=True)
class Selection:
    """Checkpoints whose weights are averaged."""

    epoch: str = ""
    """Last epoch to average; best: the one with the lowest validation word error rate, alone; empty: the newest."""
    iter: int = 0
    """Last update to average, of those with a checkpoint-<update>.pt; 0: go by epochs."""
    avg: int = 1
    """Epochs to average, ending with --epoch; with --iter checkpoints of updates."""
    use_averaged_model: bool = False
    """Average all updates of these epochs that were summed up (./train.py --average-period), not only their ends."""

    def __post_init__(self) -> None:
        is_epoch = self.epoch in ("", BEST) or (self.epoch.isdigit() and int(self.epoch) > 0)
        require(is_epoch, f"--epoch {self.epoch}: give a number from 1 or {BEST}")
        require(self.iter >= 0, f"--iter {self.iter}: give a number of updates")
        require(self.avg >= 1, f"--avg {self.avg}: give 1 or more")
        require(not (self.epoch and self.iter), f"--epoch {self.epoch} --iter {self.iter}: give one of them")
        alone = self.avg == 1 and not self.use_averaged_model
        require(self.epoch != BEST or alone, f"--epoch {BEST} is one epoch: leave --avg and --use-averaged-model")

    def name(self, exp_dir: Path) -> str:
        """The selection in names of results, e.g. epoch-30-avg-9.

        Raises:
          FileNotFoundError: no epoch is there.
        """
        if self.epoch == BEST:
            return Path(BEST_NAME).stem
        end = f"iter-{self.iter}" if self.iter else f"epoch-{self._last_epoch(exp_dir)}"
        return f"{'averaged-' * self.use_averaged_model}{end}-avg-{self.avg}"

    def state(self, exp_dir: Path) -> dict[str, Tensor]:
        """The weights.

        Raises:
          FileNotFoundError: a checkpoint that is not there.
          ValueError: fewer than asked for, or without what is asked for.
        """
        if self.epoch == BEST:
            return load_checkpoint(exp_dir / BEST_NAME)["model"]
        if self.use_averaged_model:
            return mean_between(*self._interval(exp_dir))
        return average_checkpoints(self._steps(exp_dir, self.avg) if self.iter else self._epochs(exp_dir))

    def _last_epoch(self, exp_dir: Path) -> int:
        epochs = saved_epochs(exp_dir)
        if not (self.epoch or epochs):
            raise FileNotFoundError(f"no epoch-<N>.pt in {exp_dir}: train first (./train.py)")
        return int(self.epoch or epochs[-1])

    def _epoch_before(self, exp_dir: Path) -> int:
        """The last epoch before those that are averaged; 0: there is none."""
        last = self._last_epoch(exp_dir)
        require(self.avg <= last, f"--avg {self.avg} with --epoch {last}: give --avg from 1 to {last}")
        return last - self.avg

    def _epochs(self, exp_dir: Path) -> list[Path]:
        """The checkpoints of the last so many epochs up to `epoch`."""
        wanted = range(self._epoch_before(exp_dir) + 1, self._last_epoch(exp_dir) + 1)
        there = saved_epochs(exp_dir)
        missing = [epoch for epoch in wanted if epoch not in there]
        if missing:
            raise FileNotFoundError(
                f"{exp_dir} has no epoch-{missing[0]}.pt (there: {_ranges(there)}): "
                "train on, or give another --epoch and --avg"
            )
        return [epoch_path(exp_dir, epoch) for epoch in wanted]

    def _steps(self, exp_dir: Path, count: int) -> list[Path]:
        """The last so many checkpoints of updates up to `iter`."""
        steps = [step for step in saved_steps(exp_dir) if step <= self.iter]
        require(
            len(steps) >= count and self.iter in steps,
            f"{exp_dir} has {counted(len(steps), 'checkpoint')} up to checkpoint-{self.iter}.pt, {count} are needed: "
            "train with --save-every-n-steps and --keep-last-k-steps, or give another --iter and --avg",
        )
        return [step_path(exp_dir, step) for step in steps[-count:]]

    def _interval(self, exp_dir: Path) -> tuple[Path | None, Path]:
        """The checkpoints after which the updates to average begin (None: with the first) and with which they end."""
        if self.iter:
            begin, *_, end = self._steps(exp_dir, self.avg + 1)
            return begin, end
        before = self._epoch_before(exp_dir)
        return epoch_path(exp_dir, before) if before else None, epoch_path(exp_dir, before + self.avg)


def _ranges(numbers: Sequence[int]) -> str:
    """Rising numbers for reading: `1-3, 7`; `none`."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and runs[-1][1] == n - 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in runs) or "none"
