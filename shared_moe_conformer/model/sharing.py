"""Layers that share one block's weights, and the parts that each of them keeps for itself.

Source: Bai et al. 2022, abstract (arXiv 2209.08326).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from shared_moe_conformer.config import BLOCK_PARTS, EncoderConfig
from shared_moe_conformer.model.conformer import ConformerBlock, IndividualParts, Norms, Routers, has_experts
from shared_moe_conformer.model.frames import Frames
from shared_moe_conformer.model.merging import DepthGates
from shared_moe_conformer.model.moe import (
    ExpertUsage,
    Router,
    Routing,
    expert_usage,
    load_balancing_loss,
    router_z_loss,
)
from shared_moe_conformer.model.norms import MaskedBatchNorm


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


class Deltas(nn.Module):
    """The deltas of one layer: to the linear maps of its block's attention and dense feed-forwards."""

    PARTS = ("feed_forward1", "attention", "feed_forward2")

    def __init__(self, block: ConformerBlock, rank: int) -> None:
        super().__init__()
        self.parts = nn.ModuleDict()
        for part in self.PARTS:
            children = getattr(block, part, nn.Module()).named_children()  # a block may lack attention of its own
            maps = {name: child for name, child in children if isinstance(child, nn.Linear)}
            self.parts[part] = nn.ModuleDict({name: LowRankDelta(linear, rank) for name, linear in maps.items()})

    def by_part(self) -> dict[str, dict[str, nn.Module]]:
        """The deltas by the names of the block's part and of its linear map."""
        return {name: dict(part.items()) for name, part in self.parts.items()}  # type: ignore[operator]


class RouterLosses(NamedTuple):
    """The losses of L routers on a batch, each averaged over its valid frames."""

    load_balancing_loss: Tensor
    """(L,)."""
    router_z_loss: Tensor
    """(L,)."""
    frames_per_expert: Tensor
    """Frames that each expert computed, (L, E), without gradient."""


class BlockGroup(nn.Module):
    """Layers that use one block; norms, routers, deltas and gates are each layer's own if the config says so."""

    def __init__(self, config: EncoderConfig, size: int, *, has_mixer: bool = True) -> None:
        super().__init__()
        self.size = size
        self.recomputes = False
        self.balances_together = config.balance_over == "group"
        self.block = ConformerBlock(config, has_mixer=has_mixer)
        num_norms = size if config.individual_norms else 1
        self.norms = nn.ModuleList(Norms(config, num_layers=size // num_norms) for _ in range(num_norms))
        self.routers = nn.ModuleList(Routers(config) for _ in range(size if config.individual_routers else 1))
        rank = config.low_rank_delta
        self.deltas = nn.ModuleList(Deltas(self.block, rank) for _ in range(size if rank else 0))
        self.merged_parts = merged_parts(config)
        shape = size, len(self.merged_parts), config.merged_sets
        self.gates = DepthGates(*shape, kind=config.merge_gates) if self.merged_parts else None

    def individual(self, depth: int) -> IndividualParts:
        """The own parts of the group's layer at this depth (0 is its first)."""
        return IndividualParts(
            norms=self.norms[depth % len(self.norms)],  # type: ignore[arg-type]
            routers=self.routers_of(depth),
            adapters=self.deltas[depth].by_part() if len(self.deltas) else {},  # type: ignore[operator]
            gates=dict(zip(self.merged_parts, self.gates(depth).unbind())) if self.gates is not None else {},
            depth=depth // len(self.norms),
        )

    def routers_in_order(self) -> list[Router]:
        """The router of each expert feed-forward, in the order of depth; layers that share one repeat it."""
        return [router for depth in range(self.size) for router in self.routers_of(depth).in_order()]

    def routers_of(self, depth: int) -> Routers:
        """The routers of the group's layer at this depth."""
        return self.routers[depth % len(self.routers)]  # type: ignore[return-value]

    def parameter_layers(self) -> Iterator[tuple[nn.Parameter, int]]:
        """Each parameter and the number of layers that use it; its gradient is the sum of theirs."""
        parts = (self.block, 1), (self.norms, len(self.norms)), (self.routers, len(self.routers))
        for part, copies in parts:
            yield from ((parameter, self.size // copies) for parameter in part.parameters())
        yield from ((parameter, 1) for parameter in self.deltas.parameters())

    def forward(
        self, x: Tensor, frames: Frames, depth: int, mixer: nn.Module | None = None
    ) -> tuple[Tensor, list[Routing]]:
        """Return (N, T, C) after one of the group's layers, and the decisions of its routers.

        Args:
          x: frames, (N, T, C).
          frames: their validity, their positions and the frames that each may see.
          depth: the layer's number in the group; 0 is its first.
          mixer: attention and convolution to use; None: the block's own.
        """
        recomputes = self.recomputes and self.training and torch.is_grad_enabled()
        layer = functools.partial(recomputed, self.block) if recomputes else self.block
        x, routing = layer(x, frames, self.individual(depth), mixer)
        return x, routing

    def router_losses(self, routing: Routing) -> RouterLosses:
        """The losses of the group's L routers, whose decisions are stacked in the order of depth."""
        usage = expert_usage(routing)
        balanced = ExpertUsage(*map(self.balanced, usage))
        return RouterLosses(load_balancing_loss(balanced), router_z_loss(routing.router_logits), usage.frames)

    def balanced(self, rows: Tensor) -> Tensor:
        """The use of experts that the config balances: each layer's (L, E), or the mean over the group's layers."""
        if not self.balances_together:
            return rows
        return rows.unflatten(0, (self.size, -1)).mean(dim=0).repeat(self.size, 1)

    def balance(self, frames_per_expert: Tensor) -> Tensor:
        """After an update: move the routers' balancing biases, if they have any.

        Args:
          frames_per_expert: frames that each expert computed, (L, E), in the order of depth.

        Returns:
          the frames that are balanced, (L, E).
        """
        frames = self.balanced(frames_per_expert)
        routers = self.routers_in_order()
        for router in dict.fromkeys(routers):
            router.balance(sum(row for owner, row in zip(routers, frames) if owner is router))  # type: ignore[arg-type]
        return frames


def merged_parts(config: EncoderConfig) -> tuple[str, ...]:
    """The parts of a block that store several sets of weights."""
    if config.merged_sets == 1:
        return ()
    return tuple(name for name in BLOCK_PARTS if name in config.merged_parts and not has_experts(name, config))


def recomputed(
    block: ConformerBlock, x: Tensor, frames: Frames, individual: IndividualParts, mixer: nn.Module | None
) -> tuple[Tensor, list[Routing]]:
    """`block(x, frames, individual, mixer)`, keeping only x for the backward pass, which computes the rest again.

    Dropout and jitter are drawn again as they were; statistics of batches count once.

    Source: Chen et al. 2016, Training deep nets with sublinear memory cost (arXiv 1604.06174).
    """
    calls = 0

    def call(x: Tensor) -> tuple[Tensor, list[Routing]]:
        nonlocal calls
        calls += 1
        with nullcontext() if calls == 1 else _uncounted(individual.norms):
            return block(x, frames, individual, mixer)

    return checkpoint(call, x, use_reentrant=False)


@contextmanager
def _uncounted(norms: nn.Module) -> Iterator[None]:
    """Let batch normalisations leave their running statistics as they are."""
    batch_norms = [norm for norm in norms.modules() if isinstance(norm, MaskedBatchNorm)]
    for norm in batch_norms:
        norm.counts = False
    try:
        yield
    finally:
        for norm in batch_norms:
            norm.counts = True
