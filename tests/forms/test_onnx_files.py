from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shared_moe_conformer.forms.onnx_files import fp16_name, int8_name, load_graph


def test_smaller_versions_are_named_after_the_file() -> None:
    assert int8_name("encoder.onnx") == "encoder.int8.onnx"
    assert fp16_name("ctc.onnx") == "ctc.fp16.onnx"


def test_a_graph_takes_its_inputs_by_order(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    kinds = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "abc"]
    node = onnx.helper.make_node("Sub", ["a", "b"], ["c"])
    graph = onnx.helper.make_graph([node], "difference", kinds[:2], kinds[2:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "x.onnx")
    (found,) = load_graph(tmp_path / "x.onnx")(np.float32([5, 7]), np.float32([1, 2]))
    assert found.tolist() == [4, 5]
