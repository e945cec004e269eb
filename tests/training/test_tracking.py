from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shared_moe_conformer.config import Config
from shared_moe_conformer.device import memory_in_use
from shared_moe_conformer.training.folder import logged
from shared_moe_conformer.training.metrics import LossTotals, StepReport
from shared_moe_conformer.training.tracking import Span, Tracker, shown_losses
from shared_moe_conformer.training.trainer import Trainer


@pytest.fixture(autouse=True)
def _log(tmp_path: Path) -> Iterator[None]:
    with logged(tmp_path, "train"):
        yield


@pytest.fixture
def tracker(tmp_path: Path) -> Iterator[Tracker]:
    made = Tracker(tmp_path, length=2, log_every_n_steps=2)
    yield made
    made.close()


def run_epoch(tracker: Tracker, trainer: Trainer, batches: list[Any]) -> None:
    for one in tracker.watch(batches, epoch=1, num_batches=len(batches)):
        report = trainer.train_step(one, progress=0.5)
        tracker.stepped(report, trainer.state.step)
    tracker.trained(report, trainer.state.step)
    tracker.validated(trainer.validate(batches), trainer.state.step, wer=12.5)


@pytest.mark.parametrize("terminal", [False, True])
def test_plain_lines_without_a_terminal_and_a_bar_with_one(
    terminal: bool,
    tracker: Tracker,
    tiny_model: Callable[[], Any],
    batch: Callable[..., Any],
    config: Config,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    run_epoch(tracker, Trainer(tiny_model(), config.training), [batch(n) for n in range(5)])
    shown = capsys.readouterr().err
    assert ("\r" in shown) == terminal
    assert ("epoch 1/2, step 2: loss" in shown) != terminal
    assert "experts" in shown and "lr" in shown
    assert "epoch 1/2, step 5: train loss" in shown
    assert "WER 12.5 % (CTC, greedy)" in shown
    (log,) = (tmp_path / "log").glob("train-log-*.txt")
    assert "epoch 1/2, step 4: loss" in log.read_text()


def test_every_point_is_the_mean_of_many_updates(tmp_path: Path) -> None:
    """Epochs of 24 updates, a point for every ten; the four updates left at an end make no point of their own."""
    tracker = Tracker(tmp_path, length=3, log_every_n_steps=10)
    for epoch in (1, 2, 3):
        for n, _ in enumerate(tracker.watch(range(24), epoch=epoch, num_batches=24), start=1):
            report = StepReport(LossTotals(5, {"loss": 5.0}), 50, 0.1, 1.0)
            tracker.stepped(report, 24 * (epoch - 1) + n)
        tracker.trained(report, 24 * epoch)
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [10, 20, 30, 40, 48, 60, 70]


@pytest.mark.parametrize(
    ("seconds_per_batch", "first", "middle"),
    [(1.0, "about 88 seconds to go: batches left: 88, validation not counted\n", "about 50 seconds to go"),
     (600.0, "about 14.7 hours to go: batches left: 88, validation not counted; --config small", "about 8.3 hours")],
)  # fmt: skip
def test_a_training_says_how_long_it_will_take(
    tmp_path: Path,
    seconds_per_batch: float,
    first: str,
    middle: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two epochs of 50 batches, of which the second begins after its first batch and is resumed: the rest is timed."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    tracker = Tracker(tmp_path, length=2, log_every_n_steps=50)
    report = StepReport(LossTotals(5, {"loss": 5.0}), 50, 0.1, 1.0)
    for n, _ in enumerate(tracker.watch(range(49), epoch=1, num_batches=50, num_done=1), start=2):
        now[0] += seconds_per_batch if n > 2 else 3000.0  # the first update is slow
        tracker.stepped(report, n)
    tracker.close()
    shown = capsys.readouterr().err
    assert shown.count("validation not counted") == 1 and first in shown
    assert middle in shown.splitlines()[-1]


def test_epochs_that_end_in_a_smaller_update_are_told_their_time_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Epochs of seven batches, four an update: the second update of each epoch has three."""
    tracker = Tracker(tmp_path, length=9)
    for epoch in range(1, 10):
        for num_batches in tracker.watch([4, 3], epoch=epoch, num_batches=7):
            report = StepReport(LossTotals(5, {"loss": 5.0}), 50, 0.1, 1.0, num_batches=num_batches)
            tracker.stepped(report, epoch)
    tracker.close()
    assert capsys.readouterr().err.count("validation not counted") == 1


def test_waiting_for_data_is_measured(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def slow() -> Iterator[int]:
        for n in range(3):
            now[0] += 2.0
            yield n

    for _ in tracker.watch(slow(), epoch=1, num_batches=3):
        now[0] += 0.5
    assert tracker._epoch.waited == pytest.approx(6.0)
    assert tracker._epoch.speeds()["share_waiting_for_data"] == pytest.approx(6.0 / 7.5)


def test_speed_is_audio_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    span = Span()
    span.num_feature_frames, span.num_steps, span.waited = 60_000, 4, 3.0
    now[0] += 12.0
    speeds = span.speeds()
    assert speeds["hours_of_audio_per_hour"] == pytest.approx(600 / 12)
    assert speeds["share_waiting_for_data"] == pytest.approx(0.25)
    assert speeds["seconds_per_step"] == pytest.approx(3.0)


def test_a_skipped_update_is_counted_and_nothing_else_of_it() -> None:
    span = Span()
    for grad_norm, clipped in ((2.0, False), (6.0, True)):
        span.add(StepReport(LossTotals(5, {"loss": 5.0}), 50, 0.1, grad_norm, clipped=clipped))
    span.add(StepReport(LossTotals(5, {"loss": float("nan")}), 50, 0.1, float("nan"), skipped="step 3: loss is nan"))
    assert span.gradients() == {"mean_grad_norm": 4.0, "share_clipped": 0.5, "num_skipped": 1.0}
    assert span.totals.averages() == {"loss": 1.0} and span.num_feature_frames == 100


def test_memory_is_that_of_this_process() -> None:
    assert 50 < memory_in_use()["peak_memory_mib"] < 100_000


def test_a_collapsed_expert_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker(tmp_path, length=1)
    frames = torch.tensor([[4.0, 4.0], [999.0, 1.0]])
    totals = LossTotals(5, {"loss": 5.0}, frames)
    for step, _ in enumerate(tracker.watch(range(500), epoch=1, num_batches=500), start=1):
        tracker.stepped(StepReport(totals, 50, 0.1, 1.0, frames_to_balance=frames), step)
    tracker.close()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "step 200: expert_1 of feed_forward_01 computed 0.10 % of its frames" in warnings[0]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("collapsed_expert/feed_forward_01/expert_1")] == [200]
    assert events.Scalars("train_expert_share/feed_forward_01/expert_0")[-1].value == pytest.approx(0.999)


def test_losses_are_shown_with_the_extremes_of_expert_usage() -> None:
    usage = torch.tensor([[50.0, 30.0, 20.0], [5.0, 90.0, 5.0]])
    shown = shown_losses(LossTotals(100, {"loss": 250.0, "ctc_loss": 300.0}, usage))
    assert shown == "loss 2.5, ctc 3, experts 5%-90%"
    assert shown_losses(LossTotals(100, {"loss": 250.0})) == "loss 2.5"
