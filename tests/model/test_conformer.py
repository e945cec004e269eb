from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from shared_moe_conformer.model.conformer import (
    ConformerBlock,
    ConvolutionModule,
    FeedForward,
    IndividualParts,
    Norms,
    Routers,
    SelfAttention,
    rotate,
)
from shared_moe_conformer.model.frames import Frames, rotation_of
from shared_moe_conformer.model.norms import FrameLayerNorm

NO_PADDING = Frames(torch.tensor([9, 9]), 9, head_dim=8)


def test_scores_depend_on_distance_only() -> None:
    """The product of a rotated query and a rotated key is the same for every pair of frames equally far apart."""
    query, key = torch.randn(8), torch.randn(8)
    heads = torch.stack([query, key]).expand(1, 20, 2, 8)
    rotated_query, rotated_key = rotate(heads, *rotation_of(torch.arange(20), 8))[0].unbind(1)
    scores = rotated_query @ rotated_key.T
    for distance in (-7, 0, 3):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert (scores.diagonal(3)[0] - scores.diagonal(-3)[0]).abs() > 1e-3


def test_rotation_keeps_lengths() -> None:
    heads = torch.randn(2, 9, 3, 8)
    rotated = rotate(heads, *rotation_of(torch.arange(9), 8))
    torch.testing.assert_close(rotated.norm(dim=-1), heads.norm(dim=-1))


def test_padding_is_not_attended_to() -> None:
    module = SelfAttention(16, 2)
    x = torch.randn(1, 10, 16)
    frames = Frames(torch.tensor([6]), 10, head_dim=8)
    out = module(x, frames)
    x[0, 6:] += 1.0
    torch.testing.assert_close(module(x, frames)[0, :6], out[0, :6])


def test_an_empty_utterance_is_finite() -> None:
    out = SelfAttention(16, 2)(torch.randn(2, 5, 16), Frames(torch.tensor([0, 0]), 5, head_dim=8))
    assert out.isfinite().all()


def test_it_equals_its_definition_with_conv1d() -> None:
    module, norm = ConvolutionModule(6, 5), FrameLayerNorm(6)
    x = torch.randn(2, 9, 6)
    y = nn.functional.glu(module.pointwise1(x).transpose(1, 2), dim=1)
    y = nn.functional.conv1d(y, module.depthwise.weight.squeeze(-1), module.depthwise.bias, padding=2, groups=6)
    expected = module.pointwise2(nn.functional.silu(norm(y.transpose(1, 2), None)))
    torch.testing.assert_close(module(x, Frames(torch.tensor([9, 9]), 9, head_dim=2), norm), expected)


def test_padding_does_not_leak_into_valid_frames() -> None:
    module, norm = ConvolutionModule(6, 5), FrameLayerNorm(6)
    x = torch.randn(1, 9, 6, requires_grad=True)
    module(x, Frames(torch.tensor([7]), 9, head_dim=2), norm)[0, :7].sum().backward()
    assert x.grad is not None and x.grad[0, 7:].abs().max() == 0


def test_frames_are_computed_independently() -> None:
    module = FeedForward(4, 8)
    x = torch.randn(2, 5, 4)
    torch.testing.assert_close(module(x)[1, 3], module(x[1, 3]))


@pytest.mark.parametrize(("experts_in", "num_routers"), [("none", 0), ("first", 1), ("second", 1), ("both", 2)])
def test_each_expert_feed_forward_tells_its_routing(encoder_config: Any, experts_in: str, num_routers: int) -> None:
    config = encoder_config(experts_in=experts_in)
    block, individual = ConformerBlock(config), IndividualParts(Norms(config), Routers(config))
    x = torch.randn(2, 9, 16)
    y, routing = block(x, NO_PADDING, individual)
    assert y.shape == x.shape
    assert len(routing) == num_routers


def test_a_shared_block_acts_differently_with_other_individual_parts(encoder_config: Any) -> None:
    config = encoder_config()
    block, norms, routers = ConformerBlock(config).eval(), Norms(config).eval(), Routers(config)
    x = torch.randn(2, 9, 16)
    y, _ = block(x, NO_PADDING, IndividualParts(norms, routers))
    other_router, _ = block(x, NO_PADDING, IndividualParts(norms, Routers(config)))
    norms.attention.weight.data *= 2
    other_norm, _ = block(x, NO_PADDING, IndividualParts(norms, routers))
    assert not torch.allclose(other_router, y)
    assert not torch.allclose(other_norm, y)


def test_the_block_owns_neither_norms_nor_routers(encoder_config: Any) -> None:
    names = ConformerBlock(encoder_config(experts_in="both")).state_dict()
    assert not [name for name in names if "norm" in name or "router" in name]
