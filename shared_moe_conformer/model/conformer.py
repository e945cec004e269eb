"""The conformer block: half feed-forward, self-attention, convolution, half feed-forward.

A block owns weights only. The layer that calls it passes what is its own: normalisations, routers, deltas.

Source: Gulati et al. 2020, Conformer (arXiv 2005.08100).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_moe_conformer.config import BLOCK_PARTS, MIXING_PARTS, EncoderConfig
from shared_moe_conformer.kernels.attention import attend
from shared_moe_conformer.kernels.linear import Linear
from shared_moe_conformer.model.frames import Frames
from shared_moe_conformer.model.merging import Merged
from shared_moe_conformer.model.moe import MoeFeedForward, Router, Routing
from shared_moe_conformer.model.norms import FrameLayerNorm, MaskedBatchNorm

Adapters = Mapping[str, nn.Module]
"""Modules whose outputs the calling layer adds to those of linear maps, by the maps' names."""
NO_ADAPTERS: Adapters = MappingProxyType({})


def adapted(linear: nn.Linear, x: Tensor, adapter: nn.Module | None) -> Tensor:
    """`linear(x)`, and what the calling layer adds to it."""
    return linear(x) if adapter is None else linear(x) + adapter(x)


class FeedForward(nn.Module):
    """Linear map to `feed_forward_dim` channels, SiLU, linear map back.

    Source: Gulati et al. 2020, figure 4.
    """

    def __init__(self, encoder_dim: int, feed_forward_dim: int) -> None:
        super().__init__()
        self.hidden = Linear(encoder_dim, feed_forward_dim)
        self.output = Linear(feed_forward_dim, encoder_dim)

    def forward(self, x: Tensor, adapters: Adapters = NO_ADAPTERS) -> Tensor:
        """Return (..., C) for frames (..., C)."""
        hidden = F.silu(adapted(self.hidden, x, adapters.get("hidden")))
        return adapted(self.output, hidden, adapters.get("output"))


class SelfAttention(nn.Module):
    """Every valid frame attends to the frames that `Frames` lets it; positions rotate queries and keys.

    Source: Vaswani et al. 2017, eq. 1, in `kernels.attention`; Su et al. 2021, RoFormer, eq. 14-16 and 34 (arXiv
    2104.09864).
    """

    def __init__(self, encoder_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key_value = Linear(encoder_dim, 3 * encoder_dim)
        self.output = Linear(encoder_dim, encoder_dim)

    def forward(self, x: Tensor, frames: Frames, adapters: Adapters = NO_ADAPTERS) -> Tensor:
        """Return (N, T, C) for frames (N, T, C); the values at padded frames are finite and have no meaning."""
        n, t, c = x.shape
        heads = adapted(self.query_key_value, x, adapters.get("query_key_value"))
        heads = heads.view(n, t, 3, self.num_heads, c // self.num_heads)
        query, keys_values = heads.split([1, 2], dim=2)
        key, value = frames.after_memory(keys_values).unbind(2)
        cos, sin = frames.rotation
        query, key = rotate(query.flatten(2, 3), cos[-t:], sin[-t:]), rotate(key, cos, sin)
        out = attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), frames.attended)
        return adapted(self.output, out.transpose(1, 2).reshape(n, t, c), adapters.get("output"))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries or keys (N, T, H, D), each pair of channels (i, i + D/2) turned by the frame's angles (T, D/2)."""
    cos, sin = (part.to(x.dtype)[:, None] for part in (cos, sin))
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class ConvolutionModule(nn.Module):
    """Pointwise convolution and GLU, depthwise convolution, normalisation and SiLU, pointwise convolution.

    The depthwise convolution runs as a 2-D one over channels-last memory, which (N, T, C) already is.

    Source: Gulati et al. 2020, figure 2.
    """

    def __init__(self, encoder_dim: int, kernel_size: int) -> None:
        super().__init__()
        self.reach = kernel_size // 2
        self.pointwise1 = Linear(encoder_dim, 2 * encoder_dim)
        self.depthwise = nn.Conv2d(encoder_dim, encoder_dim, (kernel_size, 1), groups=encoder_dim)
        self.pointwise2 = Linear(encoder_dim, encoder_dim)

    def forward(self, x: Tensor, frames: Frames, norm: nn.Module, depth: int = 0) -> Tensor:
        """Return (N, T, C) for frames (N, T, C); padding is zero to the depthwise convolution.

        In chunks it sees half a kernel before a chunk and, of what comes after, nothing: zeros. So the same weights
        serve every chunk size, and look ahead as far as the chunk lets them.

        `norm(x, frames, depth)` is the calling layer's normalisation.
        """
        x = F.glu(self.pointwise1(x), dim=-1).masked_fill(frames.padding_mask.unsqueeze(-1), 0.0)
        if frames.chunk_size is None:
            x = self.convolve(x, self.reach)
        else:
            x = frames.joined(self.convolve(F.pad(frames.chunks(x, self.reach), (0, 0, 0, self.reach)), 0))
        return self.pointwise2(F.silu(norm(x, frames, depth)))

    def convolve(self, x: Tensor, padding: int) -> Tensor:
        """The depthwise convolution of frames (N, T, C), with zero frames before and after them."""
        x = x.transpose(1, 2).unsqueeze(-1)
        x = F.conv2d(x, self.depthwise.weight, self.depthwise.bias, padding=(padding, 0), groups=x.size(1))
        return x.squeeze(-1).transpose(1, 2)


class Norms(nn.Module):
    """The normalisations of a layer, or of several that share them."""

    def __init__(self, config: EncoderConfig, *, num_layers: int = 1) -> None:
        super().__init__()
        dim = config.encoder_dim
        self.feed_forward1 = nn.LayerNorm(dim)
        self.attention = nn.LayerNorm(dim)
        self.convolution = nn.LayerNorm(dim)
        is_batch_norm = config.conv_norm == "batch_norm"
        self.depthwise = MaskedBatchNorm(dim, num_layers=num_layers) if is_batch_norm else FrameLayerNorm(dim)
        self.feed_forward2 = nn.LayerNorm(dim)
        self.final = nn.LayerNorm(dim)


class Routers(nn.Module):
    """The routers of a layer: one for each of the block's feed-forwards that carries experts."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.feed_forward1 = _router(config) if has_experts("feed_forward1", config) else None
        self.feed_forward2 = _router(config) if has_experts("feed_forward2", config) else None


class Mixer(nn.Module):
    """Attention and convolution, of layers whose feed-forwards may belong to several blocks."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.attention = _part("attention", config)
        self.convolution = _part("convolution", config)


class IndividualParts(NamedTuple):
    """The parts that a layer keeps for itself."""

    norms: Norms
    routers: Routers
    adapters: Mapping[str, Adapters] = {}
    """Adapters of each part of the block, by its name; a part without any has its linear maps as they are."""
    gates: Mapping[str, Tensor] = {}
    """Shares of the E sets of weights, (E,), of each part that stores several, by its name."""
    depth: int = 0
    """The layer's number among those that share the norms."""
    merged: Mapping[str, nn.Module] = {}
    """Parts whose sets have been merged already."""

    def version(self, name: str, part: Any) -> Callable[..., Tensor]:
        """The block's part of a name as this layer computes it."""
        if name in self.merged:
            return self.merged[name]
        if name in self.gates:
            return functools.partial(part, self.gates[name])
        return functools.partial(part, adapters=self.adapters[name]) if self.adapters.get(name) else part


class ConformerBlock(nn.Module):
    """Weights of a conformer layer; either feed-forward may carry experts.

    Source: Gulati et al. 2020, eq. 1; Bai et al. 2022, abstract (arXiv 2209.08326).
    """

    def __init__(self, config: EncoderConfig, *, has_mixer: bool = True) -> None:
        super().__init__()
        for name in BLOCK_PARTS:
            if has_mixer or name not in MIXING_PARTS:
                self.add_module(name, _part(name, config))
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, frames: Frames, individual: IndividualParts, mixer: nn.Module | None = None
    ) -> tuple[Tensor, list[Routing]]:
        """Return the layer's output (N, T, C) and its routers' decisions, in their order.

        Args:
          x: frames, (N, T, C).
          frames: their validity, their positions and the frames that each may see.
          individual: the calling layer's own parts.
          mixer: the attention and convolution to use; None: the block's own.
        """
        norms, dropout, owner = individual.norms, self.dropout, self if mixer is None else mixer
        y, routing1 = self._feed_forward("feed_forward1", x, frames, individual)
        x = x + 0.5 * dropout(y)
        attention = individual.version("attention", owner.attention)
        x = x + dropout(attention(norms.attention(x), frames))
        convolution = individual.version("convolution", owner.convolution)
        x = x + dropout(convolution(norms.convolution(x), frames, norms.depthwise, individual.depth))
        y, routing2 = self._feed_forward("feed_forward2", x, frames, individual)
        return norms.final(x + 0.5 * dropout(y)), routing1 + routing2

    def _feed_forward(
        self, name: str, x: Tensor, frames: Frames, individual: IndividualParts
    ) -> tuple[Tensor, list[Routing]]:
        """One of the two feed-forwards, dense or of experts, of normalised frames."""
        module, norm, router = (getattr(part, name) for part in (self, individual.norms, individual.routers))
        if router is None:
            return individual.version(name, module)(norm(x)), []
        y, routing = module(norm(x), frames, router)
        return y, [routing]


def _router(config: EncoderConfig) -> Router:
    return Router(
        config.encoder_dim,
        config.num_experts,
        jitter=config.router_jitter,
        balancing_bias_rate=config.balancing_bias_rate,
    )


def has_experts(name: str, config: EncoderConfig) -> bool:
    """Whether a block's part of this name carries experts."""
    places = {"none": (), "first": ("feed_forward1",), "second": ("feed_forward2",)}
    return name in places.get(config.experts_in, ("feed_forward1", "feed_forward2"))


def merged_parts(config: EncoderConfig) -> tuple[str, ...]:
    """The parts of a block that store several sets of weights."""
    if config.merged_sets == 1:
        return ()
    return tuple(name for name in BLOCK_PARTS if name in config.merged_parts and not has_experts(name, config))


def _part(name: str, config: EncoderConfig) -> nn.Module:
    """A block's part: with experts, or one set of weights, or several."""
    if has_experts(name, config):
        common_dim = config.common_expert_dim
        return MoeFeedForward(config, FeedForward(config.encoder_dim, common_dim) if common_dim else None)
    if name in merged_parts(config):
        return Merged(_plain_part(name, config) for _ in range(config.merged_sets))
    return _plain_part(name, config)


def _plain_part(name: str, config: EncoderConfig) -> nn.Module:
    if name == "attention":
        return SelfAttention(config.encoder_dim, config.num_attention_heads)
    if name == "convolution":
        return ConvolutionModule(config.encoder_dim, config.conv_kernel_size)
    return FeedForward(config.encoder_dim, config.feed_forward_dim)
