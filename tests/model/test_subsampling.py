from __future__ import annotations

import pytest
import torch

from shared_moe_conformer.model.subsampling import MIN_NUM_FRAMES, Conv2dSubsampling, subsampled_length


@pytest.mark.parametrize("num_frames", [7, 8, 10, 11, 40, 123])
def test_length_is_the_one_that_the_convolutions_give(num_frames: int) -> None:
    module = Conv2dSubsampling(80, 16, channels=4)
    x, lens = module(torch.randn(2, num_frames, 80), torch.tensor([num_frames, 7]))
    assert x.shape == (2, subsampled_length(num_frames), 16)
    assert lens.tolist() == [subsampled_length(num_frames), 1]


def test_fewer_frames_than_the_convolutions_need_give_none() -> None:
    assert subsampled_length(MIN_NUM_FRAMES) == 1
    assert subsampled_length(MIN_NUM_FRAMES - 1) == 0
    assert subsampled_length(torch.tensor([0, 6, 7])).tolist() == [0, 0, 1]
    _, lens = Conv2dSubsampling(80, 16, channels=4)(torch.randn(1, 3, 80), torch.tensor([3]))
    assert lens.tolist() == [0]


def test_valid_frames_see_no_padding() -> None:
    module = Conv2dSubsampling(80, 16, channels=4)
    x = torch.randn(1, 40, 80, requires_grad=True)
    out, lens = module(x, torch.tensor([30]))
    out[0, : lens[0]].sum().backward()
    assert x.grad is not None and x.grad[0, 30:].abs().max() == 0
    assert x.grad[0, :27].abs().sum(dim=-1).min() > 0
