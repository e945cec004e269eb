"""The yardstick: a conformer written plainly, with rotary positions and torch's own attention, and no tricks.

Source: Gulati et al. 2020, Conformer (arXiv 2005.08100); Su et al. 2021, RoFormer (arXiv 2104.09864).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainConformer(nn.Module):
    """Layers with weights of their own."""

    def __init__(
        self, dim: int, *, num_layers: int, num_heads: int, hidden: int, kernel_size: int, dropout: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            PlainLayer(dim, num_heads=num_heads, hidden=hidden, kernel_size=kernel_size, dropout=dropout)
            for _ in range(num_layers)
        )

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        """Return (N, T, C) of frames (N, T, C) and a mask that is True at padding, (N, T)."""
        for layer in self.layers:
            x = layer(x, padding_mask)
        return x


class PlainLayer(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward."""

    def __init__(self, dim: int, *, num_heads: int, hidden: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.feed_forward1 = plain_feed_forward(dim, hidden, dropout)
        self.attention = PlainAttention(dim, num_heads)
        self.attention_norm = nn.LayerNorm(dim)
        self.convolution = PlainConvolution(dim, kernel_size)
        self.feed_forward2 = plain_feed_forward(dim, hidden, dropout)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        """Return (N, T, C)."""
        x = x + 0.5 * self.feed_forward1(x)
        x = x + self.dropout(self.attention(self.attention_norm(x), padding_mask))
        x = x + self.dropout(self.convolution(x, padding_mask))
        return self.norm(x + 0.5 * self.feed_forward2(x))


def plain_feed_forward(dim: int, hidden: int, dropout: float) -> nn.Module:
    """Norm, linear, SiLU, dropout, linear, dropout."""
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, hidden),
        nn.SiLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, dim),
        nn.Dropout(dropout),
    )


class PlainAttention(nn.Module):
    """Self-attention with rotary positions."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value, self.output = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        """Return (N, T, C)."""
        n, t, c = x.shape
        query, key, value = (
            part(x).view(n, t, self.num_heads, -1).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        allowed = ~padding_mask[:, None, None]
        if hasattr(F, "scaled_dot_product_attention"):
            out = F.scaled_dot_product_attention(turned(query), turned(key), value, attn_mask=allowed)
        else:
            scores = turned(query) @ turned(key).transpose(-2, -1) / (c // self.num_heads) ** 0.5
            out = scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ value
        return self.output(out.transpose(1, 2).reshape(n, t, c))


def turned(x: Tensor) -> Tensor:
    """Channel pairs (2i, 2i + 1) of (N, H, T, D) as complex numbers, each turned by frame times frequency."""
    t, d = x.shape[-2:]
    angle = torch.outer(torch.arange(t, dtype=torch.float32), 10000.0 ** (-torch.arange(0, d, 2) / d))
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], d // 2, 2))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


class PlainConvolution(nn.Module):
    """Norm, pointwise, GLU, depthwise, batch norm, SiLU, pointwise, all as 1-D convolutions."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.pointwise1 = nn.Conv1d(dim, 2 * dim, 1)
        self.depthwise = nn.Conv1d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
        self.batch_norm = nn.BatchNorm1d(dim)
        self.pointwise2 = nn.Conv1d(dim, dim, 1)

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        """Return (N, T, C)."""
        x = F.glu(self.pointwise1(self.norm(x).transpose(1, 2)), dim=1).masked_fill(padding_mask[:, None], 0.0)
        return self.pointwise2(F.silu(self.batch_norm(self.depthwise(x)))).transpose(1, 2)
