"""A conformer block whose weights several layers may use, and what each of those layers keeps for itself."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from shared_moe_conformer.config import EncoderConfig
from shared_moe_conformer.model.attention import SelfAttention
from shared_moe_conformer.model.convolution import ConvolutionModule
from shared_moe_conformer.model.dropout import Dropout
from shared_moe_conformer.model.feed_forward import FeedForward
from shared_moe_conformer.model.low_rank import Deltas
from shared_moe_conformer.model.moe import MoeFeedForward
from shared_moe_conformer.model.normalisation import FrameLayerNorm, MaskedBatchNorm
from shared_moe_conformer.model.router import Router, Routing


class Norms(nn.Module):
    """The normalisations of one layer."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        dim = config.encoder_dim
        self.feed_forward1 = nn.LayerNorm(dim)
        self.attention = nn.LayerNorm(dim)
        self.convolution = nn.LayerNorm(dim)
        self.depthwise = MaskedBatchNorm(dim) if config.conv_norm == "batch_norm" else FrameLayerNorm(dim)
        self.feed_forward2 = nn.LayerNorm(dim)
        self.final = nn.LayerNorm(dim)


class Routers(nn.Module):
    """The routers of one layer: one for each of the block's feed-forwards that carries experts."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.feed_forward1 = _router(config) if config.experts_in in ("first", "both") else None
        self.feed_forward2 = _router(config) if config.experts_in in ("second", "both") else None

    def in_order(self) -> list[Router]:
        """The routers that there are, in the order in which a layer calls them."""
        return [router for router in (self.feed_forward1, self.feed_forward2) if router is not None]


class IndividualParts(NamedTuple):
    """What tells the layers of a group apart."""

    norms: Norms
    routers: Routers
    deltas: Deltas | None = None
    """None: the block's linear maps as they are."""


class ConformerBlock(nn.Module):
    """Half feed-forward, self-attention, convolution, half feed-forward; either feed-forward may carry experts.

    It owns weights only; the normalisations and routers are the calling layer's.

    Source: Gulati et al. 2020, Conformer, eq. 1 (arXiv 2005.08100); Bai et al. 2022, abstract (arXiv 2209.08326).
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.feed_forward1 = _feed_forward(config, experts=config.experts_in in ("first", "both"))
        self.attention = SelfAttention(config.encoder_dim, config.num_attention_heads)
        self.convolution = ConvolutionModule(config.encoder_dim, config.conv_kernel_size)
        self.feed_forward2 = _feed_forward(config, experts=config.experts_in in ("second", "both"))
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, padding_mask: Tensor, individual: IndividualParts) -> tuple[Tensor, list[Routing]]:
        """Return the layer's output (N, T, C) and what its routers decided, in their order.

        Args:
          x: frames, (N, T, C).
          padding_mask: True where a frame is padding, (N, T).
          individual: the calling layer's normalisations, routers and deltas.
        """
        norms, routers, deltas = individual
        of = {name: None if deltas is None else deltas.of(name) for name in Deltas.PARTS}
        y, routing1 = _apply(
            self.feed_forward1, norms.feed_forward1(x), padding_mask, routers.feed_forward1, of["feed_forward1"]
        )
        x = x.add(self.dropout(y), alpha=0.5)
        x = x + self.dropout(self.attention(norms.attention(x), padding_mask, of["attention"]))
        x = x + self.dropout(self.convolution(norms.convolution(x), padding_mask, norms.depthwise))
        y, routing2 = _apply(
            self.feed_forward2, norms.feed_forward2(x), padding_mask, routers.feed_forward2, of["feed_forward2"]
        )
        return norms.final(x.add(self.dropout(y), alpha=0.5)), routing1 + routing2


def _router(config: EncoderConfig) -> Router:
    return Router(
        config.encoder_dim,
        config.num_experts,
        jitter=config.router_jitter,
        balancing_bias_rate=config.balancing_bias_rate,
    )


def _feed_forward(config: EncoderConfig, *, experts: bool) -> FeedForward | MoeFeedForward:
    if not experts:
        return FeedForward(config.encoder_dim, config.feed_forward_dim)
    return MoeFeedForward(
        config.encoder_dim, config.feed_forward_dim, num_experts=config.num_experts, top_k=config.top_k
    )


def _apply(
    module: nn.Module, x: Tensor, padding_mask: Tensor, router: Router | None, deltas: nn.ModuleDict | None
) -> tuple[Tensor, list[Routing]]:
    if router is None:
        return module(x, deltas), []
    y, routing = module(x, padding_mask, router)
    return y, [routing]
