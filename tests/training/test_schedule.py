from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from shared_moe_conformer.config import Config, TrainingConfig
from shared_moe_conformer.training.schedule import learning_rate_factor, loss_scales, reschedule
from shared_moe_conformer.training.update import TrainState


def config(schedule: Any = "cosine", **options: Any) -> TrainingConfig:
    return TrainingConfig(lr_schedule=schedule, **options)


def test_learning_rate_rises_to_its_peak_then_falls_to_one_percent() -> None:
    def factor(step: int, progress: float) -> float:
        return learning_rate_factor(config(warmup_steps=10), step, progress=progress, progress_at_peak=0.2)

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
        found = learning_rate_factor(config("noam", warmup_steps=warmup), step, progress=0.5, progress_at_peak=0.1)
        assert found == pytest.approx(formula(step) / formula(warmup))


@pytest.mark.parametrize("schedule", ["cosine", "noam", "wsd"])
def test_no_warmup_begins_at_the_peak(schedule: Any) -> None:
    assert learning_rate_factor(config(schedule, warmup_steps=0), 1, progress=0.0, progress_at_peak=0.0) == 1.0


@pytest.mark.parametrize("schedule", ["cosine", "noam"])
def test_warmup_longer_than_the_training_never_falls(schedule: Any) -> None:
    assert learning_rate_factor(config(schedule, warmup_steps=10), 9, progress=1.0, progress_at_peak=0.0) == 0.9
    assert learning_rate_factor(config(schedule, warmup_steps=10), 10, progress=1.0, progress_at_peak=1.0) == 1.0


def test_wsd_stays_at_its_peak_and_falls_in_the_last_epochs() -> None:
    def factor(progress: float) -> float:
        return learning_rate_factor(
            config("wsd", warmup_steps=10, num_epochs=30, decay_epochs=6), 99, progress=progress
        )

    assert {factor((epoch + share) / 30) for epoch in range(24) for share in (0.01, 1 / 3, 1)} == {1.0}
    falling = [factor(0.8 + n / 500) for n in range(101)]
    assert all(a > b for a, b in zip(falling, falling[1:])) and falling[-1] == pytest.approx(0.01)
    assert falling[25] == pytest.approx(0.01 + 0.99 * (1 - math.sqrt(1 / 4)))


def test_a_decay_longer_than_the_training_is_refused() -> None:
    with pytest.raises(ValueError, match="decay_epochs is 5, num_epochs 3: give fewer --decay-epochs"):
        config("wsd", num_epochs=3)


def test_a_cosine_over_more_epochs_tells_how_the_learning_rate_jumps() -> None:
    state = TrainState(epoch=31, step=9000, progress=1.0, progress_at_peak=0.2)
    told = reschedule(state, config(num_epochs=30), config(num_epochs=60))
    assert told.startswith("the learning rate goes from 0.01 to 0.59 of its peak (num_epochs was 30 and is 60)")
    assert "--lr-schedule wsd" in told
    assert (state.progress, state.progress_at_peak) == (0.5, 0.1)


def test_wsd_is_extended_without_a_jump_before_its_decay_and_tells_the_way_after_it() -> None:
    old, new = config("wsd", num_epochs=30, decay_epochs=6), config("wsd", num_epochs=60, decay_epochs=12)
    assert reschedule(TrainState(epoch=25, step=7000, progress=24 / 30, progress_at_peak=0.1), old, new) == ""
    told = reschedule(TrainState(epoch=31, step=9000, progress=1.0, progress_at_peak=0.1), old, new)
    assert told.startswith("the learning rate goes from 0.01 to 1 of its peak (num_epochs was 30 and is 60, decay_ep")
    assert "epoch-24.pt as --resume-from" in told


@pytest.mark.parametrize("schedule", ["cosine", "noam", "wsd"])
def test_the_same_number_of_epochs_changes_nothing(schedule: Any) -> None:
    state = TrainState(epoch=2, step=900, progress=0.1, progress_at_peak=0.07)
    before = dataclasses.replace(state)
    assert reschedule(state, config(schedule), config(schedule)) == "" and state == before


def test_noam_does_not_depend_on_the_number_of_epochs() -> None:
    state = TrainState(epoch=31, step=9000, progress=1.0)
    assert reschedule(state, config("noam", num_epochs=30), config("noam", num_epochs=60)) == ""


def test_a_checkpoint_of_version_0_1_tells_its_progress_by_its_epoch() -> None:
    told = reschedule(
        TrainState(epoch=31, step=9000, progress_at_peak=0.2), config(num_epochs=30), config(num_epochs=60)
    )
    assert "from 0.01 to 0.59" in told


def test_consistency_is_weighed_in_during_the_warm_up() -> None:
    scales = [loss_scales(config(cr_loss_scale=0.2, loss_warmup_steps=10), step).cr_loss for step in (0, 5, 10, 99)]
    assert scales == pytest.approx([0.0, 0.1, 0.2, 0.2])
    with pytest.raises(ValueError, match="cr_loss_scale is 0.2 without a CTC loss: give --ctc-loss-scale"):
        config(cr_loss_scale=0.2, ctc_loss_scale=0.0)


def test_transducer_scales_warm_up_as_in_icefall() -> None:
    config = dataclasses.replace(Config().training, simple_loss_scale=0.5, loss_warmup_steps=10)
    scales = [loss_scales(config, step) for step in (0, 5, 10, 99)]
    assert [s.simple_loss for s in scales] == pytest.approx([1.0, 0.75, 0.5, 0.5])
    assert [s.pruned_loss for s in scales] == pytest.approx([0.1, 0.55, 1.0, 1.0])
    assert loss_scales(config) == scales[-1]
    assert loss_scales(dataclasses.replace(config, loss_warmup_steps=0), 0) == scales[-1]
