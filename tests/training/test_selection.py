"""Which checkpoints make up a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from shared_moe_conformer.training.checkpoint import save_if_best
from shared_moe_conformer.training.selection import Selection
from tests.training.conftest import STEPS_PER_EPOCH, save_epochs


def weight(state: dict[str, Tensor]) -> float:
    assert state["weight"].dtype == torch.float32 and state["weight"][0] == state["weight"][1]
    return float(state["weight"][0])


def mean(steps: list[int]) -> float:
    return sum(step**2 for step in steps) / len(steps)


@pytest.mark.parametrize(
    ("selection", "name", "steps"),
    [
        (Selection(), "epoch-3-avg-1", [15]),
        (Selection(epoch="2", avg=2), "epoch-2-avg-2", [5, 10]),
        (Selection(iter=12, avg=3), "iter-12-avg-3", [6, 9, 12]),
        (Selection(epoch="3", use_averaged_model=True), "averaged-epoch-3-avg-1", [12, 14]),
        (Selection(epoch="3", avg=2, use_averaged_model=True), "averaged-epoch-3-avg-2", [6, 8, 10, 12, 14]),
        (Selection(epoch="2", avg=2, use_averaged_model=True), "averaged-epoch-2-avg-2", [2, 4, 6, 8, 10]),
        (Selection(iter=12, avg=2, use_averaged_model=True), "averaged-iter-12-avg-2", [8, 10, 12]),
    ],
    ids=str,
)
def test_weights_are_the_mean_of_the_selected_updates(
    exp_dir: Path, selection: Selection, name: str, steps: list[int]
) -> None:
    assert selection.name(exp_dir) == name
    state = selection.state(exp_dir)
    assert weight(state) == pytest.approx(mean(steps), rel=1e-7)
    assert state["num_batches_tracked"] == (selection.iter or int(selection.epoch or 3) * STEPS_PER_EPOCH)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epoch": "last"}, "--epoch last: give a number from 1 or best"),
        ({"epoch": "0"}, "--epoch 0: give a number from 1"),
        ({"epoch": "2", "iter": 4}, "give one of them"),
        ({"avg": 0}, "--avg 0"),
        ({"epoch": "best", "avg": 2}, "best is one epoch"),
    ],
)
def test_a_selection_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Selection(**options)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(iter=10), "has 3 checkpoints up to checkpoint-10.pt"),
        (Selection(iter=6, avg=3), "has 2 checkpoints up to checkpoint-6.pt, 3 are needed"),
        (Selection(iter=3, avg=1, use_averaged_model=True), "2 are needed"),
        (Selection(epoch="2", avg=3, use_averaged_model=True), "give --avg from 1 to 2"),
        (Selection(epoch="9"), "no epoch-9.pt"),
        (Selection(epoch="best"), "no checkpoint"),
    ],
    ids=str,
)
def test_checkpoints_that_are_not_there_are_named(exp_dir: Path, selection: Selection, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        selection.state(exp_dir)


def test_missing_epochs_are_named(tmp_path: Path) -> None:
    save_epochs(tmp_path, {1: 1.0, 2: 1.0, 4: 1.0})
    with pytest.raises(FileNotFoundError, match=r"no epoch-3\.pt \(there: 1-2, 4\)"):
        Selection("4", avg=2).state(tmp_path)
    with pytest.raises(FileNotFoundError, match="there: none"):
        Selection("1").state(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="--avg 3 with --epoch 2"):
        Selection("2", avg=3).state(tmp_path)


def test_the_best_epoch_is_called_so(tmp_path: Path) -> None:
    for epoch, wer in enumerate((90.0, 50.0, 70.0), start=1):
        save_if_best(tmp_path, {"weight": torch.tensor(float(epoch))}, wer=wer, epoch=epoch)
    best = Selection(epoch="best")
    assert best.name(tmp_path) == "best-valid-wer" and best.state(tmp_path)["weight"] == 2.0
