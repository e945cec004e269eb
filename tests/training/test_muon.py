from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from shared_moe_conformer.config import EncoderConfig, ModelConfig, TrainingConfig
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.training.muon import SIZE_OF_ADAMW_UPDATES, MuonAdamW, orthogonalised
from shared_moe_conformer.training.optim import build_optimizer

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


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    encoder = EncoderConfig(
        encoder_dim=16,
        num_attention_heads=2,
        feed_forward_dim=8,
        subsampling_channels=4,
        group_sizes=(2,),
        num_experts=3,
    )
    return AsrModel(ModelConfig(encoder=encoder, vocab_size=7, decoder_dim=8, joiner_dim=8))


def test_muon_has_the_encoders_matrices_and_adamw_the_rest(model: nn.Module) -> None:
    optimizer = build_optimizer(model, MUON)
    muon = {id(p): g["lr_scale"] for g in optimizer.param_groups if g["muon"] for p in g["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in muon}
    assert {
        "encoder.subsampling.output.weight",
        "encoder.groups.0.block.attention.query_key_value.weight",
        "encoder.groups.0.block.feed_forward1.hidden.weight",
    } <= names
    assert sum("experts" in name for name in names) == 2
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
