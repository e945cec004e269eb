"""The frames of a batch as all layers need them, made once per forward pass."""

from __future__ import annotations

import copy
import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_moe_conformer.config import Chunking

ROTARY_BASE = 10000.0


class Frames:
    """The frames of a batch: their validity, their positions in time, and the frames that each may see."""

    padding_mask: Tensor
    """True where a frame is padding, (N, T)."""
    attended: Tensor
    """True where a frame may be attended to: (N, 1, 1, S) by all frames, or (N, 1, T, S) by each."""
    rotation: tuple[Tensor, Tensor]
    """Cosine and sine of the angles of the S positions that are attended to, (S, D / 2) each, for heads of D channels;
    the last T of them are the frames' own."""
    chunk_size: int | None
    """Frames of a chunk, beyond which the convolution does not look ahead; None: it sees the whole."""

    def __init__(self, lens: Tensor, num_frames: int, *, head_dim: int, chunking: Chunking | None = None) -> None:
        """Describe utterances of `lens` (N,) valid frames, padded to `num_frames` (T)."""
        positions = torch.arange(num_frames, device=lens.device)
        self.padding_mask = positions >= lens.unsqueeze(1)
        self.rotation = rotation_of(positions, head_dim)
        if chunking is None:
            self.chunk_size = None
            # Frame 0 of an empty utterance is attended to as well: a softmax over nothing would be NaN.
            self.attended = (~self.padding_mask | (positions == 0))[:, None, None]
        else:
            self.chunk_size = chunking.chunk_size
            visible = visible_frames(positions, chunking) & ~self.padding_mask.unsqueeze(1)
            itself = positions == positions.unsqueeze(1)  # padding attends to itself, for the same reason
            self.attended = (visible | itself).unsqueeze(1)

    @functools.cached_property
    def valid(self) -> Tensor:
        """Indices of the M valid frames in the flattened batch of N * T, utterance by utterance, (M,)."""
        return (~self.padding_mask).flatten().nonzero().squeeze(1)

    @property
    def are_valid(self) -> bool:
        """Whether nothing is padding, so that a batch is its valid frames."""
        return len(self.valid) == self.padding_mask.numel()

    def pack(self, x: Tensor) -> Tensor:
        """Return the valid frames (M, C) of a padded batch (N, T, C)."""
        frames = x.flatten(0, 1)
        return frames if self.are_valid else frames.index_select(0, self.valid)

    def unpack(self, frames: Tensor) -> Tensor:
        """Return the padded batch (N, T, C) of valid frames (M, C), 0 at padding."""
        if not self.are_valid:
            padded = frames.new_zeros(self.padding_mask.numel(), frames.size(1))
            frames = padded.index_copy_(0, self.valid, frames)
        return frames.view(*self.padding_mask.shape, -1)

    def after_memory(self, keys_values: Tensor) -> Tensor:
        """Return keys and values (N, T, ...) behind those that are remembered, (N, S, ...); here there are none."""
        return keys_values

    def chunks(self, x: Tensor, half: int) -> Tensor:
        """Return the chunks (M, half + chunk_size, C) of a batch (N, T, C), each with `half` frames before it.

        Frames before the first are 0.
        """
        size: int = self.chunk_size  # type: ignore[assignment]  # asked for only where there is one
        x = F.pad(x, (0, 0, half, -x.size(1) % size))
        return x.unfold(1, half + size, size).transpose(2, 3).flatten(0, 1)

    def joined(self, chunks: Tensor) -> Tensor:
        """Return the batch (N, T, C) of its chunks (M, chunk_size, C)."""
        n, t = self.padding_mask.shape
        return chunks.reshape(n, -1, chunks.size(2))[:, :t]


class LayerMemory(NamedTuple):
    """A layer's memory of a stream for its next chunk."""

    keys_values: Tensor
    """Keys, not rotated yet, and values of the last frames, (N, left_context, 2, H, D)."""
    convolved: Tensor
    """The last frames that the depthwise convolution saw, (N, kernel_size // 2, C)."""


class ChunkFrames(Frames):
    """The frames of one chunk of each of N streams, which may be at different places.

    Positions are counted in the window that is attended to, the left context and the chunk, so they never grow: the
    angle between a query and a key depends on their distance alone.
    """

    memory: LayerMemory
    """The calling layer's, before this chunk; after it the next one's."""

    def __init__(self, lens: Tensor, num_frames: int, *, head_dim: int, left_context: int, num_before: Tensor) -> None:
        """Describe chunks of `num_frames` (T) frames, `lens` (N,) of them valid, after `num_before` (N,) others."""
        positions = torch.arange(num_frames, device=lens.device)
        self.chunk_size = num_frames
        self.padding_mask = positions >= lens.unsqueeze(1)
        age = torch.arange(left_context, 0, -1, device=lens.device)  # 1: the frame just before the chunk
        remembered = age <= num_before.unsqueeze(1)
        visible = torch.cat([remembered, ~self.padding_mask | (positions == 0)], dim=1)
        self.attended = visible[:, None, None]
        self.rotation = rotation_of(torch.arange(left_context + num_frames, device=lens.device), head_dim)

    def of_layer(self, memory: LayerMemory) -> ChunkFrames:
        """These frames for a layer with this memory."""
        frames = copy.copy(self)
        frames.memory = memory
        return frames

    def after_memory(self, keys_values: Tensor) -> Tensor:
        """Return keys and values behind those that are remembered, and remember the last ones."""
        left_context = self.memory.keys_values.size(1)
        window = torch.cat([self.memory.keys_values, keys_values], dim=1)
        self.memory = self.memory._replace(keys_values=window[:, window.size(1) - left_context :])
        return window

    def chunks(self, x: Tensor, half: int) -> Tensor:
        """Return the chunks (N, half + T, C) behind what is remembered, and remember their last frames."""
        window = torch.cat([self.memory.convolved, x], dim=1)
        self.memory = self.memory._replace(convolved=window[:, window.size(1) - half :])
        return window


def visible_frames(positions: Tensor, chunking: Chunking) -> Tensor:
    """True at (t, s) where frame t sees frame s, (T, T): those of its chunk, and its left context."""
    start = positions // chunking.chunk_size * chunking.chunk_size
    visible = positions < (start + chunking.chunk_size).unsqueeze(1)
    if chunking.left_context is None:
        return visible
    return visible & (positions >= (start - chunking.left_context).unsqueeze(1))


def rotation_of(positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine, (T, D / 2) each, of positions (T,) times the frequencies of heads with D channels.

    Source: Su et al. 2021, RoFormer, eq. 15 (arXiv 2104.09864).
    """
    half = head_dim // 2
    frequencies = ROTARY_BASE ** (-torch.arange(half, device=positions.device, dtype=torch.float32) / half)
    angles = positions.float()[:, None] * frequencies
    return angles.cos(), angles.sin()
