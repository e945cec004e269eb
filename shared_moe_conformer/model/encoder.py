"""The encoder: a front end, then groups of layers, each group using one block's weights at all of its layers."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from shared_moe_conformer.config import EncoderConfig
from shared_moe_conformer.model.block import ConformerBlock, IndividualParts, Norms, Routers
from shared_moe_conformer.model.dropout import Dropout
from shared_moe_conformer.model.low_rank import Deltas
from shared_moe_conformer.model.normalisation import FeatureNorm, as_wide_as
from shared_moe_conformer.model.packing import padding_after
from shared_moe_conformer.model.recomputing import recomputed
from shared_moe_conformer.model.router import Router, Routing
from shared_moe_conformer.model.router_losses import RouterLosses, router_losses
from shared_moe_conformer.model.subsampling import Conv2dSubsampling


class EncoderOutput(NamedTuple):
    """What the encoder makes of a batch."""

    encoder_out: Tensor
    """(N, T', C)."""
    encoder_out_lens: Tensor
    """Valid frames of each utterance, (N,)."""
    routing: Routing | None
    """Of the valid frames, stacked over the expert feed-forwards in the order of depth; None without experts."""


class BlockGroup(nn.Module):
    """Layers that use one block's weights; each has normalisations, routers and deltas of its own, if the config
    says so.

    Source: Bai et al. 2022, abstract (arXiv 2209.08326).
    """

    def __init__(self, config: EncoderConfig, size: int) -> None:
        super().__init__()
        self.size = size
        self.recomputes = False
        self.balances_together = config.balance_over == "group"
        self.block = ConformerBlock(config)
        self.norms = nn.ModuleList(Norms(config) for _ in range(size if config.individual_norms else 1))
        self.routers = nn.ModuleList(Routers(config) for _ in range(size if config.individual_routers else 1))
        rank = config.low_rank_delta
        self.deltas = nn.ModuleList(Deltas(self.block, rank) for _ in range(size if rank else 0))

    def individual(self, depth: int) -> IndividualParts:
        """What the group's layer at this depth (0 is its first) adds to the block."""
        deltas = self.deltas[depth] if len(self.deltas) else None
        return IndividualParts(self.norms[depth % len(self.norms)], self.routers[depth % len(self.routers)], deltas)  # type: ignore[arg-type]

    def routers_in_order(self) -> list[Router]:
        """The router of each expert feed-forward, in the order of depth; layers that share one repeat it."""
        return [router for depth in range(self.size) for router in self.individual(depth).routers.in_order()]

    def parameter_layers(self) -> Iterator[tuple[nn.Parameter, int]]:
        """Each parameter, and how many of the group's layers use it; its gradient is a sum of so many."""
        parts = (self.block, 1), (self.norms, len(self.norms)), (self.routers, len(self.routers))
        for part, copies in parts:
            yield from ((parameter, self.size // copies) for parameter in part.parameters())
        yield from ((parameter, 1) for parameter in self.deltas.parameters())

    def forward(self, x: Tensor, padding_mask: Tensor) -> tuple[Tensor, list[Routing]]:
        """Return (N, T, C) after the group's last layer, and what all its routers decided.

        Args:
          x: frames, (N, T, C).
          padding_mask: True where a frame is padding, (N, T).
        """
        decided: list[Routing] = []
        keeps_all = not (self.recomputes and self.training and torch.is_grad_enabled())
        layer = self.block if keeps_all else functools.partial(recomputed, self.block)
        for depth in range(self.size):
            x, routing = layer(x, padding_mask, self.individual(depth))
            decided += routing
        return x, decided

    def balanced(self, rows: Tensor) -> Tensor:
        """What shall be even in each row: rows (L, E) of L routers, or their means over the layers, if the config
        balances those together."""
        if not self.balances_together:
            return rows
        return rows.unflatten(0, (self.size, -1)).mean(dim=0).repeat(self.size, 1)


class Encoder(nn.Module):
    """Front end and block groups.

    Features are normalised by statistics that training gathers and the weights carry, so that no file of means and
    variances can be lost or forgotten.
    """

    def __init__(self, config: EncoderConfig, *, num_mel_bins: int) -> None:
        super().__init__()
        self.feature_norm = FeatureNorm(num_mel_bins)
        self.subsampling = Conv2dSubsampling(num_mel_bins, config.encoder_dim, channels=config.subsampling_channels)
        self.dropout = Dropout(config.dropout)
        self.groups = nn.ModuleList(BlockGroup(config, size) for size in config.group_sizes)

    def routers(self) -> list[Router]:
        """The router of each expert feed-forward, in the order of depth; layers that share one repeat it."""
        groups: list[BlockGroup] = list(self.groups)  # type: ignore[arg-type]
        return [router for group in groups for router in group.routers_in_order()]

    def balanced(self, rows: Tensor) -> Tensor:
        """What shall be even in each row: rows (L, E) in the order of `routers`, or means over a group's layers."""
        groups: list[BlockGroup] = list(self.groups)  # type: ignore[assignment]
        parts = rows.split([len(group.routers_in_order()) for group in groups])
        return torch.cat([group.balanced(part) for group, part in zip(groups, parts, strict=True)])

    def router_losses(self, routing: Routing) -> RouterLosses:
        """The losses of all routers, rows in the order of `routers`."""
        return router_losses(routing, balanced=self.balanced)

    def balance_experts(self, frames_per_expert: Tensor) -> Tensor:
        """Move the routers' balancing biases, if they have any, after an update; return what shall be even.

        Args:
          frames_per_expert: frames that each expert computed, (L, E), rows in the order of `routers`.
        """
        loads: dict[Router, Tensor] = {}
        frames = self.balanced(frames_per_expert)
        for router, load in zip(self.routers(), frames, strict=True):
            loads[router] = loads.get(router, 0) + load  # type: ignore[operator]
        for router, load in loads.items():
            router.balance(load)
        return frames

    def forward(self, x: Tensor, x_lens: Tensor) -> EncoderOutput:
        """Return encoder frames of features.

        Args:
          x: features, (N, T, F).
          x_lens: valid frames of each utterance, (N,).
        """
        return self.forward_with_ends(x, x_lens)[0]

    def forward_with_ends(self, x: Tensor, x_lens: Tensor) -> tuple[EncoderOutput, dict[int, Tensor]]:
        """Return encoder frames of features, and the frames (N, T', C) after each group's last layer, by its depth.

        Args:
          x: features, (N, T, F).
          x_lens: valid frames of each utterance, (N,).
        """
        features = self.feature_norm(x)
        x, lens = self.subsampling(features, x_lens)
        x = self.dropout(as_wide_as(features, x))  # layers add to it, in float32 under autocast too
        padding_mask = padding_after(lens, x.size(1))
        decided: list[Routing] = []
        ends: dict[int, Tensor] = {}
        depth = 0
        for group in self.groups:
            x, routing = group(x, padding_mask)
            decided += routing
            depth += group.size  # type: ignore[assignment, operator]
            ends[depth] = x
        stacked = Routing(*(torch.stack(parts) for parts in zip(*decided, strict=True))) if decided else None
        return EncoderOutput(x, lens, stacked), ends
