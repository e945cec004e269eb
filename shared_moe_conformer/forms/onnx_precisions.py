"""ONNX files with smaller numbers: int8 and float16, the routers excepted, since they choose the experts.

In int8 are weights of feed-forwards and experts, which are most of a model. Which of them, was chosen on asterisk's dev
set (`compare_forms --int8-choices`).
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

FEED_FORWARD_PRODUCTS = ("dense hidden", "dense output", "expert hidden", "expert output")
"""The matrix products of feed-forwards without experts and of those with them, by what they compute."""
INT8_PRODUCTS = FEED_FORWARD_PRODUCTS
"""Those that are computed in int8: of asterisk's, the smallest file within half a point of float32's WER on dev."""


def quantise(source: Path, target: Path, products: Collection[str] = INT8_PRODUCTS) -> None:
    """Write a graph with the weights of these of its feed-forward products in int8."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / source.name
        # its optimisation would rename the routers' products
        quant_pre_process(source, prepared, skip_optimization=True, skip_symbolic_shape=True)
        quantize_dynamic(
            prepared,
            target,
            op_types_to_quantize=["MatMul"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            nodes_to_quantize=feed_forward_products(onnx.load(source).graph, products),
        )
    _save_lean(onnx.load(target), target)


def halve(source: Path, target: Path) -> None:
    """Write a graph that stores and computes in float16, its inputs and outputs and the routers' products excepted."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    graph = onnx.shape_inference.infer_shapes(onnx.load(source))
    routers = router_products(graph.graph)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tiny weights that become 0
        half = convert_float_to_float16(graph, keep_io_types=True, disable_shape_infer=True, node_block_list=routers)
    _save_lean(half, target)


def router_products(graph: Any) -> list[str]:
    """Names of the matrix products whose softmax, the only one of a feed-forward, ranks the experts."""
    producer = {output: node for node in graph.node for output in node.output}
    products = []
    for softmax in (node for node in graph.node if node.op_type == "Softmax" and "/feed_forward" in node.name):
        node = producer[softmax.input[0]]
        while node.op_type == "Transpose":
            node = producer[node.input[0]]
        products.append(node.name)
    return products


def feed_forward_products(graph: Any, products: Collection[str] = FEED_FORWARD_PRODUCTS) -> list[str]:
    """Names of these matrix products of feed-forwards and experts, which the exporter calls after their modules."""
    routers = router_products(graph)
    found = [node for node in graph.node if node.op_type == "MatMul" and "/feed_forward" in node.name]
    return [node.name for node in found if node.name not in routers and _product(node) in products]


def _product(node: Any) -> str:
    """Which of `FEED_FORWARD_PRODUCTS` a node is: experts' weights are named, dense products after their modules."""
    weight = node.input[1]
    if "_weights." in weight:
        return "expert hidden" if "hidden_weights." in weight else "expert output"
    return "dense hidden" if "/hidden" in node.name else "dense output"


def _save_lean(model: Any, target: Path) -> None:
    """Write a graph without what nobody reads: onnxruntime's tools leave float32 copies of weights that several layers
    use, and the shapes that they inferred."""
    import onnx

    graph = model.graph
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    assert not any(attribute.HasField("g") for node in graph.node for attribute in node.attribute), "graphs in nodes"
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(kept)
    onnx.save(model, target)
