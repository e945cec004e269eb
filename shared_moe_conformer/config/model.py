"""Options of the model: its encoder, decoder and joiner."""

from __future__ import annotations

import dataclasses
import functools
import string
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from shared_moe_conformer.config.tree import ADDED_LATER, require, require_choices, require_least, require_positive

ExpertsIn = Literal["none", "first", "second", "both"]
BalanceOver = Literal["layer", "group"]
ConvNorm = Literal["batch_norm", "layer_norm"]
MergeGates = Literal["table", "network"]
RouterGates = Literal["softmax", "sigmoid"]
TransducerBackend = Literal["auto", "k2", "torch"]

LETTERS = string.ascii_uppercase
"""Names of blocks in patterns."""
BLOCK_PARTS = ("feed_forward1", "attention", "convolution", "feed_forward2")
"""The parts of a block, in the order in which a layer calls them."""
MIXING_PARTS = ("attention", "convolution")
"""The parts that see other frames."""


class Chunking(NamedTuple):
    """The frames that a frame may see when it must be recognised before its recording has ended."""

    chunk_size: int
    """Frames of a chunk, which see each other and earlier frames."""
    left_context: int | None = None
    """Frames before its chunk that a frame may attend to; None: all of them."""


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
    loudness_norm: bool = field(default=False, metadata=ADDED_LATER)
    """Each utterance is brought to the same loudness first, so that a recording's gain changes nothing; not for
    streaming, where the loudness of the whole is not known."""
    group_sizes: tuple[int, ...] = (12,)
    """Layers of each group; the layers of a group use one block's weights. All ones: nothing is shared."""
    pattern: str = field(default="", metadata=ADDED_LATER)
    """Block that each layer uses, one letter per layer, e.g. ABABAB or ABBBBC; group_sizes is then only the depth.
    Empty: each group has a block."""
    mixing_pattern: str = field(default="", metadata=ADDED_LATER)
    """The same for attention and convolution, if they follow another pattern than feed-forwards, e.g. ABCDEF."""
    expert_blocks: str = field(default="", metadata=ADDED_LATER)
    """Letters of the blocks that have experts; empty: all."""
    block_feed_forward_dims: tuple[int, ...] = field(default=(), metadata=ADDED_LATER)
    """feed_forward_dim of each block, in the order of their first layers; empty: all have feed_forward_dim."""
    merged_sets: int = field(default=1, metadata=ADDED_LATER)
    """Sets of weights that each block stores (E); each layer computes with their mean, weighted by its own gates."""
    merged_parts: tuple[str, ...] = field(default=BLOCK_PARTS, metadata=ADDED_LATER)
    """Parts of a block that have several sets, of feed_forward1, attention, convolution and feed_forward2; parts with
    experts never do."""
    merge_gates: MergeGates = field(default="table", metadata=ADDED_LATER)
    """Source of a layer's gates: a table, or a small network of the layer's depth."""
    experts_in: ExpertsIn = "second"
    """Which of a block's two feed-forwards have experts."""
    num_experts: int = 8
    """Experts of an expert feed-forward (E)."""
    top_k: int = 1
    """Experts that compute each frame (K)."""
    expert_dim: int = field(default=0, metadata=ADDED_LATER)
    """Hidden channels of each expert, e.g. 64 for many narrow ones; 0: feed_forward_dim."""
    common_expert_dim: int = field(default=0, metadata=ADDED_LATER)
    """Hidden channels of an expert that computes every frame, beside the routed ones; 0: none."""
    router_gates: RouterGates = field(default="softmax", metadata=ADDED_LATER)
    """Weights of experts' outputs: probabilities among all experts, or of each expert by itself."""
    gate_scale: float = field(default=1.0, metadata=ADDED_LATER)
    """Gates are multiplied by this; num_experts makes one expert of a softmax begin about as loud as a dense
    feed-forward."""
    expert_norm: bool = field(default=False, metadata=ADDED_LATER)
    """Outputs of routed experts are normalised, before the gates."""
    individual_routers: bool = True
    """Each layer has its own router; otherwise the layers of a group share one."""
    individual_norms: bool = True
    """Each layer normalises with its own scales, biases and statistics; otherwise its group's layers share them."""
    conv_norm: ConvNorm = "batch_norm"
    """Normalisation inside the convolution module."""
    router_jitter: float = 0.0
    """Router inputs are multiplied by uniform noise from 1 +- this, in training (Switch Transformers, appendix C)."""
    low_rank_delta: int = field(default=0, metadata=ADDED_LATER)
    """Rank of the matrices B A that each layer adds to its block's attention and dense feed-forwards; 0: none."""
    balance_over: BalanceOver = field(default="layer", metadata=ADDED_LATER)
    """Frames over which experts are used evenly: those of each layer, or of a group's layers together, so that one
    layer may prefer some experts."""
    balancing_bias_rate: float = field(default=0.0, metadata=ADDED_LATER)
    """After each update, an expert's bias in the choice rises by this if it had too few frames, and falls if it had too
    many (balance without a loss; 0.001 in Wang et al. 2024); 0: no biases."""
    chunk_sizes: tuple[int, ...] = field(default=(), metadata=ADDED_LATER)
    """For streaming: frames of a chunk, of 40 ms each; training draws one of these for each batch, 0: the whole
    utterance, e.g. 0,4,8,16,32. Empty: always the whole."""
    left_contexts: tuple[int, ...] = field(default=(64,), metadata=ADDED_LATER)
    """For streaming: frames before its chunk that a frame attends to; training draws one for each batch, 0: all."""
    depths: tuple[int, ...] = field(default=(), metadata=ADDED_LATER)
    """For one model of several sizes: layers that compute a batch; training draws one of these numbers for each batch,
    e.g. 3,4,5,6,6. Empty: always all."""
    dropout: float = 0.1
    """Probability that a channel is dropped at the end of each module of a block, in training."""

    @property
    def num_layers(self) -> int:
        """Depth of the encoder: layers, one for each use of a block."""
        return sum(self.group_sizes)

    @functools.cached_property
    def layer_blocks(self) -> tuple[int, ...]:
        """The block of each layer; blocks are numbered in the order of their first layers."""
        if self.pattern:
            return _numbered(self.pattern)
        return tuple(number for number, size in enumerate(self.group_sizes) for _ in range(size))

    @functools.cached_property
    def layer_mixers(self) -> tuple[int, ...]:
        """The same for attention and convolution."""
        return _numbered(self.mixing_pattern) if self.mixing_pattern else self.layer_blocks

    @functools.cached_property
    def block_sizes(self) -> tuple[int, ...]:
        """The number of layers that use each block."""
        if not self.pattern:  # without a list of all layers, which may be a billion in a hostile file
            return self.group_sizes
        return tuple(self.pattern.count(block) for block in dict.fromkeys(self.pattern))

    @functools.cached_property
    def expert_layers(self) -> tuple[int, ...]:
        """The layers that have experts, counted from 0."""
        if self.experts_in == "none":
            return ()
        return tuple(layer for layer, block in enumerate(self.layer_blocks) if self._carries_experts(block))

    def of_block(self, block: int) -> EncoderConfig:
        """The config of only one block's layers."""
        return dataclasses.replace(
            self,
            group_sizes=(self.block_sizes[block],),
            pattern="",
            mixing_pattern="",
            expert_blocks="",
            experts_in=self.experts_in if self._carries_experts(block) else "none",
            block_feed_forward_dims=(),
            depths=(),
            feed_forward_dim=(self.block_feed_forward_dims or (self.feed_forward_dim,) * (block + 1))[block],
        )

    def unshared(self) -> EncoderConfig:
        """The same encoder with separate weights for each layer.

        Raises:
          ValueError: only some blocks have experts, and there are more layers than letters to say so.
        """
        num_named = self.num_layers if self.expert_blocks else 0
        require(num_named <= len(LETTERS), f"{num_named} layers cannot be unshared with expert_blocks: leave this out")
        dims = tuple(self.of_block(block).feed_forward_dim for block in self.layer_blocks)
        letters = "".join(LETTERS[layer] for layer in self.expert_layers) if self.expert_blocks else ""
        return dataclasses.replace(
            self,
            group_sizes=(1,) * self.num_layers,
            pattern="",
            mixing_pattern="",
            expert_blocks=letters,
            block_feed_forward_dims=dims if self.block_feed_forward_dims else (),
            merged_sets=1,
        )

    def _carries_experts(self, block: int) -> bool:
        return not self.expert_blocks or LETTERS[block] in self.expert_blocks

    def _refuse_bad_pattern(self) -> None:
        for name, pattern in (("pattern", self.pattern), ("mixing_pattern", self.mixing_pattern)):
            first_uses = "".join(dict.fromkeys(pattern))
            require(
                first_uses == LETTERS[: len(first_uses)],
                f"{name} is {pattern}: give capital letters, A first, then B, ... (ABAB, not BABA)",
            )
            require(
                not pattern or len(pattern) == self.num_layers,
                f"{name} {pattern} has {len(pattern)} layers, group_sizes {self.num_layers}: give one depth",
            )
        require(
            not self.pattern or len(self.group_sizes) == 1,
            f"pattern {self.pattern} and group_sizes {self.group_sizes} both say which layers share: give one number of"
            " layers as group_sizes",
        )
        num_blocks = len(self.block_sizes)
        require(
            len(self.block_feed_forward_dims) in (0, num_blocks) and all(d >= 1 for d in self.block_feed_forward_dims),
            f"block_feed_forward_dims is {self.block_feed_forward_dims}: give one positive number for each of"
            f" {num_blocks} blocks",
        )
        require(
            num_blocks <= len(LETTERS) or not self.expert_blocks,
            f"expert_blocks names at most {len(LETTERS)} blocks, and there are {num_blocks}: leave it empty",
        )
        require(
            set(self.expert_blocks) <= set(LETTERS[:num_blocks]),
            f"expert_blocks is {self.expert_blocks}: give letters of A to {LETTERS[:num_blocks][-1]}",
        )

    def _refuse_bad_merge(self) -> None:
        require(
            set(self.merged_parts) <= set(BLOCK_PARTS),
            f"merged_parts is {','.join(self.merged_parts)}: give parts of {','.join(BLOCK_PARTS)}",
        )
        require(
            self.merged_sets == 1 or self.low_rank_delta == 0,
            "merged_sets and low_rank_delta both make layers differ: give one of them",
        )

    def __post_init__(self) -> None:
        require(
            self.num_attention_heads >= 1 and self.encoder_dim % (2 * self.num_attention_heads) == 0,
            f"encoder_dim {self.encoder_dim} cannot be divided into {self.num_attention_heads} heads of even size",
        )
        require_least(self, 1, "feed_forward_dim", "subsampling_channels", "merged_sets")
        require_least(self, 0, "balancing_bias_rate", "expert_dim", "common_expert_dim")
        require_positive(self, "gate_scale")
        require_choices(self)
        require(
            self.conv_kernel_size % 2 == 1 and self.conv_kernel_size > 0,
            f"conv_kernel_size is {self.conv_kernel_size}: give an odd number",
        )
        require(
            len(self.group_sizes) > 0 and all(size >= 1 for size in self.group_sizes),
            f"group_sizes is {self.group_sizes}: give one positive number of layers per group",
        )
        self._refuse_bad_pattern()
        require(
            1 <= self.top_k <= self.num_experts,
            f"top_k is {self.top_k} of num_experts {self.num_experts}: give 1 <= top_k <= num_experts",
        )
        require(0 <= self.router_jitter < 1, f"router_jitter is {self.router_jitter}: give 0 <= router_jitter < 1")
        require(
            0 <= self.low_rank_delta <= self.encoder_dim,
            f"low_rank_delta is {self.low_rank_delta}: give 0 to encoder_dim, {self.encoder_dim}",
        )
        self._refuse_bad_merge()
        for name in ("chunk_sizes", "left_contexts"):
            require(all(n >= 0 for n in getattr(self, name)), f"{name} is {getattr(self, name)}: give 0 or more each")
        require(
            not self.chunk_sizes or self.left_contexts != (), "chunk_sizes without left_contexts: give some, 0: all"
        )
        require(
            not (self.loudness_norm and any(self.chunk_sizes)),
            f"loudness_norm needs whole utterances, and chunk_sizes is {self.chunk_sizes}: leave one of them out",
        )
        require(
            not self.depths or (min(self.depths) >= 1 and max(self.depths) == self.num_layers),
            f"depths is {self.depths}: give numbers of layers from 1 to {self.num_layers}, the whole depth among them",
        )
        require(
            not self.depths or self.experts_in == "none",
            "depths with experts: their balance needs every layer, give --experts-in none",
        )
        require(0 <= self.dropout < 1, f"dropout is {self.dropout}: give 0 <= dropout < 1")


def _numbered(pattern: str) -> tuple[int, ...]:
    """The letters' numbers: A is 0."""
    return tuple(LETTERS.index(letter) for letter in pattern)


@dataclass(frozen=True)
class ModelConfig:
    """Encoder, stateless decoder, joiner and CTC head."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The encoder."""
    vocab_size: int = 500
    """Output units, blank included (V); must be the tokenizer's."""
    decoder_dim: int = 256
    """Channels of the decoder, the prediction network."""
    context_size: int = 2
    """Previous tokens that the decoder sees."""
    joiner_dim: int = 256
    """Channels in which encoder and decoder frames are added."""
    transducer_backend: TransducerBackend = "auto"
    """Engine of the transducer loss; auto: k2 on a GPU where it is installed, otherwise torch (faster on a CPU)."""

    def __post_init__(self) -> None:
        require(self.vocab_size >= 2, f"vocab_size is {self.vocab_size}: give 2 or more (unit 0 is blank)")
        require_least(self, 1, "decoder_dim", "context_size", "joiner_dim")
        require_choices(self)
