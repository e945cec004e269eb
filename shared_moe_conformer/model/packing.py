"""Between padded batches (N, T, C) and the valid frames alone (M, C)."""

from __future__ import annotations

import torch
from torch import Tensor


def padding_after(lens: Tensor, num_frames: int) -> Tensor:
    """padding_mask (N, T) of utterances with so many valid frames, (N,), in a batch of `num_frames` (T)."""
    return torch.arange(num_frames, device=lens.device) >= lens.unsqueeze(1)


def pack(x: Tensor, padding_mask: Tensor) -> Tensor:
    """The valid frames (M, C) of a padded batch, utterance by utterance.

    Args:
      x: frames, (N, T, C).
      padding_mask: True where a frame is padding, (N, T).
    """
    return x.flatten(0, 1).index_select(0, valid_indexes(padding_mask))


def unpack(frames: Tensor, padding_mask: Tensor) -> Tensor:
    """The padded batch (N, T, C) of which `pack` gives these frames; 0 at padding.

    Args:
      frames: valid frames, (M, C).
      padding_mask: True where a frame is padding, (N, T).
    """
    n, t = padding_mask.shape
    padded = frames.new_zeros(n * t, frames.size(1))
    return padded.index_copy(0, valid_indexes(padding_mask), frames).view(n, t, -1)


def valid_indexes(padding_mask: Tensor) -> Tensor:
    """The valid frames' places in the flattened batch, (M,)."""
    return (~padding_mask).flatten().nonzero().squeeze(1)
