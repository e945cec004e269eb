"""Names of a model's ONNX files, and their graphs in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

ENCODER, DECODER, JOINER, CTC = "encoder.onnx", "decoder.onnx", "joiner.onnx", "ctc.onnx"
SHRUNK = (ENCODER, CTC)
"""Files of which there are float16 and int8 versions; decoder and joiner are small, and their errors go into logits."""
Graph = Callable[..., list[np.ndarray]]
"""Outputs of inputs, both by order."""


def int8_name(name: str) -> str:
    """`encoder.int8.onnx` of `encoder.onnx`, as sherpa-onnx's own models are called."""
    return name.replace(".onnx", ".int8.onnx")


def fp16_name(name: str) -> str:
    """`encoder.fp16.onnx` of `encoder.onnx`, as sherpa-onnx's own models are called."""
    return name.replace(".onnx", ".fp16.onnx")


def load_graph(path: Path) -> Graph:
    """A graph in onnxruntime, on one CPU thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))
