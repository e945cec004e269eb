"""A neural language model in the two forms that sherpa-onnx reads: whole sentences, and one token after the other.

Source of the contracts: sherpa-onnx/csrc/offline-lm.cc, online-rnn-lm.cc; icefall/rnn_lm/export-onnx.py.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.decoding.neural_lm import load_neural_lm
from shared_moe_conformer.forms.onnx_graphs import describe, write_graph
from shared_moe_conformer.forms.runtimes import MAX_DIFFERENCE, load_graph, require_close
from shared_moe_conformer.language_model import EOS, SOS, LanguageModel
from shared_moe_conformer.release.manifest import NEURAL_LM_FILES

SENTENCES = torch.tensor([[3, 4, 5, 3], [5, 0, 0, 0]])
"""Tokens with which graphs are traced and checked; every model has more units."""


class StepGraph(nn.Module):
    """One token to the log-probabilities of the next; the memory is in two tensors of one shape, as an LSTM's is.

    A transformer's first one holds what its layers have seen, and the second the number of tokens that is.
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
      By file, the largest difference of its output from the model's.

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
