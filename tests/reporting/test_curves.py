from __future__ import annotations

from pathlib import Path

import pytest

from shared_moe_conformer.reporting.curves import training_charts, wer_by_epoch
from shared_moe_conformer.reporting.history import Series, read_history


def titles(history: dict[str, Series]) -> list[str]:
    return [chart.split("<title>")[1].split("<")[0] for chart in training_charts(history) if chart]


def test_what_was_written_is_drawn(exp_dir: Path) -> None:
    found = titles(read_history(exp_dir))
    assert found[:3] == ["Loss per frame", "WER on dev in percent, CTC greedy", "Losses on dev"]
    assert "Hours of audio per hour" in found and "Share of updates that were clipped" not in found


def test_nothing_is_drawn_of_nothing() -> None:
    assert titles({}) == []


def test_skipped_updates_are_shown_where_there_are_any() -> None:
    assert "Skipped updates" in titles({"train/num_skipped": Series([1, 2], [0.0, 3.0])})
    assert "Skipped updates" not in titles({"train/num_skipped": Series([1, 2], [0.0, 0.0])})


def test_error_rates_go_with_their_epochs(exp_dir: Path) -> None:
    history = read_history(exp_dir)
    assert wer_by_epoch(history) == ([1, 2, 3], pytest.approx([50.0, 40.0, 45.0]))
    later = {**history, "dev/epoch": Series([10, 20, 30], [3.0, 4.0, 5.0])}
    assert wer_by_epoch(later)[0] == [3, 4, 5]
