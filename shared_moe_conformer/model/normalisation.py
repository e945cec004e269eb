"""Normalisations of frames (N, T, C) that know which frames are padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_moe_conformer.model.packing import pack, padding_after, unpack


class FeatureNorm(nn.Module):
    """Features minus the mean and over the standard deviation, for each mel bin, of all frames seen in training.

    Training normalises by the same statistics as evaluation, those so far, so that the two cannot differ. They are
    gathered before a forward pass, for all the batches of an update at once: which process has which does not matter.

    Source: Chan et al. 1979, Updating formulae and a pairwise algorithm for computing sample variances, eq. 2.1.
    """

    mean: Tensor
    variance: Tensor
    num_frames: Tensor
    smallest_variance = 1e-2
    """Added to the variance, so that a bin which never changes is not amplified."""

    def __init__(self, num_mel_bins: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_mel_bins))
        self.register_buffer("variance", torch.ones(num_mel_bins))
        self.register_buffer("num_frames", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised features (N, T, F).

        Args:
          x: features, (N, T, F).
        """
        return (x - self.mean) * self.scale()

    def scale(self) -> Tensor:
        """What each bin's distance from its mean is multiplied by, (F,)."""
        return (self.variance + self.smallest_variance).rsqrt()

    @torch.no_grad()
    def count(self, totals: Tensor) -> None:
        """In training, take frames into the statistics.

        Args:
          totals: `feature_totals` of a batch, or the sum of several batches'.
        """
        num_frames, sums, squares = totals.split([1, len(self.mean), len(self.mean)])
        if not self.training or num_frames.item() == 0:
            return
        mean = sums / num_frames
        variance = (squares / num_frames - mean.square()).clamp(min=0)
        self.num_frames += num_frames.long().squeeze()
        share = (num_frames / self.num_frames).to(self.mean)
        distance = mean.to(self.mean) - self.mean
        between = share * (1 - share) * distance.square()
        self.variance.copy_(self.variance.lerp(variance.to(self.variance), share) + between)
        self.mean += share * distance


def feature_totals(x: Tensor, x_lens: Tensor) -> Tensor:
    """Number of valid frames, their sum and the sum of their squares, (1 + 2F,), in float64.

    Args:
      x: features, (N, T, F).
      x_lens: valid frames of each utterance, (N,).
    """
    frames = pack(x, padding_after(x_lens, x.size(1))).double()
    return torch.cat([frames.new_tensor([len(frames)]), frames.sum(dim=0), frames.square().sum(dim=0)])


class MaskedBatchNorm(nn.Module):
    """Batch normalisation whose statistics come from valid frames alone, so that padding changes nothing.

    Source: Ioffe and Szegedy 2015, Batch Normalization, algorithm 1 (arXiv 1502.03167).
    """

    running_mean: Tensor
    running_var: Tensor
    counts: bool
    """False: batches in training leave the running statistics as they are."""

    def __init__(self, num_channels: int, *, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.counts = True
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        """Return (N, T, C); in training 0 at padding.

        A batch of one valid frame has no variance: it is normalised as in evaluation.

        Args:
          x: frames, (N, T, C).
          padding_mask: True where a frame is padding, (N, T).
        """
        if not self.training:
            return self._normalise(x.flatten(0, 1)).view_as(x)
        return unpack(self._normalise(pack(x, padding_mask)), padding_mask)

    def _normalise(self, frames: Tensor) -> Tensor:
        mean, variance = self.running_mean, self.running_var
        if not self.counts:
            mean, variance = mean.clone(), variance.clone()
        frames = as_wide_as(self.weight, frames)
        by_batch = self.training and len(frames) > 1
        return F.batch_norm(frames, mean, variance, self.weight, self.bias, by_batch, self.momentum)


class FrameLayerNorm(nn.LayerNorm):
    """Layer normalisation of each frame, called as `MaskedBatchNorm` is."""

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:  # type: ignore[override]
        """Return (N, T, C); each frame is normalised by itself, so padding does not matter."""
        return super().forward(as_wide_as(self.weight, x))


def as_wide_as(other: Tensor, x: Tensor) -> Tensor:
    """x in the number format of another tensor; autocast's 16 bits become the weights' 32."""
    return x if x.dtype == other.dtype else x.to(other.dtype)
