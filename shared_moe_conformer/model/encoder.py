"""The encoder: a front end, then layers, each with the block that the sharing pattern gives it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from shared_moe_conformer.config import BLOCK_PARTS, MIXING_PARTS, Chunking, EncoderConfig, require
from shared_moe_conformer.model.conformer import IndividualParts, Mixer
from shared_moe_conformer.model.frames import ChunkFrames, Frames, LayerMemory
from shared_moe_conformer.model.frontend import Conv2dSubsampling, FeatureNorm
from shared_moe_conformer.model.moe import Router, Routing
from shared_moe_conformer.model.norms import as_wide_as
from shared_moe_conformer.model.sharing import BlockGroup, RouterLosses


class Layer(NamedTuple):
    """One layer: its group's block, and its place in the group."""

    group: BlockGroup
    number: int
    """Number of the layer in its group; 0 is the first."""
    mixer: Mixer | None
    """Its attention and convolution; None: its block's."""

    def forward(self, x: Tensor, frames: Frames) -> tuple[Tensor, list[Routing]]:
        """Return the layer's output (N, T, C) for frames (N, T, C), and its routers' decisions."""
        return self.group.block(x, frames, self.individual(), self.mixer)

    def individual(self) -> IndividualParts:
        """The layer's own parts."""
        return self.group.individual(self.number)

    def part(self, name: str) -> nn.Module:
        """The stored part of the block with this name."""
        owner = self.mixer if self.mixer is not None and name in MIXING_PARTS else self.group.block
        return getattr(owner, name)

    def modules(self) -> list[nn.Module]:
        """All modules that the layer uses, its own or shared, except gates of merged weights."""
        own = self.individual()[:2] + tuple(self.group.deltas[self.number : self.number + 1])
        return [*(self.part(name) for name in BLOCK_PARTS), *own]


class EncoderOutput(NamedTuple):
    """The encoder's output for a batch."""

    encoder_out: Tensor
    """(N, T', C)."""
    encoder_out_lens: Tensor
    """Valid frames of each utterance, (N,)."""
    routing: Routing | None
    """Decisions on the valid frames, stacked over the L expert feed-forwards by depth; None without experts."""


class EncoderState(NamedTuple):
    """The encoder's memory of N streams, which the model itself does not keep."""

    keys_values: Tensor
    """`LayerMemory.keys_values` of each layer, (N, L, left_context, 2, H, D)."""
    convolved: Tensor
    """`LayerMemory.convolved` of each layer, (N, L, kernel_size // 2, C)."""
    num_frames: Tensor
    """Encoder frames so far, (N,), int64."""


class Encoder(nn.Module):
    """Front end and block groups.

    Training gathers the statistics that normalise features. They belong to the weights, so no file of means and
    variances can be lost or forgotten.
    """

    def __init__(self, config: EncoderConfig, *, num_mel_bins: int) -> None:
        super().__init__()
        self.head_dim = config.encoder_dim // config.num_attention_heads
        self.feature_norm = FeatureNorm(num_mel_bins, by_loudness=config.loudness_norm)
        self.subsampling = Conv2dSubsampling(num_mel_bins, config.encoder_dim, channels=config.subsampling_channels)
        self.dropout = nn.Dropout(config.dropout)
        own_mixers = config.mixing_pattern != ""
        self.groups = nn.ModuleList(
            BlockGroup(config.of_block(block), size, has_mixer=not own_mixers)
            for block, size in enumerate(config.block_sizes)
        )
        num_mixers = max(config.layer_mixers) + 1 if own_mixers else 0
        self.mixers = nn.ModuleList(Mixer(config) for _ in range(num_mixers))
        self.layer_blocks, self.layer_mixers = config.layer_blocks, config.layer_mixers
        self.chunk_sizes, self.left_contexts = config.chunk_sizes, config.left_contexts
        self.num_layers, self.depths = config.num_layers, config.depths  # use_layers changes num_layers
        self.needs_the_whole = config.loudness_norm
        self.half_kernel = config.conv_kernel_size // 2
        owners = [layer.group for layer in self.layers() for _ in layer.group.routers_of(layer.number)]
        self.rows_of_groups = [[row for row, owner in enumerate(owners) if owner is group] for group in self.groups]
        """Indices of each group's routers in `routers`, by the number of the group."""

    def block_groups(self) -> list[BlockGroup]:
        """The groups in the order of depth."""
        return list(self.groups)  # type: ignore[arg-type]

    def layers(self) -> Iterator[Layer]:
        """The layers in the order of depth."""
        numbers = [itertools.count() for _ in self.groups]
        for block, mixer in zip(self.layer_blocks, self.layer_mixers):
            yield Layer(
                self.groups[block],  # type: ignore[arg-type]
                next(numbers[block]),
                self.mixers[mixer] if len(self.mixers) else None,  # type: ignore[arg-type]
            )

    def use_layers(self, num_layers: int) -> None:
        """Compute this many layers outside training from now on; 0: all.

        Raises:
          ValueError: the encoder has fewer layers, or was trained only at its whole depth.
        """
        most = len(self.layer_blocks)
        is_elastic = num_layers == 0 or self.depths != ()
        require(is_elastic, "--num-layers: the model was trained only at its whole depth (--depths): leave it out")
        require(0 <= num_layers <= most, f"--num-layers {num_layers}: give 1 to {most}, all layers")
        self.num_layers = num_layers or most

    @torch.no_grad()
    def merge_once(self) -> None:
        """Compute with weights that are merged here until training begins, or weights are loaded or moved."""
        for layer in self.layers():
            gates = layer.individual().gates
            layer.group.merged[layer.number] = {name: layer.part(name).part(own) for name, own in gates.items()}  # type: ignore[operator]

    def chosen_layers(self) -> dict[int, Layer]:
        """The layers that compute, by depth, evenly spaced from first to last; training draws their number.

        Source: Bulat et al. 2026, One block, multiple depths (arXiv 2610.12448), who drop depths and renumber the rest.
        """
        layers, number, last = list(self.layers()), self.num_layers, len(self.layer_blocks) - 1
        if self.training and self.depths:
            number = self.depths[int(torch.randint(len(self.depths), ()))]
        places = [round(n * last / max(number - 1, 1)) for n in range(number)]
        return {place + 1: layers[place] for place in places}

    def routers(self) -> list[Router]:
        """The router of each expert feed-forward, in the order of depth; layers that share one repeat it."""
        return [router for layer in self.layers() for router in layer.group.routers_of(layer.number)]

    def forward(self, x: Tensor, x_lens: Tensor, chunking: Chunking | None = None) -> EncoderOutput:
        """Return encoder frames of features.

        Args:
          x: features, (N, T, F).
          x_lens: valid frames of each utterance, (N,).
          chunking: the frames that each may see, as in `step`; None: all, or in training a draw of the config's
            `chunk_sizes` and `left_contexts`.
        """
        return self.forward_with_ends(x, x_lens, chunking)[0]

    def forward_with_ends(
        self, x: Tensor, x_lens: Tensor, chunking: Chunking | None = None
    ) -> tuple[EncoderOutput, dict[int, Tensor]]:
        """Return encoder frames of features, and the frames (N, T', C) after each group's last layer, by its depth.

        Args: those of `forward`.
        """
        self.refuse_chunks(chunking)
        return self.run_layers(*self.front_end(x, x_lens), chunking)

    def run_layers(
        self, x: Tensor, lens: Tensor, chunking: Chunking | None = None
    ) -> tuple[EncoderOutput, dict[int, Tensor]]:
        """Return what `forward_with_ends` does, given the front end's frames (N, T', C) and their lengths (N,)."""
        if self.training and self.chunk_sizes:
            chunking = self.drawn_chunking()
        frames = Frames(lens, x.size(1), head_dim=self.head_dim, chunking=chunking)
        decided: list[Routing] = []
        ends: dict[int, Tensor] = {}
        layers = self.chosen_layers()
        following = [layer.group for layer in layers.values()][1:]
        for (depth, layer), next_group in itertools.zip_longest(layers.items(), following):
            x, routing = layer.forward(x, frames)
            decided += routing
            if next_group is not layer.group:
                ends[depth] = x
        return EncoderOutput(x, lens, _stacked(decided)), ends

    def front_end(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        """The first layer's frames (N, T', C) of features (N, T, F), and the valid ones of each utterance, (N,)."""
        features = self.feature_norm(x, x_lens)
        x, lens = self.subsampling(features, x_lens)
        return self.dropout(as_wide_as(features, x)), lens  # layers add to it, in float32 even under autocast

    def refuse_chunks(self, chunking: Chunking | None) -> None:
        """Raise `ValueError` for chunks if the encoder needs whole utterances."""
        require(
            chunking is None or not self.needs_the_whole,
            "the model brings whole utterances to the same loudness, so it cannot recognise chunks: train one with"
            " --loudness-norm false, such as a recipe's config streaming",
        )

    def drawn_chunking(self) -> Chunking | None:
        """One of the config's chunk sizes and one of its left contexts, at random.

        Source: Zhang et al. 2020, Unified streaming and non-streaming two-pass (arXiv 2012.05481), section 2.2.
        """
        chunk_size = self.chunk_sizes[int(torch.randint(len(self.chunk_sizes), ()))]
        left_context = self.left_contexts[int(torch.randint(len(self.left_contexts), ()))]
        return Chunking(chunk_size, left_context or None) if chunk_size else None

    def start(self, num_streams: int, *, left_context: int) -> EncoderState:
        """The state of N streams before their first chunk; frames will attend to `left_context` frames before it.

        Raises:
          ValueError: the encoder needs whole utterances.
        """
        self.refuse_chunks(Chunking(1))
        like = self.subsampling.output.weight
        num_layers, channels, half = self.num_layers, like.size(0), self.half_kernel
        heads = channels // self.head_dim, self.head_dim
        return EncoderState(
            like.new_zeros(num_streams, num_layers, left_context, 2, *heads),
            like.new_zeros(num_streams, num_layers, half, channels),
            torch.zeros(num_streams, dtype=torch.int64, device=like.device),
        )

    def step(self, x: Tensor, x_lens: Tensor, state: EncoderState) -> tuple[EncoderOutput, EncoderState]:
        """Return the encoder frames of the next chunk of N streams, and the state for the chunk after it.

        A chunk of S encoder frames takes 4 S + 3 feature frames; the next one begins 4 S feature frames later, so it
        sees the last three again. All chunks of a stream have the same S; only its last one may have fewer valid
        frames. The frames are those of `forward` with `Chunking(S, left_context)`.

        Args:
          x: features, (N, 4 S + 3, F).
          x_lens: valid feature frames, (N,).
          state: of these streams.
        """
        x, lens = self.front_end(x, x_lens)
        left_context = state.keys_values.size(2)
        frames = ChunkFrames(
            lens, x.size(1), head_dim=self.head_dim, left_context=left_context, num_before=state.num_frames
        )
        decided: list[Routing] = []
        memories: list[LayerMemory] = []
        for layer, *memory in zip(
            self.chosen_layers().values(), state.keys_values.unbind(1), state.convolved.unbind(1)
        ):
            of_layer = frames.of_layer(LayerMemory(*memory))
            x, routing = layer.forward(x, of_layer)
            decided += routing
            memories.append(of_layer.memory)
        keys_values, convolved = (torch.stack(parts, dim=1) for parts in zip(*memories))
        next_state = EncoderState(keys_values, convolved, state.num_frames + lens)
        return EncoderOutput(x, lens, _stacked(decided)), next_state

    def router_losses(self, routing: Routing) -> RouterLosses:
        """The losses of all routers in the order of `routers`; each group computes its own."""
        losses = [
            group.router_losses(Routing(*(part[rows] for part in routing)))
            for group, rows in zip(self.block_groups(), self.rows_of_groups)
            if rows
        ]
        return RouterLosses(*map(self._in_order_of_depth, zip(*losses)))

    def balance_experts(self, frames_per_expert: Tensor) -> Tensor:
        """After an update: move the routers' balancing biases, if they have any.

        Args:
          frames_per_expert: frames that each expert computed in the update, (L, E).

        Returns:
          the frames that are balanced, (L, E): the same, or their means over each group's layers.
        """
        groups = zip(self.block_groups(), self.rows_of_groups)
        return self._in_order_of_depth([group.balance(frames_per_expert[rows]) for group, rows in groups if rows])

    def _in_order_of_depth(self, by_group: Sequence[Tensor]) -> Tensor:
        """The rows of each group that has routers, in the order of `routers`, (L, ...)."""
        rows = torch.tensor([row for rows in self.rows_of_groups for row in rows])
        return torch.cat(list(by_group))[rows.argsort()]


def _stacked(decided: Sequence[Routing]) -> Routing | None:
    """The decisions of L routers, stacked; None without routers."""
    return Routing(*(torch.stack(parts) for parts in zip(*decided))) if decided else None
