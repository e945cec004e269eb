from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import nn

from shared_moe_conformer.config import EncoderConfig, ModelConfig, TrainingConfig
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.training.metrics import TrainState
from shared_moe_conformer.training.optim import (
    SIZE_OF_ADAMW_UPDATES,
    MuonAdamW,
    build_optimizer,
    decayed_names,
    freeze,
    learning_rate_factor,
    learning_rate_scales,
    orthogonalised,
    reschedule,
)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
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


@pytest.mark.parametrize("kind", ["table", "network"])
def test_gates_of_merged_weights_learn_faster_never_by_muon_and_do_not_decay(kind: Any) -> None:
    encoder = EncoderConfig(
        encoder_dim=16,
        num_attention_heads=2,
        feed_forward_dim=8,
        subsampling_channels=4,
        group_sizes=(4,),
        experts_in="none",
        merged_sets=2,
        merge_gates=kind,
    )
    model = AsrModel(ModelConfig(encoder=encoder, vocab_size=7))
    optimizer = build_optimizer(model, TrainingConfig(optimizer="muon", weight_decay=0.3))
    found = {id(p): (g["lr_scale"], g["weight_decay"], g["muon"]) for g in optimizer.param_groups for p in g["params"]}
    parameters = dict(model.named_parameters())
    gates = [parameter for name, parameter in parameters.items() if ".gates." in name]
    assert gates and {found[id(parameter)] for parameter in gates} == {(10.0, 0.0, False)}
    one_set = parameters["encoder.groups.0.block.attention.sets.1.output.weight"]
    assert found[id(one_set)] == (3.0, 0.3, True)


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


MUON = TrainingConfig(optimizer="muon", muon_lr_factor=3.0, learning_rate=0.01, weight_decay=0.0)


@pytest.mark.parametrize("shape", [(8, 8), (4, 12), (12, 4), (3, 6, 10)])
def test_singular_values_become_nearly_one_and_directions_stay(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    found = orthogonalised(x)
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    in_its_basis = u.transpose(-2, -1) @ found @ vh.transpose(-2, -1)
    values = torch.diagonal(in_its_basis, dim1=-2, dim2=-1)
    assert (in_its_basis - torch.diag_embed(values)).abs().max() < 1e-3
    large = s > 0.01 * s.flatten(-1).norm(dim=-1, keepdim=True)
    assert large.float().mean() > 0.8 and values[large].min() > 0.6 and values[large].max() < 1.3


def test_each_matrix_of_a_stack_is_its_own_and_its_size_does_not_matter() -> None:
    torch.manual_seed(1)
    x = torch.randn(3, 5, 7)
    alone = torch.stack([orthogonalised(matrix) for matrix in x])
    torch.testing.assert_close(orthogonalised(x * 1e-6), alone, rtol=1e-3, atol=1e-4)


def test_no_gradient_gives_no_update() -> None:
    """Of an expert that computed no frame, say."""
    assert torch.equal(orthogonalised(torch.zeros(2, 4, 3)), torch.zeros(2, 4, 3))


def test_updates_are_as_large_as_adamws_and_weights_decay() -> None:
    torch.manual_seed(2)
    weight = nn.Parameter(torch.ones(40, 60))
    optimizer = MuonAdamW([{"params": [weight], "muon": True}], lr=0.1, weight_decay=0.5)
    weight.grad = torch.randn(40, 60)
    optimizer.step()
    update = weight.detach() - (1 - 0.1 * 0.5)
    assert update.square().mean().sqrt() == pytest.approx(0.1 * SIZE_OF_ADAMW_UPDATES, rel=0.15)
    assert (update * weight.grad).sum() < 0


def test_updates_look_ahead_along_the_momentum() -> None:
    """Nesterov's, as Jordan et al. have it, after two gradients."""
    torch.manual_seed(3)
    weight, gradients = nn.Parameter(torch.zeros(4, 6)), torch.randn(2, 4, 6)
    optimizer = MuonAdamW([{"params": [weight], "muon": True}], lr=0.1, weight_decay=0.0)
    for gradient in gradients:
        before = weight.detach().clone()
        weight.grad = gradient.clone()
        optimizer.step()
    momentum = 0.95 * 0.05 * gradients[0] + 0.05 * gradients[1]
    direction = orthogonalised(0.05 * gradients[1] + 0.95 * momentum)
    torch.testing.assert_close(weight.detach() - before, -0.1 * SIZE_OF_ADAMW_UPDATES * 6**0.5 * direction)


def test_muon_has_the_encoders_matrices_and_adamw_the_rest(model: nn.Module) -> None:
    optimizer = build_optimizer(model, MUON)
    muon = {id(p): g["lr_scale"] for g in optimizer.param_groups if g["muon"] for p in g["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in muon}
    assert {
        "encoder.subsampling.output.weight",
        "encoder.groups.0.block.attention.query_key_value.weight",
        "encoder.groups.0.block.feed_forward1.hidden.weight",
    } <= names
    assert sum("experts" in name for name in names) == 4, "two stacks in each of two groups"
    assert all(name.startswith("encoder.") and name.endswith("weight") for name in names)
    assert not any("router" in name or "norm" in name or "conv.weight" in name for name in names)
    assert set(muon.values()) == {3.0}
    everything = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(everything) == len({id(p) for p in everything}) == len(list(model.parameters()))


def test_what_adamw_has_is_updated_as_by_adamw_alone(model: nn.Module) -> None:
    other = copy.deepcopy(model)
    for of_muon, of_adamw in zip(model.parameters(), other.parameters()):
        of_muon.grad = torch.randn_like(of_muon)
        of_adamw.grad = of_muon.grad.clone()
    optimizer = build_optimizer(model, MUON)
    by_muon = {id(p) for g in optimizer.param_groups if g["muon"] for p in g["params"]}
    optimizer.step()
    build_optimizer(other, TrainingConfig(learning_rate=0.01, weight_decay=0.0)).step()
    for mine, adamw in zip(model.parameters(), other.parameters()):
        assert torch.equal(mine, adamw) == (id(mine) not in by_muon)


def test_its_state_is_restored_to_the_bit(model: nn.Module) -> None:
    other, gradients = copy.deepcopy(model), [torch.randn_like(p) for p in model.parameters()]
    one, two = build_optimizer(model, MUON), build_optimizer(other, MUON)

    def step(m: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for parameter, gradient in zip(m.parameters(), gradients):
            parameter.grad = gradient.clone()
        optimizer.step()

    step(model, one)
    two.load_state_dict({**two.state_dict(), "state": copy.deepcopy(one.state_dict()["state"])})
    other.load_state_dict(model.state_dict())
    step(model, one), step(other, two)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))


def schedule_of(schedule: Any = "cosine", **options: Any) -> TrainingConfig:
    return TrainingConfig(lr_schedule=schedule, **options)


def test_learning_rate_rises_to_its_peak_then_falls_to_one_percent() -> None:
    def factor(step: int, progress: float) -> float:
        return learning_rate_factor(schedule_of(warmup_steps=10), step, progress=progress, progress_at_peak=0.2)

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
        found = learning_rate_factor(schedule_of("noam", warmup_steps=warmup), step, progress=0.5, progress_at_peak=0.1)
        assert found == pytest.approx(formula(step) / formula(warmup))


@pytest.mark.parametrize("schedule", ["cosine", "noam", "wsd"])
def test_no_warmup_begins_at_the_peak(schedule: Any) -> None:
    assert learning_rate_factor(schedule_of(schedule, warmup_steps=0), 1, progress=0.0, progress_at_peak=0.0) == 1.0


@pytest.mark.parametrize("schedule", ["cosine", "noam"])
def test_warmup_longer_than_the_training_never_falls(schedule: Any) -> None:
    assert learning_rate_factor(schedule_of(schedule, warmup_steps=10), 9, progress=1.0, progress_at_peak=0.0) == 0.9
    assert learning_rate_factor(schedule_of(schedule, warmup_steps=10), 10, progress=1.0, progress_at_peak=1.0) == 1.0


def test_wsd_stays_at_its_peak_and_falls_in_the_last_epochs() -> None:
    def factor(progress: float) -> float:
        return learning_rate_factor(
            schedule_of("wsd", warmup_steps=10, num_epochs=30, decay_epochs=6), 99, progress=progress
        )

    assert {factor((epoch + share) / 30) for epoch in range(24) for share in (0.01, 1 / 3, 1)} == {1.0}
    falling = [factor(0.8 + n / 500) for n in range(101)]
    assert all(a > b for a, b in zip(falling, falling[1:])) and falling[-1] == pytest.approx(0.01)
    assert falling[25] == pytest.approx(0.01 + 0.99 * (1 - math.sqrt(1 / 4)))


def test_a_decay_longer_than_the_training_is_refused() -> None:
    with pytest.raises(ValueError, match="decay_epochs is 5, the training has 3 epochs: give fewer --decay-epochs"):
        schedule_of("wsd", num_epochs=3)


def test_a_cosine_over_more_epochs_tells_how_the_learning_rate_jumps() -> None:
    state = TrainState(epoch=31, step=9000, progress=1.0, progress_at_peak=0.2)
    told = reschedule(state, schedule_of(num_epochs=30), schedule_of(num_epochs=60))
    assert told.startswith("the learning rate goes from 0.01 to 0.59 of its peak (num_epochs was 30 and is 60)")
    assert "--lr-schedule wsd" in told
    assert (state.progress, state.progress_at_peak) == (0.5, 0.1)


def test_wsd_is_extended_without_a_jump_before_its_decay_and_tells_the_way_after_it() -> None:
    old, new = schedule_of("wsd", num_epochs=30, decay_epochs=6), schedule_of("wsd", num_epochs=60, decay_epochs=12)
    assert reschedule(TrainState(epoch=25, step=7000, progress=24 / 30, progress_at_peak=0.1), old, new) == ""
    told = reschedule(TrainState(epoch=31, step=9000, progress=1.0, progress_at_peak=0.1), old, new)
    assert told.startswith("the learning rate goes from 0.01 to 1 of its peak (num_epochs was 30 and is 60, decay_ep")
    assert "epoch-24.pt as --resume-from" in told
    old = schedule_of("wsd", num_epochs=6, decay_epochs=6)
    told = reschedule(TrainState(epoch=7, step=9000, progress=1.0, progress_at_peak=0.1), old, new)
    assert told.endswith("to continue without a jump, begin again, in another --exp-dir")


@pytest.mark.parametrize("schedule", ["cosine", "noam", "wsd"])
def test_the_same_number_of_epochs_changes_nothing(schedule: Any) -> None:
    state = TrainState(epoch=2, step=900, progress=0.1, progress_at_peak=0.07)
    before = dataclasses.replace(state)
    assert reschedule(state, schedule_of(schedule), schedule_of(schedule)) == "" and state == before


def test_noam_does_not_depend_on_the_number_of_epochs() -> None:
    state = TrainState(epoch=31, step=9000, progress=1.0)
    assert reschedule(state, schedule_of("noam", num_epochs=30), schedule_of("noam", num_epochs=60)) == ""


def test_a_checkpoint_of_version_0_1_tells_its_progress_by_its_epoch() -> None:
    told = reschedule(
        TrainState(epoch=31, step=9000, progress_at_peak=0.2), schedule_of(num_epochs=30), schedule_of(num_epochs=60)
    )
    assert "from 0.01 to 0.59" in told
