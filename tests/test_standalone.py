from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from shared_moe_conformer.config import Chunking, EncoderConfig
from shared_moe_conformer.model.encoder import Encoder
from shared_moe_conformer.standalone import FrontEnd, Layers
from tests.conftest import TINY

BALANCED = dataclasses.replace(TINY.model.encoder, balancing_bias_rate=0.01, dropout=0.0)
MERGED = dataclasses.replace(BALANCED, experts_in="none", merged_sets=2)


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 90, 80, generator=torch.Generator().manual_seed(0)) * 3 + 5, torch.tensor([90, 50])


def parts_of(config: EncoderConfig, encoder: Encoder) -> tuple[FrontEnd, Layers]:
    """The two parts with an encoder's weights."""
    front_end, layers = FrontEnd(config, num_mel_bins=80), Layers(config)
    state = encoder.state_dict()
    own = {*front_end.state_dict()}, {*layers.state_dict()}
    assert not own[0] & own[1] and own[0] | own[1] == {*state}
    for part, names in zip((front_end, layers), own):
        part.load_state_dict({name: state[name] for name in names})
    return front_end, layers


@pytest.mark.parametrize("config", [BALANCED, MERGED], ids=["experts", "merged"])
@pytest.mark.parametrize("chunking", [None, Chunking(4, 8)])
def test_both_parts_together_are_the_encoder(config: EncoderConfig, chunking: Chunking | None) -> None:
    encoder = Encoder(config, num_mel_bins=80).eval()
    front_end, layers = parts_of(config, encoder)
    with torch.no_grad():
        frames, lens = layers.eval()(*front_end.eval()(*batch()), chunking)
        expected = encoder(*batch(), chunking)
    assert torch.equal(frames, expected.encoder_out) and torch.equal(lens, expected.encoder_out_lens)
    assert layers.frames_per_expert is None


def test_training_counts_features_and_balances_by_the_batch_before() -> None:
    torch.manual_seed(0)
    front_end, layers = FrontEnd(BALANCED, num_mel_bins=80), Layers(BALANCED)
    biases = [router.balancing_bias for router in layers.routers()]
    frames, lens = layers(*front_end(*batch()))
    x, x_lens = batch()
    assert front_end.feature_norm.num_frames == 140
    torch.testing.assert_close(front_end.feature_norm.mean, torch.cat([x[0], x[1, :50]]).mean(dim=0))
    assert all(bias is not None and not bias.any() for bias in biases)
    counts = layers.frames_per_expert
    assert counts is not None and counts.sum() == 3 * lens.sum()
    layers(frames.detach(), lens)
    moved = torch.stack([bias for bias in biases if bias is not None])
    assert torch.equal(moved, 0.01 * (counts.mean(dim=1, keepdim=True) - counts).sign())


def test_experts_that_only_a_loss_could_balance_are_refused() -> None:
    with pytest.raises(ValueError, match="this trainer adds no load-balancing loss: give the experts balancing_bias"):
        Layers(TINY.model.encoder)
    without = Layers(dataclasses.replace(TINY.model.encoder, experts_in="none"))
    without(torch.randn(1, 5, 16), torch.tensor([5]))
    assert without.frames_per_expert is None
