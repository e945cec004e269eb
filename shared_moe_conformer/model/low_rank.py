"""What one layer adds to the linear maps of a block that it shares with others: a matrix of low rank to each."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LowRankDelta(nn.Module):
    """B A x, at first 0, beside a linear map W x: one layer's own share of W.

    Source: Hu et al. 2021, LoRA, section 4.1 (arXiv 2106.09685); one for each depth of shared layers: Bae et al. 2024,
    Relaxed recursive transformers, section 2.3 (arXiv 2410.20672).
    """

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(linear.in_features)
        self.down = nn.Parameter(torch.empty(rank, linear.in_features).uniform_(-bound, bound))
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out channels) for frames (..., in channels)."""
        return F.linear(F.linear(x, self.down), self.up)

    @torch.no_grad()
    def approximate(self, matrix: Tensor) -> None:
        """Make B A the matrix of this rank that is nearest to one of W's shape; for 0 it stays as it began.

        Source: Eckart and Young 1936, The approximation of one matrix by another of lower rank.
        """
        if not matrix.any():
            return  # A and B both 0 would never learn
        left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
        rank = min(self.up.size(1), singular.numel())
        root = singular[:rank].sqrt()
        self.up[:, :rank] = left[:, :rank] * root
        self.down[:rank] = root.unsqueeze(1) * right[:rank]


def deltas_of(module: nn.Module, rank: int) -> nn.ModuleDict:
    """A delta for each linear map among a module's children, under its name; none for stacked experts."""
    linears = ((name, child) for name, child in module.named_children() if isinstance(child, nn.Linear))
    return nn.ModuleDict({name: LowRankDelta(linear, rank) for name, linear in linears})


class Deltas(nn.Module):
    """The deltas of one layer: to its block's attention and dense feed-forwards."""

    PARTS = ("feed_forward1", "attention", "feed_forward2")

    def __init__(self, block: nn.Module, rank: int) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: deltas_of(getattr(block, name), rank) for name in self.PARTS})

    def of(self, part: str) -> nn.ModuleDict:
        """Those to a part of the block; empty for a feed-forward of experts."""
        return self.parts[part]  # type: ignore[return-value]


def project(linear: nn.Linear, x: Tensor, deltas: Mapping[str, nn.Module] | nn.ModuleDict | None, name: str) -> Tensor:
    """`linear(x)` and, where there are deltas, the one of this name."""
    return linear(x) if not deltas else linear(x) + deltas[name](x)
