from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from shared_moe_conformer.config import Config
from shared_moe_conformer.training.schedule import learning_rate_factor, loss_scales


def test_learning_rate_rises_to_its_peak_then_falls_to_one_percent() -> None:
    def factor(step: int, progress: float) -> float:
        return learning_rate_factor("cosine", step, warmup_steps=10, progress=progress, progress_at_peak=0.2)

    assert [factor(step, 0.0) for step in (1, 5, 10)] == pytest.approx([0.1, 0.5, 1.0])
    falling = [factor(11 + n, 0.2 + 0.008 * n) for n in range(101)]
    assert all(a > b for a, b in zip(falling, falling[1:]))
    assert falling[0] == pytest.approx(1.0)
    assert falling[50] == pytest.approx(0.01 + 0.99 * (1 + math.cos(math.pi / 2)) / 2)
    assert falling[-1] == pytest.approx(0.01)


def test_noam_is_the_formula_of_its_paper_as_a_share_of_its_peak() -> None:
    warmup, dim = 10, 512

    def formula(step: int) -> float:
        return dim**-0.5 * min(step**-0.5, step * warmup**-1.5)

    for step in (1, 5, 9, 10, 11, 40, 1000):
        found = learning_rate_factor("noam", step, warmup_steps=warmup, progress=0.5, progress_at_peak=0.1)
        assert found == pytest.approx(formula(step) / formula(warmup))


@pytest.mark.parametrize("schedule", ["cosine", "noam"])
def test_no_warmup_begins_at_the_peak(schedule: Any) -> None:
    assert learning_rate_factor(schedule, 1, warmup_steps=0, progress=0.0, progress_at_peak=0.0) == 1.0


@pytest.mark.parametrize("schedule", ["cosine", "noam"])
def test_warmup_longer_than_the_training_never_falls(schedule: Any) -> None:
    assert learning_rate_factor(schedule, 9, warmup_steps=10, progress=1.0, progress_at_peak=0.0) == 0.9
    assert learning_rate_factor(schedule, 10, warmup_steps=10, progress=1.0, progress_at_peak=1.0) == 1.0


def test_transducer_scales_warm_up_as_in_icefall() -> None:
    config = dataclasses.replace(Config().training, simple_loss_scale=0.5, loss_warmup_steps=10)
    scales = [loss_scales(config, step) for step in (0, 5, 10, 99)]
    assert [s.simple_loss for s in scales] == pytest.approx([1.0, 0.75, 0.5, 0.5])
    assert [s.pruned_loss for s in scales] == pytest.approx([0.1, 0.55, 1.0, 1.0])
    assert loss_scales(config) == scales[-1]
    assert loss_scales(dataclasses.replace(config, loss_warmup_steps=0), 0) == scales[-1]
