from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.encoder import Encoder
from shared_moe_conformer.model.frames import Frames
from shared_moe_conformer.model.merging import Deltas, LowRankDelta
from shared_moe_conformer.model.sharing import BlockGroup
from shared_moe_conformer.params import count_parameters

FRAMES, NO_PADDING = (
    torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(3)),
    Frames(torch.tensor([9, 9]), 9, head_dim=8),
)


def test_a_delta_begins_as_nothing() -> None:
    assert not LowRankDelta(nn.Linear(6, 4), 2)(torch.randn(3, 6)).any()


@pytest.mark.parametrize("experts_in", ["none", "second"])
def test_layers_with_deltas_are_layers_whose_matrices_differ(encoder_config: Any, experts_in: str) -> None:
    """Against groups of one, into whose weights the deltas are added."""
    config = encoder_config(experts_in=experts_in, low_rank_delta=2, conv_norm="layer_norm")
    group = BlockGroup(config, 3).eval()
    for parameter in group.deltas.parameters():
        nn.init.normal_(parameter, std=0.3)
    y = expected = FRAMES
    for depth in range(3):
        layer = BlockGroup(encoder_config(experts_in=experts_in, conv_norm="layer_norm"), 1).eval()
        layer.block.load_state_dict(group.block.state_dict())
        norms, routers, deltas = group.individual(depth)[:3]
        layer.norms[0].load_state_dict(norms.state_dict())
        layer.routers[0].load_state_dict(routers.state_dict())
        assert len(deltas["attention"]) == 2 and len(deltas["feed_forward2"]) == (2 if experts_in == "none" else 0)
        for part in Deltas.PARTS:
            for name, delta in deltas[part].items():
                linear = getattr(getattr(layer.block, part), name)
                linear.weight.data += (delta.up @ delta.down).detach()
        y, _ = group.block(y, NO_PADDING, group.individual(depth))
        expected, _ = layer.block(expected, NO_PADDING, layer.individual(0))
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


X, X_LENS = torch.randn(3, 60, 20, generator=torch.Generator().manual_seed(1)), torch.tensor([60, 48, 31])
Y, Y_LENS = torch.tensor([[4, 5, 6, 7], [3, 3, 0, 0], [9, 0, 0, 0]]), torch.tensor([4, 2, 1])


def test_shared_norms_evaluate_as_they_train(model_config: Any) -> None:
    """One blend of six layers' statistics would not: each layer's frames have a mean and variance of their own."""
    torch.manual_seed(2)
    config = model_config(group_sizes=(6,), individual_norms=False, individual_routers=False, experts_in="none")
    model = AsrModel(config, num_mel_bins=20)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        trained = model(X, X_LENS, Y, Y_LENS).ctc_loss
        trained.backward()
        optimizer.step()
    with torch.no_grad():
        for _ in range(60):  # running statistics reach those of the trained weights
            trained = model(X, X_LENS, Y, Y_LENS).ctc_loss
        evaluated = model.eval()(X, X_LENS, Y, Y_LENS).ctc_loss
    torch.testing.assert_close(evaluated, trained, rtol=0.1, atol=0.05)
