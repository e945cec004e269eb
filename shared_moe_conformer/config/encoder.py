"""Options of the encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from shared_moe_conformer.config.tree import ADDED_LATER, require, require_choice

ExpertsIn = Literal["none", "first", "second", "both"]
BalanceOver = Literal["layer", "group"]
ConvNorm = Literal["batch_norm", "layer_norm"]


@dataclass(frozen=True)
class EncoderConfig:
    """The conformer, its groups of layers that share one block, and its experts.

    Source: Bai et al. 2022, Parameter-Efficient Conformers via Sharing Sparsely-Gated Experts (arXiv 2209.08326);
    the block is that of Gulati et al. 2020 (arXiv 2005.08100).
    """

    encoder_dim: int = 256
    """Channels of a frame inside the encoder (C)."""
    num_attention_heads: int = 4
    """Attention heads; encoder_dim is divided among them."""
    feed_forward_dim: int = 1024
    """Hidden channels of a feed-forward, and of each expert (H)."""
    conv_kernel_size: int = 15
    """Frames that the depthwise convolution sees; odd."""
    subsampling_channels: int = 64
    """Channels of the 2-D convolutions that reduce the frame rate four times."""
    group_sizes: tuple[int, ...] = (12,)
    """Layers of each group; the layers of a group use one block's weights. All ones: nothing is shared."""
    experts_in: ExpertsIn = "second"
    """Which of a block's two feed-forwards are experts."""
    num_experts: int = 8
    """Experts of an expert feed-forward (E)."""
    top_k: int = 1
    """Experts that compute each frame (K)."""
    individual_routers: bool = True
    """Each layer routes with a router of its own; otherwise its group's layers share one."""
    individual_norms: bool = True
    """Each layer normalises with its own scales, biases and statistics; otherwise its group's layers share them."""
    conv_norm: ConvNorm = "batch_norm"
    """Normalisation inside the convolution module."""
    router_jitter: float = 0.0
    """Router inputs are multiplied by uniform noise from 1 +- this, in training (Switch Transformers, appendix C)."""
    low_rank_delta: int = field(default=0, metadata=ADDED_LATER)
    """Rank of what each layer adds to its block's attention and dense feed-forwards (B A x beside W x); 0: nothing."""
    balance_over: BalanceOver = field(default="layer", metadata=ADDED_LATER)
    """What shall use all experts evenly: each layer, or a group's layers together, of which each may prefer some."""
    balancing_bias_rate: float = field(default=0.0, metadata=ADDED_LATER)
    """After each update the bias by which an expert is chosen rises by this if it had too few frames, and falls if too
    many (balance without a loss; 0.001 in Wang et al. 2024); 0: no biases."""
    dropout: float = 0.1
    """Probability that a channel is dropped at the end of each module of a block, in training."""

    @property
    def num_layers(self) -> int:
        """Depth of the encoder: layers, counted once per use of a block."""
        return sum(self.group_sizes)

    def __post_init__(self) -> None:
        require(
            self.num_attention_heads >= 1 and self.encoder_dim % (2 * self.num_attention_heads) == 0,
            f"encoder_dim {self.encoder_dim} cannot be divided into {self.num_attention_heads} heads of even size",
        )
        require(self.feed_forward_dim >= 1, f"feed_forward_dim is {self.feed_forward_dim}: give 1 or more")
        require(self.subsampling_channels >= 1, f"subsampling_channels is {self.subsampling_channels}: give 1 or more")
        require(
            self.conv_kernel_size % 2 == 1 and self.conv_kernel_size > 0,
            f"conv_kernel_size is {self.conv_kernel_size}: give an odd number",
        )
        require(
            len(self.group_sizes) > 0 and all(size >= 1 for size in self.group_sizes),
            f"group_sizes is {self.group_sizes}: give one positive number of layers per group",
        )
        require_choice("experts_in", self.experts_in, ExpertsIn)
        require_choice("conv_norm", self.conv_norm, ConvNorm)
        require_choice("balance_over", self.balance_over, BalanceOver)
        require(
            1 <= self.top_k <= self.num_experts,
            f"top_k is {self.top_k} of num_experts {self.num_experts}: give 1 <= top_k <= num_experts",
        )
        require(0 <= self.router_jitter < 1, f"router_jitter is {self.router_jitter}: give 0 <= router_jitter < 1")
        require(
            0 <= self.low_rank_delta <= self.encoder_dim,
            f"low_rank_delta is {self.low_rank_delta}: give 0 to encoder_dim, {self.encoder_dim}",
        )
        require(self.balancing_bias_rate >= 0, f"balancing_bias_rate is {self.balancing_bias_rate}: give 0 or more")
        require(0 <= self.dropout < 1, f"dropout is {self.dropout}: give 0 <= dropout < 1")
