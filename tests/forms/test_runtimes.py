from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.forms.runtimes import (
    ctc_log_probs,
    fp16_name,
    greedy_ctc,
    greedy_transducer,
    int8_name,
    load_graph,
    torch_parts,
    transducer_logits,
)
from shared_moe_conformer.model.asr_model import AsrModel


def test_greedy_searches_find_what_the_packages_own_find(tiny_bundle: Bundle, tones: np.ndarray) -> None:
    parts, start = torch_parts(tiny_bundle.model), tiny_bundle.model.decoder.start_context
    for samples in (tones, tones[::-1].copy(), tones[:1500]):
        x = tiny_bundle.features(samples, 16000).numpy()
        for method, tokens in (
            ("greedy_search", greedy_transducer(parts, x, start)[0]),
            ("ctc_greedy_search", greedy_ctc(parts, x)),
        ):
            decoding = DecodingConfig(decoding_method=method)  # type: ignore[arg-type]
            expected = tiny_bundle.transcribe(samples, sampling_rate=16000, decoding=decoding)
            assert [tiny_bundle.tokenizer.pieces[token] for token in tokens] == expected.tokens


def test_each_frame_has_the_tokens_before_it_as_its_context(tiny_bundle: Bundle, tones: np.ndarray) -> None:
    parts, start = torch_parts(tiny_bundle.model), tiny_bundle.model.decoder.start_context
    x = tiny_bundle.features(tones, 16000).numpy()
    tokens, contexts = greedy_transducer(parts, x, start)
    best = transducer_logits(parts, x, contexts).argmax(axis=1)
    assert best[best > 0].tolist() == tokens
    assert contexts[0].tolist() == start
    for before, token, after in zip(contexts, best, contexts[1:]):
        assert after.tolist() == ([*before[1:], token] if token else before.tolist())


def test_logits_of_another_model_differ(tiny_bundle: Bundle, tones: np.ndarray) -> None:
    torch.manual_seed(1)
    own, other = torch_parts(tiny_bundle.model), torch_parts(AsrModel(tiny_bundle.config.model).eval())
    x = tiny_bundle.features(tones, 16000).numpy()
    _, contexts = greedy_transducer(own, x, tiny_bundle.model.decoder.start_context)
    assert np.abs(transducer_logits(own, x, contexts) - transducer_logits(other, x, contexts)).max() > 0.1
    assert np.abs(ctc_log_probs(own, x) - ctc_log_probs(other, x)).max() > 0.1
    assert np.exp(ctc_log_probs(own, x)).sum(axis=1) == pytest.approx(1, abs=1e-4)


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
