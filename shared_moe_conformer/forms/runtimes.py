"""A model's four graphs in any runtime, called in the same way; greedy searches, and outputs to compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from shared_moe_conformer.config import Chunking, require
from shared_moe_conformer.decoding.hypothesis import BLANK_ID
from shared_moe_conformer.model.asr_model import AsrModel

ENCODER, DECODER, JOINER, CTC = "encoder.onnx", "decoder.onnx", "joiner.onnx", "ctc.onnx"
SHRUNK = (ENCODER, CTC)
"""Files with float16 and int8 versions; decoder and joiner are small, and their errors would reach the logits."""
Graph = Callable[..., list[np.ndarray]]
"""Function from inputs to outputs, in the graph's order."""
MAX_DIFFERENCE = 1e-3
"""Largest allowed difference of a float32 graph from the model, on the model's test wav."""


def int8_name(name: str) -> str:
    """`encoder.int8.onnx` for `encoder.onnx`, as in sherpa-onnx's own models."""
    return name.replace(".onnx", ".int8.onnx")


def fp16_name(name: str) -> str:
    """`encoder.fp16.onnx` for `encoder.onnx`, as in sherpa-onnx's own models."""
    return name.replace(".onnx", ".fp16.onnx")


class Parts(NamedTuple):
    """The graphs, with the inputs and outputs of `forms.onnx_graphs`."""

    encoder: Graph
    decoder: Graph
    joiner: Graph
    ctc: Graph


def torch_parts(model: AsrModel, chunking: Chunking | None = None) -> Parts:
    """The model itself, without export.

    Args:
      chunking: what frames may see; None: everything.
    """

    def encoder(x: Tensor, x_lens: Tensor) -> Sequence[Tensor]:
        encoder_out, lens, _ = model.encode(x, x_lens, chunking)
        return model.joiner.encoder_projection(encoder_out), lens

    def ctc(x: Tensor, x_lens: Tensor) -> Sequence[Tensor]:
        encoder_out, lens, _ = model.encode(x, x_lens, chunking)
        return model.ctc_log_probs(encoder_out), lens

    def decoder(y: Tensor) -> Sequence[Tensor]:
        return [model.joiner.decoder_projection(model.decoder.step(y))]

    def joiner(encoder_frames: Tensor, decoder_frames: Tensor) -> Sequence[Tensor]:
        return [model.joiner(encoder_frames, decoder_frames)]

    return Parts(_on_arrays(encoder), _on_arrays(decoder), _on_arrays(joiner), _on_arrays(ctc))


def torchscript_parts(folder: Path) -> Parts:
    """The graphs that `write_torchscript` wrote."""
    encoder, decoder, joiner, ctc = (torch.jit.load(folder / f"{part}.pt") for part in Parts._fields)
    return Parts(
        _on_arrays(encoder),
        _on_arrays(lambda y: [decoder(y)]),
        _on_arrays(lambda *frames: [joiner(*frames)]),
        _on_arrays(ctc),
    )


def onnx_parts(folder: Path, name_of: Callable[[str], str] = str) -> Parts:
    """The graphs that `write_onnx` wrote, in onnxruntime.

    Args:
      name_of: function from the name of a float32 file to that of a precision; decoder and joiner stay float32.
    """
    return Parts(*(load_graph(folder / name) for name in (name_of(ENCODER), DECODER, JOINER, name_of(CTC))))


def load_graph(path: Path) -> Graph:
    """A graph in onnxruntime, on one CPU thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))


def checked_differences(
    reference: Parts, parts: Parts, x: np.ndarray, start_context: Sequence[int], *, suffix: str
) -> dict[str, float]:
    """The largest difference of each file's output from the reference's, for the reference's inputs.

    Args:
      reference, parts: the model, and its graphs in float32.
      x: features of one recording, (T, F).
      start_context: tokens before the first.
      suffix: ending of the graphs' files, after the name of the part.

    Raises:
      ValueError: a difference is too large.
    """
    context = np.array([start_context])
    frames = reference.encoder(*_batch_of(x))[0][0]
    decoder_frames = reference.decoder(context)[0].repeat(len(frames), axis=0)
    inputs = {"encoder": _batch_of(x), "decoder": (context,), "joiner": (frames, decoder_frames), "ctc": _batch_of(x)}
    found = {}
    for name, given in inputs.items():
        own, part = getattr(reference, name), getattr(parts, name)
        found[name + suffix] = float(np.abs(part(*given)[0] - own(*given)[0]).max(initial=0.0))
        require_close(found[name + suffix], name + suffix, MAX_DIFFERENCE)
    return found


def require_close(difference: float, name: str, limit: float) -> None:
    """Refuse a graph whose output differs from the model's by more than the limit."""
    require(difference <= limit, f"{name} differs from the model by {difference:.2g}: not written")


def greedy_transducer(parts: Parts, x: np.ndarray, start_context: Sequence[int]) -> tuple[list[int], np.ndarray]:
    """The tokens of greedy search, at most one per frame, and the context (T', context_size) of each frame.

    Args:
      parts: the graphs.
      x: features of one recording, (T, F).
      start_context: tokens before the first.
    """
    context, contexts, tokens = list(start_context), [], []
    (decoder_frame,) = parts.decoder(np.array([context]))
    for frame in _valid(parts.encoder(*_batch_of(x))):
        contexts.append(context)
        (logits,) = parts.joiner(frame[None], decoder_frame)
        token = int(logits[0].argmax())
        if token != BLANK_ID:
            tokens.append(token)
            context = [*context[1:], token]
            (decoder_frame,) = parts.decoder(np.array([context]))
    return tokens, np.array(contexts)


def greedy_ctc(parts: Parts, x: np.ndarray) -> list[int]:
    """The tokens of the best alignment of the CTC head."""
    best = ctc_log_probs(parts, x).argmax(axis=1).tolist()
    return [token for token, _ in groupby(best) if token != BLANK_ID]


def transducer_logits(parts: Parts, x: np.ndarray, contexts: np.ndarray) -> np.ndarray:
    """The joiner's logits (T', V) of each frame and its context (T', context_size)."""
    (decoder_frames,) = parts.decoder(contexts)
    return parts.joiner(_valid(parts.encoder(*_batch_of(x))), decoder_frames)[0]


def ctc_log_probs(parts: Parts, x: np.ndarray) -> np.ndarray:
    """The CTC head's log-probabilities (T', V)."""
    return _valid(parts.ctc(*_batch_of(x)))


def _batch_of(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x[None], np.array([len(x)])


def _valid(outputs: Sequence[np.ndarray]) -> np.ndarray:
    """The valid frames (T', C) of one recording."""
    frames, lens = outputs
    return frames[0, : int(lens[0])]


def _on_arrays(function: Callable[..., Sequence[Tensor]]) -> Graph:
    """A function of tensors as one of arrays."""

    @torch.inference_mode()
    def on_arrays(*inputs: np.ndarray) -> list[np.ndarray]:
        return [output.numpy() for output in function(*map(torch.from_numpy, inputs))]

    return on_arrays
