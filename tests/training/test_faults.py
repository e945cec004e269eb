from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from shared_moe_conformer.config import Config
from shared_moe_conformer.training import faults
from shared_moe_conformer.training.faults import (
    NUM_UPDATES,
    CollapseDetector,
    CollapsedExpert,
    SkippedSteps,
    named,
    prescan,
)
from shared_moe_conformer.training.folder import rng_state
from shared_moe_conformer.training.metrics import LossTotals, NonFiniteError, StepReport, TrainState
from shared_moe_conformer.training.trainer import Trainer


@pytest.fixture
def trainer(tiny_model: Callable[[], Any], config: Config) -> Trainer:
    return Trainer(tiny_model(), config.training)


def holds(trainer: Trainer, monkeypatch: pytest.MonkeyPatch, limit: int, error: type[Exception] = RuntimeError) -> None:
    """Have the trainer run out of memory when a batch has more utterances than a limit."""
    losses = trainer.losses

    def limited(model: Any, batch: Any, scales: Any) -> Any:
        if len(batch.x) > limit:
            raise error("CUDA out of memory. Tried to allocate 2 GiB")
        return losses(model, batch, scales)

    monkeypatch.setattr(trainer, "losses", limited)


def test_weights_statistics_and_generators_stay_as_they_are(trainer: Trainer, batch: Any, caplog: Any) -> None:
    before, generators = copy.deepcopy(trainer.model.state_dict()), rng_state()
    with caplog.at_level(logging.INFO):
        prescan(trainer, lambda duration: [batch(1), batch(2)], max_duration=60.0)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    after = rng_state()
    assert torch.equal(generators["torch"], after["torch"]) and generators["numpy"] == after["numpy"]
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    assert not trainer.optimizer.state and trainer.state.step == 0
    assert "largest batches of 60 s fit into memory (peak_memory_mib" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_what_fits_is_said(trainer: Trainer, batch: Any, monkeypatch: Any, error: type[Exception]) -> None:
    holds(trainer, monkeypatch, limit=20, error=error)
    before = copy.deepcopy(trainer.model.state_dict())
    with pytest.raises(
        ValueError, match=r"--max-duration 60 do not fit .* cpu, those of 15 do: give --max-duration 15"
    ):
        prescan(trainer, lambda duration: [batch(1, num_utterances=int(duration))], max_duration=60.0)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def test_if_nothing_fits_it_is_said(trainer: Trainer, batch: Any, monkeypatch: Any) -> None:
    holds(trainer, monkeypatch, limit=0)
    with pytest.raises(ValueError, match="nor does an eighth"):
        prescan(trainer, lambda duration: [batch(1)], max_duration=60.0)


def test_other_errors_are_not_taken_for_a_lack_of_memory(trainer: Trainer, monkeypatch: Any, batch: Any) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(trainer, "losses", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        prescan(trainer, lambda duration: [batch(1)], max_duration=60.0)


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
    monkeypatch.setattr(faults, "MAX_SAVED", 2)
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

    monkeypatch.setattr(faults, "save_checkpoint", full)
    with caplog.at_level(logging.WARNING):
        SkippedSteps(tmp_path, max_in_a_row=1).handle(REPORT, [batch(1)], TrainState())
    assert "no room" in caplog.text


def test_many_names_are_counted() -> None:
    assert named(["a", "b"]) == "a, b"
    assert named([str(n) for n in range(25)]).endswith("18, 19 and 5 more")


def collapsed_in(detector: CollapseDetector, frames: Tensor, updates: int = NUM_UPDATES) -> list[CollapsedExpert]:
    return [found for _ in range(updates) for found in detector.add(frames)]


def test_an_expert_below_one_percent_is_found_once() -> None:
    frames = torch.tensor([[50.0, 49.0, 1.0], [100.0, 0.0, 0.0], [994.0, 3.0, 3.0]])
    detector = CollapseDetector()
    assert collapsed_in(detector, frames, NUM_UPDATES - 1) == []
    found = detector.add(frames)
    assert [(layer, expert) for layer, expert, _ in found] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert round(found[2].share, 4) == 0.003
    assert collapsed_in(detector, frames) == []


def test_all_frames_of_the_updates_count_not_those_of_one() -> None:
    detector = CollapseDetector()
    idle, busy = torch.tensor([[100.0, 0.0]]), torch.tensor([[0.0, 100.0]])
    assert collapsed_in(detector, idle, NUM_UPDATES - 3) == collapsed_in(detector, busy, 3) == []
    assert [found.expert for found in collapsed_in(detector, idle)] == [1]


def test_without_experts_there_is_none() -> None:
    assert [found for _ in range(NUM_UPDATES) for found in CollapseDetector().add(None)] == []
