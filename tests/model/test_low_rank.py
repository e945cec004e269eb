from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.encoder import BlockGroup, Encoder
from shared_moe_conformer.model.low_rank import Deltas, LowRankDelta
from shared_moe_conformer.model.parameters import count_parameters

X, NO_PADDING = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(3)), torch.zeros(2, 9, dtype=torch.bool)


def test_a_delta_begins_as_nothing_and_can_be_any_matrix_of_its_rank() -> None:
    delta, matrix = LowRankDelta(nn.Linear(6, 4), 2), torch.randn(4, 2) @ torch.randn(2, 6)
    assert not delta(torch.randn(3, 6)).any()
    delta.approximate(matrix)
    torch.testing.assert_close(delta.up @ delta.down, matrix, rtol=1e-4, atol=1e-5)
    x = torch.randn(5, 6)
    torch.testing.assert_close(delta(x), x @ matrix.T, rtol=1e-4, atol=1e-5)


def test_the_nearest_matrix_of_low_rank_is_nearer_than_others() -> None:
    delta, matrix = LowRankDelta(nn.Linear(6, 4), 1), torch.randn(4, 6)
    delta.approximate(matrix)
    distance = (delta.up @ delta.down - matrix).norm()
    torch.testing.assert_close(distance, torch.linalg.svdvals(matrix)[1:].norm())


def test_a_rank_beyond_the_matrix_leaves_the_rest_at_nothing() -> None:
    delta, matrix = LowRankDelta(nn.Linear(3, 9), 5), torch.randn(9, 3)
    delta.approximate(matrix)
    torch.testing.assert_close(delta.up @ delta.down, matrix, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("experts_in", ["none", "second"])
def test_layers_with_deltas_are_layers_whose_matrices_differ(encoder_config: Any, experts_in: str) -> None:
    """Against groups of one, into whose weights the deltas are added."""
    config = encoder_config(experts_in=experts_in, low_rank_delta=2, conv_norm="layer_norm")
    group = BlockGroup(config, 3).eval()
    for parameter in group.deltas.parameters():
        nn.init.normal_(parameter, std=0.3)
    y, _ = group(X, NO_PADDING)
    expected = X
    for depth in range(3):
        layer = BlockGroup(encoder_config(experts_in=experts_in, conv_norm="layer_norm"), 1).eval()
        layer.block.load_state_dict(group.block.state_dict())
        norms, routers, deltas = group.individual(depth)
        layer.norms[0].load_state_dict(norms.state_dict())
        layer.routers[0].load_state_dict(routers.state_dict())
        assert len(deltas.of("attention")) == 2 and len(deltas.of("feed_forward2")) == (
            2 if experts_in == "none" else 0
        )
        for part in Deltas.PARTS:
            for name, delta in deltas.of(part).items():
                linear = getattr(getattr(layer.block, part), name)
                linear.weight.data += (delta.up @ delta.down).detach()
        expected, _ = layer(expected, NO_PADDING)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


def test_new_deltas_change_nothing_and_learn(encoder_config: Any) -> None:
    plain = Encoder(encoder_config(), num_mel_bins=20).eval()
    encoder = Encoder(encoder_config(low_rank_delta=3), num_mel_bins=20).eval()
    missing = encoder.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing and all(".deltas." in name for name in missing)
    features, lens = torch.randn(2, 40, 20), torch.tensor([40, 30])
    out = encoder(features, lens).encoder_out
    assert torch.equal(out, plain(features, lens).encoder_out)
    out.square().sum().backward()
    ups = [p.grad for name, p in encoder.named_parameters() if name.endswith(".up")]
    assert ups and all(grad is not None and grad.any() for grad in ups)


def test_deltas_are_counted_once_for_each_layer(model_config: Any) -> None:
    """Per layer: attention 3C + C and C + C, and the dense feed-forward twice C + H, each times the rank."""
    config = model_config(low_rank_delta=3)
    more = count_parameters(config)["encoder"]
    plain = count_parameters(model_config())["encoder"]
    per_layer = 3 * ((16 + 48) + (16 + 16) + 2 * (16 + 24))
    assert [a - b for a, b in zip(more, plain)] == [4 * per_layer] * 3
    assert more.unique == sum(p.numel() for p in AsrModel(config).encoder.parameters())
