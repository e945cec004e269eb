"""The encoder: a front end, then groups of layers, each group using one block's weights at all of its layers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from shared_moe_conformer.config import EncoderConfig
from shared_moe_conformer.model.frames import Frames
from shared_moe_conformer.model.frontend import Conv2dSubsampling, FeatureNorm
from shared_moe_conformer.model.moe import Router, Routing
from shared_moe_conformer.model.norms import as_wide_as
from shared_moe_conformer.model.sharing import BlockGroup, RouterLosses


class EncoderOutput(NamedTuple):
    """The encoder's output for a batch."""

    encoder_out: Tensor
    """(N, T', C)."""
    encoder_out_lens: Tensor
    """Valid frames of each utterance, (N,)."""
    routing: Routing | None
    """Of the valid frames, stacked over the L expert feed-forwards in the order of depth; None without experts."""


class Encoder(nn.Module):
    """Front end and block groups.

    Features are normalised by statistics that training gathers and the weights carry, so that no file of means and
    variances can be lost or forgotten.
    """

    def __init__(self, config: EncoderConfig, *, num_mel_bins: int) -> None:
        super().__init__()
        self.head_dim = config.encoder_dim // config.num_attention_heads
        self.feature_norm = FeatureNorm(num_mel_bins)
        self.subsampling = Conv2dSubsampling(num_mel_bins, config.encoder_dim, channels=config.subsampling_channels)
        self.dropout = nn.Dropout(config.dropout)
        self.groups = nn.ModuleList(BlockGroup(config, size) for size in config.group_sizes)

    def block_groups(self) -> list[BlockGroup]:
        """The groups in the order of depth."""
        return list(self.groups)  # type: ignore[arg-type]

    def routers(self) -> list[Router]:
        """The router of each expert feed-forward, in the order of depth; layers that share one repeat it."""
        return [router for group in self.block_groups() for router in group.routers_in_order()]

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
        frames = Frames(lens, x.size(1), head_dim=self.head_dim)
        decided: list[Routing] = []
        ends: dict[int, Tensor] = {}
        depth = 0
        for group in self.block_groups():
            x, routing = group(x, frames)
            decided += routing
            depth += group.size
            ends[depth] = x
        stacked = Routing(*(torch.stack(parts) for parts in zip(*decided))) if decided else None
        return EncoderOutput(x, lens, stacked), ends

    def router_losses(self, routing: Routing) -> RouterLosses:
        """The losses of all routers in the order of `routers`; each group computes those of its own."""
        parts = zip(*map(self.by_group, routing))
        losses = [group.router_losses(Routing(*part)) for group, part in zip(self.block_groups(), parts)]
        return RouterLosses(*map(torch.cat, zip(*losses)))

    def by_group(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Rows (L, ...) in the order of `routers`, split into those of each group."""
        return rows.split([len(group.routers_in_order()) for group in self.block_groups()])
