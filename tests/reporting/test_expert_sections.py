from __future__ import annotations

from pathlib import Path

import pytest

from shared_moe_conformer.config import EncoderConfig
from shared_moe_conformer.reporting.expert_sections import collapsed_experts, expert_charts, usage_history
from shared_moe_conformer.reporting.history import Series, read_history
from tests.reporting.conftest import CONFIG

ENCODER = CONFIG.model.encoder


def test_shares_are_put_together_by_layer_and_expert(exp_dir: Path) -> None:
    usage = usage_history(read_history(exp_dir), "dev")
    assert usage is not None and usage.steps == [10, 20, 30]
    assert usage.shares[0][1] == pytest.approx([0.6, 0.395, 0.005])
    assert usage_history(read_history(exp_dir), "train") is None
    lacking = read_history(exp_dir)
    del lacking["dev_expert_share/feed_forward_00/expert_0"]
    assert usage_history(lacking, "dev") is None


def test_the_usage_is_drawn_at_the_end_and_over_time(exp_dir: Path) -> None:
    at_the_end, over_time = expert_charts(read_history(exp_dir), ENCODER)
    assert "Share of the dev frames, epoch 3" in str(at_the_end) and "Evenness" in str(at_the_end)
    assert "layer 2, expert 1, epoch 2: 60.0%" in str(over_time)


def test_many_layers_are_summed_up_in_three_curves() -> None:
    history = {
        f"dev_expert_share/feed_forward_{layer:02d}/expert_{expert}": Series([1, 2], [0.5, 0.5])
        for layer in range(12)
        for expert in range(2)
    }
    charts = expert_charts(history, EncoderConfig(group_sizes=(12,), num_experts=2))
    assert "least even layer" in str(charts[0]) and "layer 12" in str(charts[0])


def test_without_experts_there_is_nothing() -> None:
    assert expert_charts({"dev/loss": Series([1], [1.0])}, EncoderConfig(experts_in="none")) == []
    assert collapsed_experts({}, EncoderConfig()) == []


def test_collapsed_experts_are_named(exp_dir: Path) -> None:
    history = read_history(exp_dir)
    assert collapsed_experts(history, ENCODER) == ["layer 2, expert 3: 0.50% of the dev frames of the last validation"]
    logged = {**history, "collapsed_expert/feed_forward_00/expert_1": Series([200], [0.002])}
    first, second = collapsed_experts(logged, ENCODER)
    assert first == "layer 1, expert 2: 0.20% of the frames of 200 updates up to update 200"
