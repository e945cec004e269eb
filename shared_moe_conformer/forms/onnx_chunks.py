"""Graphs that compute one chunk of each of several streams, with the inputs and outputs that sherpa-onnx expects.

Such a graph gets what the encoder remembers of each stream and returns what to pass with the next chunk. sherpa-onnx
makes the first states itself: zeros, in sizes that follow from the graph's metadata. It puts the streams that have a
chunk ready into one batch, whatever their positions. A zipformer has more kinds of states than a conformer. So the
values lie in two halves in `cached_val1` and `cached_val2`, the frames of the depthwise convolution in two halves in
`cached_conv1` and `cached_conv2`, and `cached_nonlin_attn` and `embed_states` pass through unused.

Source of the contracts: sherpa-onnx's streaming zipformers (sherpa-onnx/csrc/online-zipformer2-transducer-model.cc,
online-zipformer2-ctc-model.cc).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import FRAME_SHIFT, MIN_NUM_FRAMES, SUBSAMPLING_FACTOR, Chunking, EncoderConfig
from shared_moe_conformer.forms.onnx_graphs import exportable_encoder, heads_of, write_graph
from shared_moe_conformer.forms.runtimes import CTC, ENCODER, Graph
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.encoder import EncoderState
from shared_moe_conformer.speech.audio import read_audio

SAMPLING_RATE, NUM_MEL_BINS = 16000, 80
"""The features for which the contract's `embed_states` has its size."""
LAYER_STATES = ("cached_key", "cached_nonlin_attn", "cached_val1", "cached_val2", "cached_conv1", "cached_conv2")
"""A layer's states in their order."""
STREAM_FIRST = ("cached_conv1", "cached_conv2", "embed_states", "processed_lens")
"""States whose first axis is that of streams; for the others it is the second."""


class ChunkGraph(nn.Module):
    """The features of N streams' next chunks and the streams' states to the output of a head and the states after it.

    All chunks are full.
    """

    def __init__(self, model: AsrModel, head: nn.Module) -> None:
        super().__init__()
        self.encoder = exportable_encoder(model.encoder)
        self.head = head

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Return the head's output (N, S, J or V) for features (N, 4 S + 3, F), and the next states in their order."""
        *by_layer, embed_states, processed_lens = states
        layers = [by_layer[i : i + len(LAYER_STATES)] for i in range(0, len(by_layer), len(LAYER_STATES))]
        memories = [_remembered(*layer, head_dim=self.encoder.head_dim) for layer in layers]
        keys_values, convolved = (torch.stack(parts, dim=1) for parts in zip(*memories))
        x_lens = torch.full_like(processed_lens, x.size(1))
        output, state = self.encoder.step(x, x_lens, EncoderState(keys_values, convolved, processed_lens))
        after = zip(state.keys_values.unbind(1), state.convolved.unbind(1), layers)
        stored = [part for keys_values, convolved, layer in after for part in _stored(keys_values, convolved, layer[1])]
        return self.head(output.encoder_out), *stored, embed_states.clone(), state.num_frames


def _remembered(
    key: Tensor, _nonlin_attn: Tensor, val1: Tensor, val2: Tensor, conv1: Tensor, conv2: Tensor, *, head_dim: int
) -> tuple[Tensor, Tensor]:
    """A layer's keys and values (N, left, 2, H, D) and convolved frames (N, half, C)."""
    keys_values = torch.stack([key, torch.cat([val1, val2], dim=2)], dim=2).transpose(0, 1)
    heads = keys_values.reshape(*keys_values.shape[:3], key.size(2) // head_dim, head_dim)
    return heads, torch.cat([conv1, conv2], dim=1).transpose(1, 2)


def _stored(keys_values: Tensor, convolved: Tensor, nonlin_attn: Tensor) -> list[Tensor]:
    """The layer's states of `_remembered`."""
    key, value = keys_values.flatten(3).transpose(0, 1).unbind(2)
    return [key, nonlin_attn.clone(), *value.chunk(2, dim=2), *convolved.transpose(1, 2).chunk(2, dim=1)]


def num_features(chunking: Chunking) -> int:
    """Feature frames of a chunk (sherpa-onnx's `T`): all that its encoder frames see, `MIN_NUM_FRAMES` each."""
    return SUBSAMPLING_FACTOR * (chunking.chunk_size - 1) + MIN_NUM_FRAMES


def first_states(config: EncoderConfig, chunking: Chunking, num_streams: int) -> dict[str, Tensor]:
    """The states of N streams before their first chunk, by name and in their order, as sherpa-onnx makes them."""
    left, n, half, reach = chunking.left_context, num_streams, config.encoder_dim // 2, config.conv_kernel_size // 2
    assert left is not None
    layer = dict(
        zip(
            LAYER_STATES,
            [
                (left, n, config.encoder_dim),
                (1, n, left, 3 * half // 4),
                *[(left, n, half)] * 2,
                *[(n, half, reach)] * 2,
            ],
        )
    )
    states = {f"{name}_{i}": torch.zeros(shape) for i in range(config.num_layers) for name, shape in layer.items()}
    embed_states = torch.zeros(n, 128, 3, 19)
    return {**states, "embed_states": embed_states, "processed_lens": torch.zeros(n, dtype=torch.int64)}


def metadata(config: EncoderConfig, chunking: Chunking) -> dict[str, object]:
    """The metadata that sherpa-onnx reads from the graphs, of one stack of layers.

    sherpa-onnx uses the sizes of channels, kernels and heads only to make the first states. So `encoder_dims` and
    `value_head_dims` are those of the halves.
    """
    head_dim = config.encoder_dim // config.num_attention_heads
    return {
        "model_type": "zipformer2",
        "T": num_features(chunking),
        "decode_chunk_len": SUBSAMPLING_FACTOR * chunking.chunk_size,
        "num_encoder_layers": config.num_layers,
        "encoder_dims": config.encoder_dim // 2,
        "cnn_module_kernels": config.conv_kernel_size,
        "left_context_len": chunking.left_context,
        "query_head_dims": head_dim,
        "value_head_dims": head_dim // 2,
        "num_heads": config.num_attention_heads,
    }


def write_chunk_graphs(model: AsrModel, chunking: Chunking, folder: Path) -> None:
    """Write encoder.onnx, whose frames are projected to the joiner's size, and ctc.onnx, without metadata."""
    states = first_states(model.config.encoder, chunking, num_streams=2)
    x = torch.zeros(2, num_features(chunking), NUM_MEL_BINS)
    axes = {name: {0 if name.startswith(STREAM_FIRST) else 1: "N"} for name in states}
    next_axes = {f"new_{name}": axis for name, axis in axes.items()}
    for file, (name, head) in zip((ENCODER, CTC), heads_of(model).items()):
        graph = ChunkGraph(model, head)
        write_graph(graph, {"x": x, **states}, {name: {0: "N"}, **next_axes}, {"x": {0: "N"}, **axes}, folder / file)


def in_chunks(graph: Graph, config: EncoderConfig, chunking: Chunking) -> Graph:
    """A graph of chunks as one of whole utterances, which must be whole chunks."""
    step, size = SUBSAMPLING_FACTOR * chunking.chunk_size, num_features(chunking)

    def of_utterances(x: np.ndarray, x_lens: np.ndarray) -> list[np.ndarray]:
        assert (x_lens == x.shape[1]).all() and (x.shape[1] - size) % step == 0
        states = [state.numpy() for state in first_states(config, chunking, len(x)).values()]
        parts = []
        for begin in range(0, x.shape[1] - size + 1, step):
            part, *states = graph(x[:, begin : begin + size], *states)
            parts.append(part)
        return [np.concatenate(parts, axis=1), np.full(len(x), len(parts) * chunking.chunk_size)]

    return of_utterances


def tail_seconds(chunking: Chunking) -> float:
    """Seconds of silence to append to a recording, so that no word stays in a chunk that never becomes full.

    sherpa-onnx computes a chunk of T feature frames when there are more than T.

    Source: `IsReady` of sherpa-onnx/csrc/online-recognizer-transducer-impl.h; T + 2 frames are the least
    silence with which a stream without other audio is ready.
    """
    return round((num_features(chunking) + 2) * FRAME_SHIFT, 2)


def whole_chunks(bundle: Bundle, path: Path, chunking: Chunking) -> np.ndarray:
    """The features (T, F) of a recording and of the silence after it that sherpa-onnx computes."""
    samples, sampling_rate = read_audio(path)
    tail = np.zeros(math.ceil(tail_seconds(chunking) * sampling_rate), dtype=samples.dtype)
    x = bundle.features(np.concatenate([samples, tail]), sampling_rate).numpy()
    step, size = SUBSAMPLING_FACTOR * chunking.chunk_size, num_features(chunking)
    num_chunks = math.ceil((len(x) - size) / step)
    return x[: (num_chunks - 1) * step + size]
