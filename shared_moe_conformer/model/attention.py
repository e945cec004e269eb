"""Multi-head self-attention with rotary positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_moe_conformer.model.low_rank import project
from shared_moe_conformer.products import Linear

ROTARY_BASE = 10000.0
QUERIES_AT_ONCE = 512
"""Frames whose attention is computed at once where torch has no fused one."""


class SelfAttention(nn.Module):
    """Every valid frame attends to every valid frame of its utterance; positions enter by rotating queries and keys.

    Source: Su et al. 2021, RoFormer, eq. 14-16 and 34 (arXiv 2104.09864).
    """

    def __init__(self, encoder_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key_value = Linear(encoder_dim, 3 * encoder_dim)
        self.output = Linear(encoder_dim, encoder_dim)

    def forward(self, x: Tensor, padding_mask: Tensor, deltas: nn.ModuleDict | None = None) -> Tensor:
        """Return (N, T, C); what stands at padded frames is finite and has no meaning.

        Args:
          x: frames, (N, T, C).
          padding_mask: True where a frame is padding, (N, T).
          deltas: what the calling layer adds to the projections.
        """
        n, t, c = x.shape
        heads = project(self.query_key_value, x, deltas, "query_key_value").view(
            n, t, 3, self.num_heads, c // self.num_heads
        )
        query, key = rotate(heads[:, :, :2]).permute(2, 0, 3, 1, 4).unbind(0)
        value = heads[:, :, 2].transpose(1, 2)
        out = attend(query, key, value, attended_frames(padding_mask))
        return project(self.output, out.transpose(1, 2).reshape(n, t, c), deltas, "output")


def rotate(x: Tensor) -> Tensor:
    """Queries and keys (N, T, 2, H, D), each pair of channels (i, i + D/2) turned by frame times frequency."""
    half = x.size(-1) // 2
    frequencies = ROTARY_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = torch.arange(x.size(1), device=x.device, dtype=torch.float32)[:, None] * frequencies
    cos, sin = (f(angles).to(x.dtype)[:, None, None] for f in (torch.cos, torch.sin))
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def attended_frames(padding_mask: Tensor) -> Tensor:
    """True where a frame may be attended to, (N, 1, 1, T).

    Frame 0 always may: it is valid unless the utterance is empty, and an empty utterance must not become NaN.
    """
    first = torch.arange(padding_mask.size(1), device=padding_mask.device) == 0
    return (~padding_mask | first)[:, None, None]


def attend(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    """Softmax attention, (N, H, T, D) each, over the allowed keys, (N, 1, 1, T); fused where torch has it (2.0).

    Memory grows linearly with T: no more scores are held at once than those of some queries. A traced graph, whose
    lengths must stay free, holds all.
    """
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
    if torch.jit.is_tracing():
        return _attend_at_once(query, key, value, allowed)
    parts = query.split(QUERIES_AT_ONCE, dim=2)
    return torch.cat([_attend_at_once(part, key, value, allowed) for part in parts], dim=2)


def _attend_at_once(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    scores = (query @ key.transpose(-2, -1)) * query.size(-1) ** -0.5
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return scores.masked_fill(~allowed, float("-inf")).softmax(dim=-1).to(value.dtype) @ value
