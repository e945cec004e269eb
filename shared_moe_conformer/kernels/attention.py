"""Softmax attention: fused where torch has that, otherwise a few hundred queries at once.

Source: Vaswani et al. 2017, Attention is all you need, eq. 1 (arXiv 1706.03762).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

QUERIES_AT_ONCE = 512
"""Frames whose attention is computed at once where torch has no fused one."""


def attend(query: Tensor, key: Tensor, value: Tensor, attended: Tensor) -> Tensor:
    """Softmax attention of queries (N, H, T, D) over the keys (N, H, S, D) that they may see.

    It is fused where torch has that (2.0). Elsewhere the scores of a few hundred queries are held at once, so memory
    grows linearly with T, except in a traced graph, whose lengths must stay free.

    Args:
      query: (N, H, T, D).
      key: (N, H, S, D).
      value: (N, H, S, D).
      attended: True where a key may be seen, (N, 1, 1 or T, S).
    """
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=attended)
    if torch.jit.is_tracing():
        return softmax_attention(query, key, value, attended)
    attended = attended.expand(-1, -1, query.size(2), -1)
    parts = zip(query.split(QUERIES_AT_ONCE, dim=2), attended.split(QUERIES_AT_ONCE, dim=2))
    return torch.cat([softmax_attention(part, key, value, seen) for part, seen in parts], dim=2)


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, attended: Tensor) -> Tensor:
    """`attend` in plain torch, with all scores at once; their softmax is in float32 or wider."""
    scores = (query * query.size(-1) ** -0.5) @ key.transpose(-2, -1)  # scaled first: float16 ends at 65,504
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return scores.masked_fill(~attended, float("-inf")).softmax(dim=-1).to(value.dtype) @ value
