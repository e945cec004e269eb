from __future__ import annotations

from typing import Any

import pytest
import torch

from shared_moe_conformer.model.encoder import Encoder
from shared_moe_conformer.model.frames import Frames
from shared_moe_conformer.model.sharing import BlockGroup
from tests.experts import WITH_ALL

X, X_LENS = torch.randn(3, 60, 20, generator=torch.Generator().manual_seed(1)), torch.tensor([60, 31, 9])

CONFIGS = [
    {"experts_in": "none"},
    {"experts_in": "both", "top_k": 2},
    {"experts_in": "both", **WITH_ALL},
    {"individual_norms": False, "individual_routers": False},
    {"conv_norm": "layer_norm", "group_sizes": (1, 3)},
]


@pytest.mark.parametrize("options", CONFIGS)
def test_batch_mates_and_padding_change_nothing(encoder_config: Any, options: dict[str, Any]) -> None:
    encoder = Encoder(encoder_config(**options), num_mel_bins=20).eval()
    together = encoder(X, X_LENS)
    for i, num_frames in enumerate(X_LENS.tolist()):
        alone = encoder(X[i : i + 1, :num_frames], X_LENS[i : i + 1])
        length = together.encoder_out_lens[i]
        assert alone.encoder_out_lens.tolist() == [length]
        torch.testing.assert_close(together.encoder_out[i, :length], alone.encoder_out[0], rtol=1e-4, atol=1e-5)


def test_one_routing_for_each_expert_feed_forward(encoder_config: Any) -> None:
    encoder = Encoder(encoder_config(experts_in="both"), num_mel_bins=20)
    out = encoder(X, X_LENS)
    num_frames = int(out.encoder_out_lens.sum())
    assert out.routing.expert_ids.shape == (8, num_frames, 1)
    losses = encoder.router_losses(out.routing)
    assert losses.load_balancing_loss.shape == losses.router_z_loss.shape == (8,)
    assert losses.frames_per_expert.sum(dim=1).tolist() == [float(num_frames)] * 8
    assert Encoder(encoder_config(experts_in="none"), num_mel_bins=20)(X, X_LENS).routing is None


def test_no_tensor_is_stored_twice(encoder_config: Any) -> None:
    state = Encoder(encoder_config(), num_mel_bins=20).state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)


@pytest.mark.parametrize("individual", [True, False])
def test_a_group_stores_one_block_and_the_parts_of_each_layer(encoder_config: Any, individual: bool) -> None:
    config = encoder_config(individual_norms=individual, individual_routers=individual)
    names = BlockGroup(config, 3).state_dict()
    assert len([name for name in names if name.endswith("attention.output.weight")]) == 1
    assert len([name for name in names if name.endswith("norms.0.final.weight")]) == 1
    assert len([name for name in names if name.endswith("final.weight")]) == (3 if individual else 1)
    assert len([name for name in names if name.startswith("routers.")]) == (3 if individual else 1)


def unroll(group: BlockGroup, config: Any) -> list[BlockGroup]:
    """Groups of one with copies of a group's weights, layer by layer."""
    layers = []
    for depth in range(group.size):
        layer = BlockGroup(config, 1)
        layer.block.load_state_dict(group.block.state_dict())
        norms, routers = group.individual(depth)[:2]
        layer.norms[0].load_state_dict(norms.state_dict())
        layer.routers[0].load_state_dict(routers.state_dict())
        layers.append(layer)
    return layers


@pytest.mark.parametrize("experts_in", ["none", "second"])
def test_a_group_is_its_layers_one_after_the_other_and_its_gradient_their_sum(
    encoder_config: Any, experts_in: str
) -> None:
    config = encoder_config(experts_in=experts_in, conv_norm="layer_norm")
    group = BlockGroup(config, 3)
    layers = unroll(group, config)
    x, no_padding = torch.randn(2, 9, 16), Frames(torch.tensor([9, 9]), 9, head_dim=8)
    y = unrolled = x
    for depth, layer in enumerate(layers):
        y, _ = group.block(y, no_padding, group.individual(depth))
        unrolled, _ = layer.block(unrolled, no_padding, layer.individual(0))
    torch.testing.assert_close(unrolled, y)
    y.square().sum().backward()
    unrolled.square().sum().backward()
    unrolled_parameters = [dict(layer.block.named_parameters()) for layer in layers]
    for name, parameter in group.block.named_parameters():
        summed = sum(parameters[name].grad for parameters in unrolled_parameters)
        torch.testing.assert_close(parameter.grad, summed, rtol=1e-3, atol=1e-4)


def balance(encoder: Encoder, rows: list[list[float]]) -> list[list[float]]:
    """Move the biases of all groups' routers; return the frames that are balanced."""
    return encoder.balance_experts(torch.tensor(rows)).tolist()


def test_layers_of_a_group_can_be_balanced_together_and_groups_are_not(encoder_config: Any) -> None:
    options = {"experts_in": "both", "num_experts": 2, "group_sizes": (2, 1), "balance_over": "group"}
    encoder = Encoder(encoder_config(**options, balancing_bias_rate=1.0), num_mel_bins=20)
    rows = [[9.0, 1.0], [0.0, 2.0], [1.0, 3.0], [3.0, 0.0], [0.0, 5.0], [5.0, 0.0]]
    expected = [[5.0, 2.0], [1.5, 1.0], [5.0, 2.0], [1.5, 1.0], [0.0, 5.0], [5.0, 0.0]]
    assert balance(encoder, rows) == expected
    biases = [router.balancing_bias.tolist() for router in encoder.routers()]
    assert biases == [[-1.0, 1.0]] * 4 + [[1.0, -1.0], [-1.0, 1.0]]
    losses = encoder.router_losses(encoder(X, X_LENS).routing).load_balancing_loss
    assert losses[0] == losses[2] and losses[1] == losses[3] and losses.unique().numel() == 4


@pytest.mark.parametrize("individual", [True, False])
def test_each_router_is_balanced_by_the_frames_of_its_own_layers(encoder_config: Any, individual: bool) -> None:
    options = {"experts_in": "both", "num_experts": 2, "group_sizes": (2,), "individual_routers": individual}
    encoder = Encoder(encoder_config(**options, balancing_bias_rate=1.0), num_mel_bins=20)
    rows = [[9.0, 1.0], [0.0, 2.0], [1.0, 3.0], [0.0, 2.0]]  # first and second feed-forward of layer 0, then of 1
    balance(encoder, rows)
    found = [router.balancing_bias.tolist() for router in encoder.routers()]
    alone, together = [[-1.0, 1.0], [1.0, -1.0], [1.0, -1.0], [1.0, -1.0]], [[-1.0, 1.0], [1.0, -1.0]] * 2
    assert found == (alone if individual else together)
    copy = Encoder(encoder_config(**options, balancing_bias_rate=1.0), num_mel_bins=20)
    copy.load_state_dict(encoder.state_dict())
    assert [router.balancing_bias.tolist() for router in copy.routers()] == found
