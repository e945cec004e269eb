from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import nn

from shared_moe_conformer.config import Config, EncoderConfig, ModelConfig, TrainingConfig
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.training import optim
from shared_moe_conformer.training.optim import (
    build_optimizer,
    decayed_names,
    freeze,
    learning_rate_factor,
    learning_rate_scales,
    loss_scales,
)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    encoder = EncoderConfig(
        encoder_dim=16,
        num_attention_heads=2,
        feed_forward_dim=8,
        subsampling_channels=4,
        group_sizes=(2, 1),
        num_experts=3,
    )
    return AsrModel(ModelConfig(encoder=encoder, vocab_size=7, decoder_dim=8, joiner_dim=8))


def test_only_matrices_of_dense_layers_and_experts_decay(model: nn.Module) -> None:
    decayed = decayed_names(model)
    parameters = dict(model.named_parameters())
    experts = [name for name in parameters if "experts." in name]
    assert experts and all((name in decayed) == name.endswith("weight") for name in experts)
    assert parameters["encoder.groups.0.routers.0.feed_forward2.linear.weight"].dim() == 2
    assert not any("router" in name or "norms" in name or "embedding" in name for name in decayed)
    assert {"joiner.output.weight", "encoder.groups.0.block.attention.output.weight"} <= decayed
    assert "joiner.output.bias" not in decayed


def test_every_parameter_is_optimised_once(model: nn.Module) -> None:
    optimizer = build_optimizer(model, TrainingConfig(weight_decay=0.3))
    optimised = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(optimised) == sorted(id(p) for p in model.parameters())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]


@pytest.mark.parametrize(("kind", "of_two"), [("none", 1.0), ("inverse_sqrt", 2**-0.5), ("inverse", 0.5)])
def test_weights_of_several_layers_learn_more_slowly_if_asked(model: nn.Module, kind: Any, of_two: float) -> None:
    """The first group's block serves two layers, the second's one; norms and routers are each layer's own."""
    scales = learning_rate_scales(model, kind)
    shared = {name for name in scales if name.startswith("encoder.groups.0.block.")}
    assert len(shared) > 10 and all(scales[name] == pytest.approx(of_two if name in shared else 1) for name in scales)
    optimizer = build_optimizer(model, TrainingConfig(shared_block_lr_scale=kind, weight_decay=0.3))
    found = {id(p): (g["lr_scale"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    decayed = decayed_names(model)
    assert found == {id(p): (scales[name], 0.3 if name in decayed else 0.0) for name, p in model.named_parameters()}


def test_norms_and_routers_of_a_whole_group_count_as_shared() -> None:
    encoder = EncoderConfig(
        encoder_dim=16,
        num_attention_heads=2,
        feed_forward_dim=8,
        subsampling_channels=4,
        group_sizes=(4,),
        num_experts=3,
        individual_norms=False,
        individual_routers=False,
    )
    scales = learning_rate_scales(AsrModel(ModelConfig(encoder=encoder, vocab_size=7)), "inverse")
    assert all(scale == (0.25 if ".groups." in name else 1) for name, scale in scales.items())


def test_frozen_parts_are_not_optimised() -> None:
    part = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    frozen = freeze(part, ["0", "1"])
    assert frozen == [part[0], part[1]]
    optimised = [p for group in build_optimizer(part, TrainingConfig()).param_groups for p in group["params"]]
    assert {id(p) for p in optimised} == {id(p) for p in part[2].parameters()}


@pytest.mark.parametrize(
    ("names", "message"), [(["3"], r"--freeze 3: give parts of the model \(0, 1\)"), (["0", "1"], "nothing to train")]
)
def test_freezing_nothing_or_everything_is_refused(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        freeze(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), names)


def test_decay_shrinks_weights_without_a_gradient_and_leaves_biases() -> None:
    model = nn.Linear(2, 2)
    nn.init.ones_(model.weight), nn.init.ones_(model.bias)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    build_optimizer(model, TrainingConfig(learning_rate=0.1, weight_decay=0.5)).step()
    torch.testing.assert_close(model.weight, torch.full((2, 2), 1 - 0.1 * 0.5))
    torch.testing.assert_close(model.bias, torch.ones(2))


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


@pytest.mark.parametrize(("version", "fused"), [("1.13.1+cu117", False), ("2.3.1", False), ("2.4.0+cpu", True)])
def test_one_kernel_for_all_parameters_where_torch_has_it_for_cpus(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, version: str, fused: bool
) -> None:
    """torch 2.0 to 2.3, for which there are wheels of k2, raises on a CPU."""
    made: dict[str, Any] = {}
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(optim, "MuonAdamW", lambda groups, **options: made.update(options))
    build_optimizer(model, TrainingConfig())
    assert made.get("fused", False) == fused
