"""Which weights of a training a model gets: a mean over epochs, over saved updates, or over all updates between two.

Source: icefall, icefall/checkpoint.py: average_checkpoints, find_checkpoints, average_checkpoints_with_averaged_model.
There a running mean is kept; here the sum and the count, from which the mean between two checkpoints is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shared_moe_conformer.config import require
from shared_moe_conformer.training.checkpoint import (
    BEST_NAME,
    average_checkpoints,
    epoch_path,
    load_checkpoint,
    model_state,
    saved_epochs,
    saved_steps,
    step_path,
)

BEST = "best"


class RunningSum:
    """The sum, in float64, of a model's weights and statistics at every so many updates."""

    def __init__(self, model: nn.Module, period: int) -> None:
        """Nothing is summed yet.

        Args:
          model: what is trained.
          period: updates from one that is summed to the next.
        """
        self._model, self._period = model, period
        self._sums = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in self._values().items()}
        self._count = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def stepped(self, step: int) -> None:
        """Take the weights after an update in, if it is one of those."""
        if step % self._period:
            return
        for name, value in self._values().items():
            self._sums[name] += value
        self._count += 1

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"model_sums": self._sums, "num_summed": self._count}

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Go on with a checkpoint's sums, if it has any."""
        for name, value in checkpoint.get("model_sums", {}).items():
            self._sums[name].copy_(value)
        self._count.copy_(checkpoint.get("num_summed", self._count))

    def _values(self) -> dict[str, Tensor]:
        return {name: value for name, value in self._model.state_dict().items() if value.is_floating_point()}


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
        require(self.epoch in ("", BEST) or self.epoch.isdigit(), f"--epoch {self.epoch}: give a number or {BEST}")
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
        if self.iter:
            return average_checkpoints(self._steps(exp_dir, self.avg))
        return model_state(exp_dir, self._last_epoch(exp_dir), self.avg)

    def _last_epoch(self, exp_dir: Path) -> int:
        epochs = saved_epochs(exp_dir)
        if not (self.epoch or epochs):
            raise FileNotFoundError(f"no epoch-<N>.pt in {exp_dir}: train first (./train.py)")
        return int(self.epoch or epochs[-1])

    def _steps(self, exp_dir: Path, count: int) -> list[Path]:
        """The last so many checkpoints of updates up to `iter`."""
        steps = [step for step in saved_steps(exp_dir) if step <= self.iter]
        require(
            len(steps) >= count and self.iter in steps,
            f"{exp_dir} has {len(steps)} checkpoints up to checkpoint-{self.iter}.pt, {count} are needed: "
            "train with --save-every-n-steps and --keep-last-k-steps, or give another --iter and --avg",
        )
        return [step_path(exp_dir, step) for step in steps[-count:]]

    def _interval(self, exp_dir: Path) -> tuple[Path | None, Path]:
        """The checkpoints after which the updates to average begin (None: with the first) and with which they end."""
        if self.iter:
            begin, *_, end = self._steps(exp_dir, self.avg + 1)
            return begin, end
        last = self._last_epoch(exp_dir)
        require(self.avg <= last, f"--avg {self.avg} with --epoch {last}: give --avg from 1 to {last}")
        before = last - self.avg
        return epoch_path(exp_dir, before) if before else None, epoch_path(exp_dir, last)


def mean_between(begin: Path | None, end: Path) -> dict[str, Tensor]:
    """The mean of the weights at the updates that were summed after one checkpoint and up to another.

    Args:
      begin: the former; None: the beginning of the training.
      end: the latter, from which what is not floating point comes.

    Raises:
      ValueError: one of them holds no sums, or there is no update between them.
    """
    last = _with_sums(end)
    sums, count = last["model_sums"], int(last["num_summed"])
    if begin is not None:
        first = _with_sums(begin)
        sums = {name: value - first["model_sums"][name] for name, value in sums.items()}
        count -= int(first["num_summed"])
    require(count > 0, f"no update was summed up to {end.name}: give a larger --avg, or a smaller --average-period")
    state: Mapping[str, Tensor] = last["model"]
    return {**state, **{name: (value / count).to(state[name].dtype) for name, value in sums.items()}}


def _with_sums(path: Path) -> dict[str, Any]:
    checkpoint = load_checkpoint(path)
    require("model_sums" in checkpoint, f"{path} holds no sum of weights: train with --average-period 1, or more")
    return checkpoint
