"""The front end: from feature frames (10 ms) to encoder frames (40 ms)."""

from __future__ import annotations

from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from shared_moe_conformer.products import Linear

Length = TypeVar("Length", int, Tensor)

MIN_NUM_FRAMES = 7
"""Fewest feature frames that give one encoder frame."""


def subsampled_length(num_frames: Length) -> Length:
    """Encoder frames of so many feature frames, an int or a tensor of them; 0 where there are fewer than 7."""
    length = ((num_frames - 1) // 2 - 1) // 2
    return length.clamp(min=0) if isinstance(length, Tensor) else max(length, 0)


class Conv2dSubsampling(nn.Module):
    """Two 2-D convolutions of stride 2, then one linear map of all their channels and frequencies.

    The second convolution is depthwise-separable, which makes it about as cheap as the first. No convolution pads the
    time axis, so that a valid encoder frame depends on valid feature frames alone.

    Source: Rekesh et al. 2023, Fast Conformer, section 3.1 (arXiv 2305.05084), here with a reduction of 4.
    """

    def __init__(self, num_mel_bins: int, encoder_dim: int, *, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, kernel_size=3, stride=2)
        self.depthwise = nn.Conv2d(channels, channels, kernel_size=3, stride=2, groups=channels)
        self.pointwise = nn.Conv2d(channels, channels, kernel_size=1)
        self.output = Linear(channels * subsampled_length(num_mel_bins), encoder_dim)

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Return encoder frames (N, T', C) and how many of each utterance are valid (N,).

        Args:
          x: features, (N, T, F).
          x_lens: valid feature frames of each utterance, (N,).
        """
        x = F.pad(x, (0, 0, 0, max(MIN_NUM_FRAMES - x.size(1), 0)))
        x = F.silu(self.conv(x.unsqueeze(1)))
        x = F.silu(self.pointwise(self.depthwise(x)))
        return self.output(x.transpose(1, 2).flatten(2)), subsampled_length(x_lens)
