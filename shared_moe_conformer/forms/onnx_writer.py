"""Torch modules as ONNX files."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

OPSET = 17


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
