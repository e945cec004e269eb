"""The model's parts with the inputs and outputs that sherpa-onnx expects, in a form that ONNX can hold, and as files.

Source of the contracts: sherpa-onnx's offline transducer and offline zipformer CTC models
(sherpa-onnx/csrc/offline-transducer-model.cc, offline-zipformer-ctc-model.cc), and its streaming zipformers
(online-zipformer2-transducer-model.cc, online-zipformer2-ctc-model.cc).

A chunk's graph gets what the encoder remembers of each stream and returns what to pass with the next chunk. sherpa-onnx
makes the first states itself, zeros, in the sizes that follow from the graph's metadata, and puts the streams that have
a chunk ready into one batch, wherever each of them is. A zipformer remembers more kinds of things than a conformer. So
the values lie in two halves in `cached_val1` and `cached_val2`, the frames of the depthwise convolution in two halves
in `cached_conv1` and `cached_conv2`, and `cached_nonlin_attn` and `embed_states` go through as they are: nothing is in
them.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import MIN_NUM_FRAMES, SUBSAMPLING_FACTOR, Chunking, EncoderConfig
from shared_moe_conformer.forms.runtimes import CTC, ENCODER
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.encoder import Encoder, EncoderState
from shared_moe_conformer.model.frames import Frames
from shared_moe_conformer.model.frontend import FeatureNorm
from shared_moe_conformer.model.moe import MoeFeedForward, Router, Routing
from shared_moe_conformer.model.transducer import Decoder, Joiner

OPSET = 17
"""Version of ONNX's operators."""


class EncoderGraph(nn.Module):
    """Features to encoder frames that are already projected to the joiner's size."""

    def __init__(self, model: AsrModel) -> None:
        super().__init__()
        self.encoder = exportable_encoder(model.encoder)
        self.projection = model.joiner.encoder_projection

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, T', J) and the valid frames of each utterance (N,), for features (N, T, F) and their (N,)."""
        encoder_out, lens, _ = self.encoder(as_long_as_a_frame(x), long_enough(x_lens))
        return self.projection(encoder_out), lens


class CtcGraph(nn.Module):
    """Features to log-probabilities of the CTC head."""

    def __init__(self, model: AsrModel) -> None:
        super().__init__()
        self.encoder = exportable_encoder(model.encoder)
        self.head = model.ctc_head

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, T', V) and the valid frames of each utterance (N,), for features (N, T, F) and their (N,)."""
        encoder_out, lens, _ = self.encoder(as_long_as_a_frame(x), long_enough(x_lens))
        return F.log_softmax(self.head(encoder_out), dim=-1), lens


class DecoderGraph(nn.Module):
    """The last tokens to a decoder frame that is already projected to the joiner's size."""

    def __init__(self, decoder: Decoder, joiner: Joiner) -> None:
        super().__init__()
        self.decoder = decoder
        self.projection = joiner.decoder_projection

    def forward(self, y: Tensor) -> Tensor:
        """Return (N, J) for contexts (N, context_size); negative tokens are those before the beginning."""
        return self.projection(self.decoder.step(y))


class ExportableFeatureNorm(nn.Module):
    """`FeatureNorm` whose scale is stored.

    The exporter would compute it, by a root and a quotient, whose last bits differ from the model's and depend on the
    code that torch computes with (`tune_cpu`); int8 makes other texts of them.
    """

    def __init__(self, norm: FeatureNorm) -> None:
        super().__init__()
        self.mean, self.scale = _frozen(norm.mean), _frozen(norm.scale())

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised features (N, T, F)."""
        return (x - self.mean) * self.scale


class ExportableMoe(MoeFeedForward):
    """`MoeFeedForward` without Python's lengths of lists, which a traced graph would freeze.

    Each expert takes its frames by their indexes and computes them alone; the results, in the order of experts, are
    then put back into the order of frames. Each expert's weights are tensors of their own, so that a quantiser sees
    plain matrix products.
    """

    def __init__(self, moe: MoeFeedForward) -> None:
        nn.Module.__init__(self)
        self.top_k, self.gates, self.gate_scale = moe.top_k, moe.gates, moe.gate_scale
        self.norm, self.common_expert, experts = moe.norm, moe.common_expert, moe.experts
        self.hidden_weights = nn.ParameterList(map(_frozen, experts.hidden_weight))
        self.hidden_biases = nn.ParameterList(map(_frozen, experts.hidden_bias))
        self.output_weights = nn.ParameterList(map(_frozen, experts.output_weight))
        self.output_biases = nn.ParameterList(map(_frozen, experts.output_bias))

    def forward(self, x: Tensor, frames: Frames, router: Router) -> tuple[Tensor, Routing]:
        """Return what `MoeFeedForward` returns, but the decisions of all frames, padding too."""
        rows = x.flatten(0, 1)
        routing = self.choose(rows, router)
        nobody = len(self.hidden_weights)
        expert_ids = routing.expert_ids.masked_fill(frames.padding_mask.flatten().unsqueeze(1), nobody).flatten()
        by_frame = self.norm(self._outputs(rows, expert_ids)).view(-1, self.top_k, x.size(2))
        out = (by_frame * routing.gates.unsqueeze(-1)).sum(dim=1).view_as(x)
        return out if self.common_expert is None else out + self.common_expert(x), routing

    def _outputs(self, frames: Tensor, expert_ids: Tensor) -> Tensor:
        """Outputs (M * K, C) of frames (M, C) and their experts (M * K,); 0 where there is no such expert."""
        parts, positions = [], []
        experts = zip(self.hidden_weights, self.hidden_biases, self.output_weights, self.output_biases)
        for e, (w1, b1, w2, b2) in enumerate(experts):
            position = (expert_ids == e).nonzero().squeeze(1)
            part = frames.index_select(0, position // self.top_k if self.top_k > 1 else position)
            parts.append(F.silu(part @ w1 + b1) @ w2 + b2)
            positions.append(position)
        order = torch.cat(positions)
        number = torch.arange(order.size(0))
        place = torch.zeros_like(expert_ids).scatter(0, order, number + 1)
        return torch.cat([frames.new_zeros(1, frames.size(1)), *parts]).index_select(0, place)


def as_long_as_a_frame(x: Tensor) -> Tensor:
    """Features (N, T, F), with zeros behind those of recordings that are too short for one encoder frame.

    Such a recording has one encoder frame, which is not valid. The model pads these, too, but by Python's numbers,
    which a traced graph would freeze.
    """
    num_frames = torch._shape_as_tensor(x)[1].clamp(min=MIN_NUM_FRAMES)
    return F.pad(x, (0, 0, 0, MIN_NUM_FRAMES))[:, :num_frames]


def long_enough(x_lens: Tensor) -> Tensor:
    """Lengths (N,) in frames, 0 for recordings of less than 70 ms: extractors round those from 65 ms to 7 frames."""
    return x_lens * (x_lens > MIN_NUM_FRAMES)


def exportable_encoder(encoder: Encoder) -> Encoder:
    """A copy of an encoder whose parts ONNX can hold; blocks that several layers use stay shared."""
    encoder = copy.deepcopy(encoder).eval()
    setattr(encoder, "feature_norm", ExportableFeatureNorm(encoder.feature_norm))  # noqa: B010
    for group in encoder.groups:
        for name in ("feed_forward1", "feed_forward2"):
            part = getattr(group.block, name)
            if isinstance(part, MoeFeedForward):
                setattr(group.block, name, ExportableMoe(part))
    return encoder


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(), requires_grad=False)


def write_graph(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, dict[int, str]],
    input_axes: Mapping[str, dict[int, str]],
    path: Path,
) -> None:
    """Trace a module into an ONNX file, by the exporter that torch 1.13 and 2.x share.

    Args:
      module: what the graph computes.
      inputs: an example of each input, by its name.
      outputs: the sizes of each output that vary, by axis.
      input_axes: the same of each input.
      path: the file.
    """
    import onnx

    legacy: dict[str, Any] = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    with warnings.catch_warnings(), torch.inference_mode(mode=False), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter's own age, and of sizes that no input changes
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={**input_axes, **outputs},
            opset_version=OPSET,
            **legacy,
        )
    model = onnx.load(path)
    _read_weights_directly(model.graph)
    onnx.save(model, path)


def describe(path: Path, bundle: Bundle, values: Mapping[str, object]) -> None:
    """Add to a graph the metadata that sherpa-onnx reads, and where it comes from."""
    import onnx

    source = {
        "model_author": f"shared-moe-conformer {bundle.manifest.package_version}",
        "comment": f"{bundle.manifest.name}, trained on {bundle.manifest.corpus}, licence {bundle.manifest.licence}",
        "version": "1",
    }
    graph = onnx.load(path)
    onnx.helper.set_model_props(graph, {key: str(value) for key, value in {**source, **values}.items()})
    onnx.checker.check_model(graph)
    onnx.save(graph, path)


def _read_weights_directly(graph: Any) -> None:
    """Have every node read the stored weights themselves.

    The exporter lets all but one of a shared block's layers read a copy (Identity), which no quantiser takes for a
    weight.
    """
    stored = {tensor.name for tensor in graph.initializer}
    outputs = {output.name for output in graph.output}
    copies = [n for n in graph.node if n.op_type == "Identity" and n.input[0] in stored and n.output[0] not in outputs]
    original = {node.output[0]: node.input[0] for node in copies}
    for node in copies:
        graph.node.remove(node)
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = original.get(name, name)


SAMPLING_RATE, NUM_MEL_BINS = 16000, 80
"""The features that the contract's `embed_states` belong to."""
LAYER_STATES = ("cached_key", "cached_nonlin_attn", "cached_val1", "cached_val2", "cached_conv1", "cached_conv2")
"""A layer's states in their order."""
STREAM_FIRST = ("cached_conv1", "cached_conv2", "embed_states", "processed_lens")
"""States whose first axis is that of streams; of the others it is the second."""


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
    """Feature frames of a chunk (sherpa-onnx's `T`): those that its encoder frames see, `MIN_NUM_FRAMES` each."""
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

    The sizes of channels, kernels and heads serve to make the first states and nothing else. So `encoder_dims` and
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
    heads = {
        ENCODER: ("encoder_out", model.joiner.encoder_projection),
        CTC: ("log_probs", nn.Sequential(model.ctc_head, nn.LogSoftmax(dim=-1))),
    }
    for file, (name, head) in heads.items():
        graph = ChunkGraph(model, head)
        write_graph(graph, {"x": x, **states}, {name: {0: "N"}, **next_axes}, {"x": {0: "N"}, **axes}, folder / file)
