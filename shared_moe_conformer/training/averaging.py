"""Averages of a training's weights, and the choice of the checkpoints that are averaged (icefall's options).

Source: icefall, icefall/checkpoint.py: average_checkpoints, average_checkpoints_with_averaged_model;
pruned_transducer_stateless7/decode.py: --epoch, --iter, --avg, --use-averaged-model.
icefall keeps a running mean; here the sum and the count are kept, so the mean between two checkpoints is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shared_moe_conformer.config import require
from shared_moe_conformer.text import counted
from shared_moe_conformer.training.folder import (
    BEST_NAME,
    epoch_path,
    load_checkpoint,
    saved_epochs,
    saved_steps,
    step_path,
)

BEST = "best"


class RunningSum:
    """The sum, in float64, of a model's weights and statistics after every `period` updates."""

    def __init__(self, model: nn.Module, period: int) -> None:
        """Begin with nothing summed.

        Args:
          period: updates from one that is summed to the next.
        """
        self._model, self._period = model, period
        self._sums = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in self._values().items()}
        self._count = torch.zeros((), dtype=torch.int64)
        self._begun_after = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def stepped(self, step: int) -> None:
        """Add the weights after update `step`, if it is one of those that are summed."""
        if step % self._period:
            return
        for name, value in self._values().items():
            self._sums[name] += value
        self._count += 1

    def state(self) -> dict[str, Any]:
        """The entries of a checkpoint."""
        return {"model_sums": self._sums, "num_summed": self._count, "sums_begun_after": self._begun_after}

    def restore(self, checkpoint: dict[str, Any], *, step: int) -> None:
        """Continue the sums of a checkpoint of update `step`; if it has none, begin there."""
        if "model_sums" not in checkpoint:
            self._begun_after.fill_(step)
            return
        for name, value in checkpoint["model_sums"].items():
            self._sums[name].copy_(value)
        self._count.copy_(checkpoint["num_summed"])
        self._begun_after.copy_(checkpoint.get("sums_begun_after", self._begun_after))

    def _values(self) -> dict[str, Tensor]:
        return {name: value for name, value in self._model.state_dict().items() if value.is_floating_point()}


def average_checkpoints(paths: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of the checkpoints' weights, summed in float64; integers come from the last checkpoint.

    Raises:
      ValueError: the checkpoints are of different models.
    """
    *firsts, last = paths
    state: dict[str, Tensor] = load_checkpoint(last)["model"]
    sums = {name: value.double() for name, value in state.items() if value.is_floating_point()}
    for path in firsts:
        other = load_checkpoint(path)["model"]
        if {n: v.shape for n, v in other.items()} != {n: v.shape for n, v in state.items()}:
            raise ValueError(f"{path} and {last} are not of the same model: average checkpoints of one experiment")
        for name in sums:
            sums[name] += other[name].double()
    means = {name: (total / len(paths)).to(state[name].dtype) for name, total in sums.items()}
    return {**state, **means}


def mean_between(begin: Path | None, end: Path) -> dict[str, Tensor]:
    """The mean of the weights at the updates that were summed after one checkpoint and up to another.

    Args:
      begin: the earlier checkpoint; None: the beginning of the training.
      end: the later checkpoint, from which integers come.

    Raises:
      ValueError: a checkpoint holds no sums, the sums began in between, or no update was summed in between.
    """
    last = _with_sums(end)
    sums, count = last["model_sums"], int(last["num_summed"])
    first = {} if begin is None else _with_sums(begin)
    begun = [int(checkpoint.get("sums_begun_after", 0)) for checkpoint in (first, last)]
    require(
        begun[0] == begun[1],
        f"{end} holds sums from update {begun[1]} on, where the training was resumed: average later updates, or "
        "resume with the same --average-period as before",
    )
    if first:
        sums = {name: value - first["model_sums"][name] for name, value in sums.items()}
        count -= int(first["num_summed"])
    require(count > 0, f"no update was summed up to {end.name}: give a larger --avg, or a smaller --average-period")
    state: Mapping[str, Tensor] = last["model"]
    return {**state, **{name: (value / count).to(state[name].dtype) for name, value in sums.items()}}


def _with_sums(path: Path) -> dict[str, Any]:
    checkpoint = load_checkpoint(path)
    require("model_sums" in checkpoint, f"{path} holds no sum of weights: train with --average-period 1, or more")
    return checkpoint


@dataclass(frozen=True)
class Selection:
    """Choice of checkpoints whose weights are averaged."""

    epoch: str = ""
    """Last epoch to average; best: only the one with the lowest validation word error rate; empty: the newest."""
    iter: int = 0
    """Last update to average, one with a checkpoint-<update>.pt; 0: choose epochs."""
    avg: int = 1
    """Epochs to average, ending with --epoch; with --iter, checkpoints of updates."""
    use_averaged_model: bool = False
    """Average all summed updates of these epochs (./train.py --average-period), not only the ends of epochs."""

    def __post_init__(self) -> None:
        is_epoch = self.epoch in ("", BEST) or (self.epoch.isdigit() and int(self.epoch) > 0)
        require(is_epoch, f"--epoch {self.epoch}: give a number from 1 or {BEST}")
        require(self.iter >= 0, f"--iter {self.iter}: give a number of updates")
        require(self.avg >= 1, f"--avg {self.avg}: give 1 or more")
        require(not (self.epoch and self.iter), f"--epoch {self.epoch} --iter {self.iter}: give one of them")
        alone = self.avg == 1 and not self.use_averaged_model
        require(self.epoch != BEST or alone, f"--epoch {BEST} is one epoch: leave out --avg and --use-averaged-model")

    def name(self, exp_dir: Path) -> str:
        """The selection in the names of results, e.g. epoch-30-avg-9.

        Raises:
          FileNotFoundError: there is no epoch.
        """
        if self.epoch == BEST:
            return Path(BEST_NAME).stem
        end = f"iter-{self.iter}" if self.iter else f"epoch-{self._last_epoch(exp_dir)}"
        return f"{'averaged-' * self.use_averaged_model}{end}-avg-{self.avg}"

    def state(self, exp_dir: Path) -> dict[str, Tensor]:
        """The averaged weights.

        Raises:
          FileNotFoundError: a checkpoint is missing.
          ValueError: there are fewer checkpoints than `avg`, or they hold no sums and `use_averaged_model` is set.
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
        most = f"from 1 to {last}" if last > 1 else "1"
        require(self.avg <= last, f"--avg {self.avg}, and epoch {last} is the last: give --avg {most}, or train longer")
        return last - self.avg

    def _epochs(self, exp_dir: Path) -> list[Path]:
        """The checkpoints of the `avg` epochs up to `epoch`."""
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
        """The last `count` checkpoints of updates up to `iter`."""
        steps = [step for step in saved_steps(exp_dir) if step <= self.iter]
        require(
            len(steps) >= count and self.iter in steps,
            f"{exp_dir} has {counted(len(steps), 'checkpoint')} up to checkpoint-{self.iter}.pt, {count} are needed: "
            "train with --save-every-n-steps and --keep-last-k-steps, or give another --iter and --avg",
        )
        return [step_path(exp_dir, step) for step in steps[-count:]]

    def _interval(self, exp_dir: Path) -> tuple[Path | None, Path]:
        """The checkpoints before and at the end of the updates to average; None before the first update."""
        if self.iter:
            begin, *_, end = self._steps(exp_dir, self.avg + 1)
            return begin, end
        before = self._epoch_before(exp_dir)
        return epoch_path(exp_dir, before) if before else None, epoch_path(exp_dir, before + self.avg)


def _ranges(numbers: Sequence[int]) -> str:
    """Rising numbers in short form: `1-3, 7`, or `none`."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and runs[-1][1] == n - 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in runs) or "none"
