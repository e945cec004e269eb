"""Every front end can stand before the encoder: frames and lengths are those of the package's own."""

from __future__ import annotations

import pytest
import torch

from benchmarks.front_ends import SHORT, front_ends
from shared_moe_conformer.model.subsampling import MIN_NUM_FRAMES, subsampled_length

BINS, DIM = 20, 8
NAMES = list(front_ends(BINS, DIM, 4))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_frames", [3, MIN_NUM_FRAMES, 8, 50])
def test_frames_and_lengths(name: str, num_frames: int) -> None:
    x_lens = torch.tensor([num_frames, num_frames - 1])
    out, lens = front_ends(BINS, DIM, 4)[name]()(torch.randn(2, num_frames, BINS), x_lens)
    assert out.shape == (2, subsampled_length(max(num_frames, MIN_NUM_FRAMES)), DIM)
    assert torch.equal(lens, subsampled_length(x_lens))


def test_each_has_a_short_name() -> None:
    assert list(SHORT.values()) == list(range(len(NAMES)))
