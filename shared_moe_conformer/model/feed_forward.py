"""The dense feed-forward module of a conformer block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_moe_conformer.model.low_rank import project
from shared_moe_conformer.products import Linear, feed_forward


class FeedForward(nn.Module):
    """Linear map to `feed_forward_dim` channels, SiLU, linear map back.

    Source: Gulati et al. 2020, Conformer, figure 4 (arXiv 2005.08100).
    """

    def __init__(self, encoder_dim: int, feed_forward_dim: int) -> None:
        super().__init__()
        self.hidden = Linear(encoder_dim, feed_forward_dim)
        self.output = Linear(feed_forward_dim, encoder_dim)

    def forward(self, x: Tensor, deltas: nn.ModuleDict | None = None) -> Tensor:
        """Return (..., C).

        Args:
          x: frames, (..., C).
          deltas: what the calling layer adds to the linear maps.
        """
        if not deltas and not torch.is_grad_enabled():
            return feed_forward(x, self.hidden, self.output)
        return project(self.output, F.silu(project(self.hidden, x, deltas, "hidden")), deltas, "output")
