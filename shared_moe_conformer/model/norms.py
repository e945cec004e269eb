"""Normalisations of frames (N, T, C) that know which frames are padding."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_moe_conformer.model.frames import Frames


class MaskedBatchNorm(nn.Module):
    """Batch normalisation with statistics of only the valid frames, so that padding changes nothing.

    Layers that share it share scales and biases. Each layer keeps its own running statistics; blended statistics would
    normalise differently in evaluation than in training.

    Source: Ioffe and Szegedy 2015, Batch Normalization, algorithm 1 (arXiv 1502.03167).
    """

    running_mean: Tensor
    """(C,), or (number of layers, C) if several layers share the norm."""
    running_var: Tensor

    def __init__(self, num_channels: int, *, num_layers: int = 1, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        shape = (num_channels,) if num_layers == 1 else (num_layers, num_channels)
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_var", torch.ones(shape))

    def forward(self, x: Tensor, frames: Frames, depth: int = 0) -> Tensor:
        """Return (N, T, C) for frames (N, T, C), in training 0 at padding.

        A batch of one valid frame has no variance: it is normalised as in evaluation. `depth` is the number of the
        calling layer among those that share the norm.
        """
        if not self.training:
            return self._normalise(x.flatten(0, 1), depth).view_as(x)
        return frames.unpack(self._normalise(frames.pack(x), depth))

    def _normalise(self, frames: Tensor, depth: int) -> Tensor:
        mean, variance = (stats.view(-1, frames.size(1))[depth] for stats in (self.running_mean, self.running_var))
        frames = as_wide_as(self.weight, frames)
        by_batch = self.training and len(frames) > 1
        return F.batch_norm(frames, mean, variance, self.weight, self.bias, by_batch, self.momentum)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Give every layer the statistics of a model of version 0.1, whose layers shared them with the norm."""
        for name in ("running_mean", "running_var"):
            own, stored = getattr(self, name), state_dict.get(prefix + name)
            if stored is not None and stored.dim() < own.dim():
                state_dict[prefix + name] = stored.expand_as(own).clone()
        super()._load_from_state_dict(state_dict, prefix, *args)


class FrameLayerNorm(nn.LayerNorm):
    """Layer normalisation of each frame, called as `MaskedBatchNorm` is."""

    def forward(self, x: Tensor, frames: Frames, depth: int = 0) -> Tensor:  # type: ignore[override]
        """Return (N, T, C); frames are normalised one by one, so padding and depth do not matter."""
        return super().forward(as_wide_as(self.weight, x))


def as_wide_as(other: Tensor, x: Tensor) -> Tensor:
    """x in the dtype of another tensor; autocast's 16 bits become the weights' 32."""
    return x if x.dtype == other.dtype else x.to(other.dtype)
