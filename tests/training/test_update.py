from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shared_moe_conformer.training import update
from shared_moe_conformer.training.metrics import LossTotals, NonFiniteError
from shared_moe_conformer.training.update import SkippedSteps, StepReport, TrainState, named, suspects

REPORT = StepReport(LossTotals(), 10, 0.1, float("nan"), skipped="step 3: loss is nan", suspects=("cut-1", "cut-2"))


def test_the_batches_are_kept_for_a_look(batch: Callable[..., Any], tmp_path: Path, caplog: Any) -> None:
    state = TrainState(epoch=2, num_batches=7, num_skipped=1, skipped_in_a_row=1)
    with caplog.at_level(logging.WARNING):
        SkippedSteps(tmp_path, max_in_a_row=1).handle(REPORT, [batch(1), batch(2)], state)
    assert "step 3: loss is nan; the update is skipped (1 so far). Cuts: cut-1, cut-2" in caplog.text
    (path,) = (tmp_path / "skipped").iterdir()
    assert path.name == "epoch-2-batch-7-process-0.pt"
    kept = torch.load(path, weights_only=True)
    assert torch.equal(kept["batches"][1]["x"], batch(2).x)
    assert kept["cut_ids"] == '[["cut-1-0", "cut-1-1", "cut-1-2"], ["cut-2-0", "cut-2-1", "cut-2-2"]]'


def test_no_more_than_a_few_are_kept(batch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "MAX_SAVED", 2)
    for number in (1, 2, 3, 2):
        SkippedSteps(tmp_path, max_in_a_row=9).handle(REPORT, [batch(1)], TrainState(num_batches=number))
    assert sorted(path.name.split("-")[3] for path in (tmp_path / "skipped").iterdir()) == ["1", "2"]


def test_one_too_many_in_a_row_ends_the_training_in_one_line(batch: Any, tmp_path: Path) -> None:
    skipped = SkippedSteps(tmp_path, max_in_a_row=2)
    skipped.handle(REPORT, [batch(1)], TrainState(skipped_in_a_row=2))
    with pytest.raises(NonFiniteError, match=r"step 3: loss is nan; 3 updates in a row .*cuts cut-1, cut-2 .*--resume"):
        skipped.handle(REPORT, [batch(1)], TrainState(skipped_in_a_row=3))


def test_a_disk_without_room_stops_nothing(batch: Any, tmp_path: Path, monkeypatch: Any, caplog: Any) -> None:
    def full(*args: Any) -> None:
        raise ValueError("no room")

    monkeypatch.setattr(update, "save_checkpoint", full)
    with caplog.at_level(logging.WARNING):
        SkippedSteps(tmp_path, max_in_a_row=1).handle(REPORT, [batch(1)], TrainState())
    assert "no room" in caplog.text


def test_suspects_are_the_cuts_that_are_not_finite_else_all(batch: Callable[..., Any]) -> None:
    first, second = batch(1), batch(2)
    assert suspects([first, second]) == (*first.cut_ids, *second.cut_ids)
    second.x[1, 2, 3] = float("inf")
    assert suspects([first, second]) == ("cut-2-1",)
    second.x[1, int(second.x_lens[1]) :] = float("nan")
    second.x[1, 2, 3] = 0.0
    assert suspects([first, second]) == (*first.cut_ids, *second.cut_ids), "padding is no feature"


def test_many_names_are_counted() -> None:
    assert named(["a", "b"]) == "a, b"
    assert named([str(n) for n in range(25)]).endswith("18, 19 and 5 more")
