"""The front end: features (10 ms) are normalised and become encoder frames (40 ms)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_moe_conformer.config import MIN_NUM_FRAMES, subsampled_length
from shared_moe_conformer.kernels.linear import Linear
from shared_moe_conformer.model.norms import as_wide_as

SILENCE = -1e4
"""Logarithm of an energy that adds nothing."""


def loudness(x: Tensor, x_lens: Tensor) -> Tensor:
    """Logarithm of the mean energy of each utterance's valid frames and mel bins, (N, 1, 1); 0 without frames.

    A gain changes all features of an utterance and its loudness by the same constant.

    Args:
      x: logarithms of mel energies, (N, T, F).
      x_lens: valid frames of each utterance, (N,).
    """
    padding = torch.arange(x.size(1), device=x.device) >= x_lens.unsqueeze(1)
    energies = x.masked_fill(padding.unsqueeze(-1), SILENCE).flatten(1).logsumexp(dim=1)
    # Two logarithms: a graph in float16 cannot hold the number of features of 8.2 s, 65,600.
    mean = energies - x_lens.clamp(min=1).float().log() - math.log(x.size(2))
    return mean.masked_fill(x_lens == 0, 0.0).view(-1, 1, 1)


class FeatureNorm(nn.Module):
    """Features minus the mean and over the standard deviation, for each mel bin, of all frames seen in training.

    With `by_loudness`, every utterance is brought to the same loudness before: recordings that differ only in their
    gain have the same features.

    Training normalises by the same statistics as evaluation, those so far, so that the two cannot differ. They are
    gathered before a forward pass, for all batches of an update at once, so their division among processes
    does not matter.

    Source: Chan et al. 1979, Updating formulae and a pairwise algorithm for computing sample variances, eq. 2.1.
    """

    mean: Tensor
    variance: Tensor
    num_frames: Tensor
    smallest_variance = 1e-2
    """Added to the variance, so that a bin which never changes is not amplified."""

    def __init__(self, num_mel_bins: int, *, by_loudness: bool = False) -> None:
        super().__init__()
        self.by_loudness = by_loudness
        self.register_buffer("mean", torch.zeros(num_mel_bins))
        self.register_buffer("variance", torch.ones(num_mel_bins))
        self.register_buffer("num_frames", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def restart(self) -> None:
        """Forget the statistics of all frames so far."""
        self.mean.zero_()
        self.variance.fill_(1.0)
        self.num_frames.zero_()

    def forward(self, x: Tensor, x_lens: Tensor) -> Tensor:
        """Return normalised features (N, T, F) of features and the valid frames of each utterance, (N,)."""
        return (self.levelled(x, x_lens) - self.mean) * self.scale()

    def levelled(self, x: Tensor, x_lens: Tensor) -> Tensor:
        """Features (N, T, F) at the same loudness, if they are normalised by it."""
        return x - as_wide_as(x, loudness(x, x_lens)) if self.by_loudness else x

    def scale(self) -> Tensor:
        """The factor of each bin's distance from its mean, (F,)."""
        return (self.variance + self.smallest_variance).rsqrt()

    @torch.no_grad()
    def totals(self, x: Tensor, x_lens: Tensor) -> Tensor:
        """Number of valid frames, sum and sum of squares of their distance from the mean so far, (1 + 2F,), float64.

        Distances are small numbers, so float32 is exact enough within an utterance; only (N, F) sums are float64.
        """
        padding = torch.arange(x.size(1), device=x.device) >= x_lens.unsqueeze(1)
        distance = (self.levelled(x, x_lens) - self.mean).masked_fill(padding.unsqueeze(-1), 0.0)
        sums = torch.cat([distance.sum(dim=1), distance.square().sum(dim=1)], dim=1).double().sum(dim=0)
        return torch.cat([x_lens.sum().double().view(1), sums])

    @torch.no_grad()
    def count(self, totals: Tensor) -> None:
        """Take frames into the statistics; in evaluation, do nothing.

        Args:
          totals: `totals` of a batch, or the sum of several batches', since the last count.
        """
        num_frames, sums, squares = totals.split([1, len(self.mean), len(self.mean)])
        if not self.training or num_frames.item() == 0:
            return
        distance = sums / num_frames
        variance = (squares / num_frames - distance.square()).clamp(min=0)
        self.num_frames += num_frames.long().squeeze()
        share = (num_frames / self.num_frames).to(self.mean)
        distance = distance.to(self.mean)
        between = share * (1 - share) * distance.square()
        self.variance.copy_(self.variance.lerp(variance.to(self.variance), share) + between)
        self.mean += share * distance


class Conv2dSubsampling(nn.Module):
    """Two 2-D convolutions of stride 2, then one linear map of all their channels and frequencies.

    The second convolution is depthwise-separable, which makes it about as cheap as the first. No convolution pads the
    time axis, so a valid encoder frame depends only on valid feature frames.

    Source: Rekesh et al. 2023, Fast Conformer, section 3.1 (arXiv 2305.05084), here with a reduction of 4.
    """

    def __init__(self, num_mel_bins: int, encoder_dim: int, *, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, kernel_size=3, stride=2)
        self.depthwise = nn.Conv2d(channels, channels, kernel_size=3, stride=2, groups=channels)
        self.pointwise = nn.Conv2d(channels, channels, kernel_size=1)
        self.output = Linear(channels * subsampled_length(num_mel_bins), encoder_dim)

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Return encoder frames (N, T', C) of features (N, T, F), and the valid ones of each utterance, (N,)."""
        x = F.pad(x, (0, 0, 0, max(MIN_NUM_FRAMES - x.size(1), 0)))
        x = F.silu(self.conv(x.unsqueeze(1)))
        x = F.silu(self.pointwise(self.depthwise(x)))
        return self.output(x.transpose(1, 2).flatten(2)), subsampled_length(x_lens)
