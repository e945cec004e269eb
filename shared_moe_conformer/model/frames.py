"""What all layers need to know of a batch's frames, made once per forward pass."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

ROTARY_BASE = 10000.0


class Frames:
    """Which frames of a batch are valid, where they stand in time, and which of them may be attended to."""

    padding_mask: Tensor
    """True where a frame is padding, (N, T)."""
    attended: Tensor
    """True where a frame may be attended to, (N, 1, 1, T)."""
    rotation: tuple[Tensor, Tensor]
    """Cosine and sine of each position's angles, (T, D / 2) each, for heads of D channels."""

    def __init__(self, lens: Tensor, num_frames: int, *, head_dim: int) -> None:
        """Describe utterances of `lens` (N,) valid frames, padded to `num_frames` (T)."""
        positions = torch.arange(num_frames, device=lens.device)
        self.padding_mask = positions >= lens.unsqueeze(1)
        # Frame 0 of an empty utterance is attended to as well: a softmax over nothing would be NaN.
        self.attended = (~self.padding_mask | (positions == 0))[:, None, None]
        self.rotation = rotation_of(positions, head_dim)

    @functools.cached_property
    def valid(self) -> Tensor:
        """Places of the M valid frames in the flattened batch of N * T, utterance by utterance, (M,)."""
        return (~self.padding_mask).flatten().nonzero().squeeze(1)

    def pack(self, x: Tensor) -> Tensor:
        """Return the valid frames (M, C) of a padded batch (N, T, C)."""
        return x.flatten(0, 1).index_select(0, self.valid)

    def unpack(self, frames: Tensor) -> Tensor:
        """Return the padded batch (N, T, C) of valid frames (M, C), 0 at padding."""
        padded = frames.new_zeros(self.padding_mask.numel(), frames.size(1))
        return padded.index_copy(0, self.valid, frames).view(*self.padding_mask.shape, -1)


def rotation_of(positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine, (T, D / 2) each, of positions (T,) times the frequencies of heads with D channels.

    Source: Su et al. 2021, RoFormer, eq. 15 (arXiv 2104.09864).
    """
    half = head_dim // 2
    frequencies = ROTARY_BASE ** (-torch.arange(half, device=positions.device, dtype=torch.float32) / half)
    angles = positions.float()[:, None] * frequencies
    return angles.cos(), angles.sin()
