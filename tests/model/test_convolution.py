from __future__ import annotations

import torch
from torch import nn

from shared_moe_conformer.model.convolution import ConvolutionModule
from shared_moe_conformer.model.normalisation import FrameLayerNorm


def test_it_equals_its_definition_with_conv1d() -> None:
    module, norm = ConvolutionModule(6, 5), FrameLayerNorm(6)
    x = torch.randn(2, 9, 6)
    y = nn.functional.glu(module.pointwise1(x).transpose(1, 2), dim=1)
    y = nn.functional.conv1d(y, module.depthwise.weight.squeeze(-1), module.depthwise.bias, padding=2, groups=6)
    expected = module.pointwise2(nn.functional.silu(norm(y.transpose(1, 2), None)))
    torch.testing.assert_close(module(x, torch.zeros(2, 9, dtype=torch.bool), norm), expected)


def test_padding_does_not_leak_into_valid_frames() -> None:
    module, norm = ConvolutionModule(6, 5), FrameLayerNorm(6)
    x = torch.randn(1, 9, 6, requires_grad=True)
    module(x, torch.arange(9)[None] >= 7, norm)[0, :7].sum().backward()
    assert x.grad is not None and x.grad[0, 7:].abs().max() == 0
