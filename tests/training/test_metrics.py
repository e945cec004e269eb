from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from shared_moe_conformer.config import TrainingConfig
from shared_moe_conformer.training.metrics import (
    LossScales,
    LossTotals,
    expert_shares,
    loss_scales,
    non_finite,
    weighted_loss,
)

SCALES = LossScales(simple_loss=0.5, pruned_loss=1.0, ctc_loss=0.3, load_balancing_loss=0.01, router_z_loss=0.001)


@pytest.fixture
def losses(tiny_model: Callable[[], Any], batch: Callable[..., Any]) -> Callable[..., Any]:
    """A model's losses on a batch of this many frames, the summed ones in proportion to them."""
    template = tiny_model()(*batch(0)[:4])

    def make(num_frames: int, *, per_frame: float, balancing: float) -> Any:
        summed = torch.tensor(per_frame * num_frames)
        used = torch.tensor([[num_frames * 0.75, num_frames * 0.25]])
        return template._replace(
            simple_loss=summed,
            pruned_loss=2 * summed,
            ctc_loss=3 * summed,
            load_balancing_loss=torch.tensor(balancing),
            router_z_loss=torch.tensor(0.5),
            num_frames=torch.tensor(num_frames),
            frames_per_expert=used,
        )

    return make


def test_every_loss_counts_the_same_whatever_the_batch_size(losses: Callable[..., Any]) -> None:
    small, large = (weighted_loss(losses(n, per_frame=2.0, balancing=1.5), SCALES) for n in (10, 1000))
    torch.testing.assert_close(small, large)
    assert float(small) == pytest.approx(0.5 * 2 + 1.0 * 4 + 0.3 * 6 + 0.01 * 1.5 + 0.001 * 0.5)


def test_averages_weigh_each_frame_alike(losses: Callable[..., Any]) -> None:
    totals = LossTotals()
    for num_frames, per_frame, balancing in ((10, 4.0, 2.0), (30, 8.0, 1.0)):
        part = losses(num_frames, per_frame=per_frame, balancing=balancing)
        totals.add(LossTotals.of_batch(part, weighted_loss(part, SCALES)))
    averages = totals.averages()
    assert totals.num_frames == 40
    assert averages["simple_loss"] == pytest.approx((10 * 4 + 30 * 8) / 40)
    assert averages["load_balancing_loss"] == pytest.approx((10 * 2 + 30 * 1) / 40)
    assert averages["router_z_loss"] == pytest.approx(0.5)
    weighted = {name: getattr(SCALES, name) * averages.get(name, 0.0) for name in SCALES._fields}
    assert averages["loss"] == pytest.approx(sum(weighted.values()))


def test_router_losses_are_shown_per_feed_forward(losses: Callable[..., Any]) -> None:
    two_layers = losses(10, per_frame=1.0, balancing=2.4)._replace(frames_per_expert=torch.ones(2, 4))
    totals = LossTotals.of_batch(two_layers, weighted_loss(two_layers, SCALES))
    assert totals.averages()["load_balancing_loss"] == pytest.approx(1.2)


def test_a_model_without_experts_has_no_usage_and_no_losses_of_routers(losses: Callable[..., Any]) -> None:
    dense = losses(10, per_frame=1.0, balancing=0.0)._replace(frames_per_expert=None)
    totals = LossTotals()
    totals.add(LossTotals.of_batch(dense, weighted_loss(dense, SCALES)))
    assert totals.frames_per_expert is None
    assert not totals.averages().keys() & {"load_balancing_loss", "router_z_loss"}, "a report would draw them"


def test_shares_of_each_feed_forward_sum_to_one() -> None:
    shares = expert_shares(torch.tensor([[30.0, 10.0, 0.0], [2.0, 2.0, 4.0], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(shares[:2], torch.tensor([[0.75, 0.25, 0.0], [0.25, 0.25, 0.5]]))
    assert shares[2].sum() == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_named(value: float) -> None:
    assert non_finite({"simple_loss": 1.0, "ctc_loss": value, "loss": value}) == (
        f"ctc_loss is {value}, loss is {value}"
    )


def test_finite_values_are_no_fault() -> None:
    assert non_finite({"loss": 0.0}) == ""


def test_consistency_is_weighed_in_during_the_warm_up() -> None:
    scales = [
        loss_scales(TrainingConfig(cr_loss_scale=0.2, loss_warmup_steps=10), step).cr_loss for step in (0, 5, 10, 99)
    ]
    assert scales == pytest.approx([0.0, 0.1, 0.2, 0.2])
    with pytest.raises(ValueError, match="cr_loss_scale is 0.2 without a CTC loss: give --ctc-loss-scale"):
        TrainingConfig(cr_loss_scale=0.2, ctc_loss_scale=0.0)


def test_transducer_scales_warm_up_as_in_icefall() -> None:
    config = dataclasses.replace(TrainingConfig(), simple_loss_scale=0.5, loss_warmup_steps=10)
    scales = [loss_scales(config, step) for step in (0, 5, 10, 99)]
    assert [s.simple_loss for s in scales] == pytest.approx([1.0, 0.75, 0.5, 0.5])
    assert [s.pruned_loss for s in scales] == pytest.approx([0.1, 0.55, 1.0, 1.0])
    assert loss_scales(config) == scales[-1]
    assert loss_scales(dataclasses.replace(config, loss_warmup_steps=0), 0) == scales[-1]
