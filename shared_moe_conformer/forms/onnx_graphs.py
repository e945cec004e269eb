"""A model's parts and its neural language models as ONNX graphs, with the inputs and outputs that sherpa-onnx expects.

Acoustic graphs compute whole utterances. A language model's graph computes whole sentences, or one token after another.

Source of the contracts: sherpa-onnx/csrc/offline-transducer-model.cc, offline-zipformer-ctc-model.cc, offline-lm.cc,
online-rnn-lm.cc; icefall/rnn_lm/export-onnx.py.
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
from shared_moe_conformer.config import MIN_NUM_FRAMES
from shared_moe_conformer.decoding.neural_lm import EOS, SOS, LanguageModel, load_neural_lm
from shared_moe_conformer.forms.runtimes import MAX_DIFFERENCE, load_graph, require_close
from shared_moe_conformer.model.asr_model import AsrModel, Decoder, Joiner
from shared_moe_conformer.model.encoder import Encoder
from shared_moe_conformer.model.frames import Frames
from shared_moe_conformer.model.frontend import FeatureNorm
from shared_moe_conformer.model.moe import MoeFeedForward, Router, Routing
from shared_moe_conformer.release.manifest import NEURAL_LM_FILES

OPSET = 17
"""Version of ONNX's operators."""


class UtteranceGraph(nn.Module):
    """Features of whole utterances to the output of a head, one of `heads_of`."""

    def __init__(self, model: AsrModel, head: nn.Module) -> None:
        super().__init__()
        self.encoder = exportable_encoder(model.encoder)
        self.head = head

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, T', J or V) and the valid frames of each utterance (N,), for features (N, T, F) and their (N,)."""
        encoder_out, lens, _ = self.encoder(as_long_as_a_frame(x), long_enough(x_lens))
        return self.head(encoder_out), lens


def heads_of(model: AsrModel) -> dict[str, nn.Module]:
    """The heads behind the encoder by the name of their output: the joiner's projection, log-probabilities of CTC."""
    log_probs = nn.Sequential(model.ctc_head, nn.LogSoftmax(dim=-1))
    return {"encoder_out": model.joiner.encoder_projection, "log_probs": log_probs}


class DecoderGraph(nn.Module):
    """The last tokens to a decoder frame, already projected to the joiner's size."""

    def __init__(self, decoder: Decoder, joiner: Joiner) -> None:
        super().__init__()
        self.decoder = decoder
        self.projection = joiner.decoder_projection

    def forward(self, y: Tensor) -> Tensor:
        """Return (N, J) for contexts (N, context_size); negative tokens are those before the beginning."""
        return self.projection(self.decoder.step(y))


class ExportableFeatureNorm(nn.Module):
    """`FeatureNorm` whose scale is stored.

    The exporter would compute the scale by a root and a quotient. Its last bits would differ from the model's and
    depend on torch's code for the CPU (`tune_cpu`), and in int8 that changes texts.
    """

    def __init__(self, norm: FeatureNorm) -> None:
        super().__init__()
        self.mean, self.scale, self.levelled = _frozen(norm.mean), _frozen(norm.scale()), norm.levelled

    def forward(self, x: Tensor, x_lens: Tensor) -> Tensor:
        """Return normalised features (N, T, F)."""
        return (self.levelled(x, x_lens) - self.mean) * self.scale


class ExportableMoe(MoeFeedForward):
    """`MoeFeedForward` without lengths of Python lists, which a traced graph would freeze.

    Each expert computes only its frames, found by their indexes; the results, in the order of experts, are then put
    back into the order of frames. Each expert's weights are tensors of their own, so a quantiser sees plain matrix
    products.
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
        """Return what `MoeFeedForward` returns, but with the decisions of all frames, padding included."""
        rows = x.flatten(0, 1)
        routing = self.choose(rows, router)
        nobody = len(self.hidden_weights)
        expert_ids = routing.expert_ids.masked_fill(frames.padding_mask.flatten().unsqueeze(1), nobody).flatten()
        by_frame = self.norm(self._outputs(rows, expert_ids)).view(-1, self.top_k, x.size(2))
        out = (by_frame * routing.gates.unsqueeze(-1)).sum(dim=1).view_as(x)
        return out if self.common_expert is None else out + self.common_expert(x), routing

    def _outputs(self, frames: Tensor, expert_ids: Tensor) -> Tensor:
        """Outputs (M * K, C) for frames (M, C) and their experts (M * K,); 0 where an expert does not exist."""
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
    """Features (N, T, F), padded with zeros if they are too short for one encoder frame.

    Such a recording has one encoder frame, which is not valid. The model pads as well, but by Python numbers, which a
    traced graph would freeze.
    """
    num_frames = torch._shape_as_tensor(x)[1].clamp(min=MIN_NUM_FRAMES)
    return F.pad(x, (0, 0, 0, MIN_NUM_FRAMES))[:, :num_frames]


def long_enough(x_lens: Tensor) -> Tensor:
    """Lengths (N,) in frames, 0 for recordings of less than 70 ms: extractors round those from 65 ms to 7 frames."""
    return x_lens * (x_lens > MIN_NUM_FRAMES)


def exportable_encoder(encoder: Encoder) -> Encoder:
    """A copy of an encoder with parts that ONNX can represent; blocks of several layers stay shared."""
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
        warnings.simplefilter("ignore")  # about the exporter's age, and sizes that no input changes
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
    """Add the metadata that sherpa-onnx reads to a graph, and the model's origin."""
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
    """Let every node read the stored weights directly.

    The exporter lets all layers of a shared block except one read a copy (Identity), which quantisers do not recognise
    as a weight.
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


SENTENCES = torch.tensor([[3, 4, 5, 3], [5, 0, 0, 0]])
"""Tokens for tracing and checking graphs; every model has more units."""


class StepGraph(nn.Module):
    """One token to the log-probabilities of the next; the memory is two tensors of one shape, like an LSTM's.

    For a transformer, the first tensor holds what its layers have seen, and the second the number of these tokens.
    """

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model
        self.is_rnn = model.config.lm_type == "rnn"

    @property
    def state_shape(self) -> tuple[int, int]:
        """Layers, and channels of each in the memory."""
        config = self.model.config
        of_transformer = (config.left_context - 1) * config.embedding_dim
        return config.num_layers, config.hidden_dim if self.is_rnn else of_transformer

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-probabilities (N, V) and the next memory, of tokens (N, 1) and a memory (layers, N, channels)."""
        h, c = h.transpose(0, 1), c.transpose(0, 1)
        if self.is_rnn:
            log_probs, (h, c) = self.model.step(x.squeeze(1), (h, c))
            return log_probs, h.transpose(0, 1), c.transpose(0, 1)
        memory = h.reshape(*h.shape[:2], -1, self.model.config.embedding_dim)
        log_probs, (memory, num_valid) = self.model.step(x.squeeze(1), (memory, c[:, 0, 0].round().long()))
        count = num_valid.to(c).view(-1, 1, 1) + torch.zeros_like(c)
        return log_probs, memory.flatten(2).transpose(0, 1), count.transpose(0, 1)


def write_language_models(bundle: Bundle, folder: Path, *, for_streams: bool) -> dict[str, float]:
    """Write rnn_lm.onnx or transformer_lm.onnx for each neural language model that a bundle has.

    Args:
      for_streams: one token after the other, for the streaming recogniser; otherwise whole sentences.

    Returns:
      The largest difference of each file's output from the model's.

    Raises:
      ValueError: a graph differs from its model.
    """
    differences = {}
    for name in NEURAL_LM_FILES:
        if bundle.folder is not None and (bundle.folder / name).is_file():
            model = load_neural_lm(bundle.folder / name, bundle.tokenizer.pieces)
            path = folder / Path(name).with_suffix(".onnx")
            differences[path.name] = (_write_steps if for_streams else _write_sentences)(model, path)
            _describe(path, bundle, model)
            require_close(differences[path.name], path.name, MAX_DIFFERENCE)
    return differences


def _write_sentences(model: LanguageModel, path: Path) -> float:
    """Write the graph from tokens (N, L) and valid ones (N,) to each sentence's negative log-likelihood (N,)."""
    lens = torch.tensor([4, 1])
    axes = {"x": {0: "N", 1: "L"}, "x_lens": {0: "N"}}
    write_graph(model, {"x": SENTENCES, "x_lens": lens}, {"nll": {0: "N"}}, axes, path)
    others = SENTENCES.flip(0).repeat(2, 2), torch.tensor([8, 5, 0, 3])
    with torch.inference_mode():
        own = model(*others)
    return float((torch.from_numpy(load_graph(path)(*(part.numpy() for part in others))[0]) - own).abs().max())


def _write_steps(model: LanguageModel, path: Path) -> float:
    """Write the graph of `StepGraph`."""
    graph = StepGraph(model)
    layers, channels = graph.state_shape
    state = {name: torch.zeros(layers, 2, channels) for name in ("h0", "c0")}
    outputs = {"log_softmax": {0: "N"}, "next_h0": {1: "N"}, "next_c0": {1: "N"}}
    axes = {"x": {0: "N"}, "h0": {1: "N"}, "c0": {1: "N"}}
    write_graph(graph, {"x": SENTENCES[:, :1], **state}, outputs, axes, path)
    session, memory, worst = load_graph(path), [part[:, :1].numpy() for part in state.values()], 0.0
    own_state = model.start(1)
    for token in (SOS, *SENTENCES[0].tolist()):
        x = torch.tensor([[token]])
        log_probs, *memory = session(x.numpy(), *memory)
        with torch.inference_mode():
            own, own_state = model.step(x[:, 0], own_state)
        worst = max(worst, float((torch.from_numpy(log_probs) - own).abs().max()))
    return worst


def _describe(path: Path, bundle: Bundle, model: LanguageModel) -> None:
    layers, channels = StepGraph(model).state_shape
    state = {"num_layers": layers, "hidden_size": channels, "embedding_dim": model.config.embedding_dim}
    units = {"vocab_size": model.config.vocab_size, "sos_id": SOS, "eos_id": EOS}
    describe(path, bundle, {"model_type": "rnnlm", **units, **state})
