"""Normalisations of frames (N, T, C) that know which frames are padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_moe_conformer.model.packing import pack, unpack


class MaskedBatchNorm(nn.Module):
    """Batch normalisation whose statistics come from valid frames alone, so that padding changes nothing.

    Source: Ioffe and Szegedy 2015, Batch Normalization, algorithm 1 (arXiv 1502.03167).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_channels: int, *, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        """Return (N, T, C); in training 0 at padding.

        Args:
          x: frames, (N, T, C).
          padding_mask: True where a frame is padding, (N, T).
        """
        if not self.training:
            return self._normalise(x.flatten(0, 1)).view_as(x)
        return unpack(self._normalise(pack(x, padding_mask)), padding_mask)

    def _normalise(self, frames: Tensor) -> Tensor:
        statistics = self.running_mean, self.running_var
        return F.batch_norm(frames, *statistics, self.weight, self.bias, self.training, self.momentum)


class FrameLayerNorm(nn.LayerNorm):
    """Layer normalisation of each frame, called as `MaskedBatchNorm` is."""

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:  # noqa: ARG002
        """Return (N, T, C); each frame is normalised by itself, so padding does not matter."""
        return super().forward(x)
