"""Means of a training's weights: over checkpoints, or over all updates between two.

Source: icefall, icefall/checkpoint.py: average_checkpoints, average_checkpoints_with_averaged_model.
There a running mean is kept; here the sum and the count, from which the mean between two checkpoints is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shared_moe_conformer.config import require
from shared_moe_conformer.training.checkpoint import load_checkpoint


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
        self._begun_after = torch.zeros((), dtype=torch.int64)

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
        return {"model_sums": self._sums, "num_summed": self._count, "sums_begun_after": self._begun_after}

    def restore(self, checkpoint: dict[str, Any], *, step: int) -> None:
        """Go on with the sums of a checkpoint, made after an update; if it has none, they begin there."""
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
    """The mean of the checkpoints' weights, summed in float64; what is not floating point comes from the last."""
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
      begin: the former; None: the beginning of the training.
      end: the latter, from which what is not floating point comes.

    Raises:
      ValueError: one of them holds no sums, or not all from the former to the latter, or there is no update between.
    """
    last = _with_sums(end)
    sums, count = last["model_sums"], int(last["num_summed"])
    first = {} if begin is None else _with_sums(begin)
    begun = [int(checkpoint.get("sums_begun_after", 0)) for checkpoint in (first, last)]
    require(
        begun[0] == begun[1],
        f"{end} holds sums from update {begun[1]} on, where the training was resumed: average later updates, or "
        "resume with --average-period as before",
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
