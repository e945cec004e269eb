from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shared_moe_conformer.config import replace_fields
from shared_moe_conformer.forms.onnx_folder import halve, quantise
from shared_moe_conformer.forms.onnx_graphs import (
    DecoderGraph,
    ExportableMoe,
    UtteranceGraph,
    exportable_encoder,
    heads_of,
    long_enough,
    write_graph,
)
from shared_moe_conformer.forms.runtimes import load_graph
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.frames import Frames
from shared_moe_conformer.model.moe import Router
from tests.conftest import TINY
from tests.experts import WITH_ALL, make_moe

BATCHES = [[7], [8], [33], [50, 31, 7], [60, 3], [301]]
"""Feature frames of each utterance; 3 are too few for an encoder frame."""


def make_model(**options: Any) -> AsrModel:
    """A model whose parts that begin at 0 are not."""
    torch.manual_seed(0)
    model = AsrModel(replace_fields(TINY.model, options)).eval()
    for name, value in model.state_dict().items():
        if name.endswith((".up", ".balancing_bias")):
            value.normal_(std=0.3)
    return model


def make_batch(lens: list[int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(lens))
    return torch.randn(len(lens), max(lens), 80, generator=generator) * 3, torch.tensor(lens)


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_k": 2}, {"top_k": 3}, WITH_ALL], ids=str)
def test_exportable_experts_compute_what_the_experts_do(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    moe, router = make_moe(6, 10, num_experts=3, **options), Router(6, 3)
    x, frames = torch.randn(3, 9, 6), Frames(torch.tensor([9, 4, 0]), 9, head_dim=2)
    expected, _ = moe(x, frames, router)
    found, _ = ExportableMoe(moe)(x, frames, router)
    torch.testing.assert_close(found, expected)


def test_exportable_experts_are_chosen_with_the_balancing_bias() -> None:
    torch.manual_seed(0)
    moe, router = make_moe(6, 10, num_experts=3, top_k=1), Router(6, 3, balancing_bias_rate=1.0)
    x, frames = torch.randn(3, 9, 6), Frames(torch.tensor([9, 4, 0]), 9, head_dim=2)
    unbiased, _ = moe(x, frames, router)
    router.balance(torch.tensor([9.0, 1.0, 1.0]))
    expected, _ = moe(x, frames, router)
    assert not torch.allclose(expected, unbiased)
    torch.testing.assert_close(ExportableMoe(moe)(x, frames, router)[0], expected)


def test_experts_without_frames_are_no_trouble() -> None:
    torch.manual_seed(0)
    moe, router = make_moe(6, 10, num_experts=3, top_k=1), Router(6, 3)
    nn.init.zeros_(router.linear.weight)
    x, frames = torch.randn(1, 5, 6), Frames(torch.tensor([5]), 5, head_dim=2)
    torch.testing.assert_close(ExportableMoe(moe)(x, frames, router)[0], moe(x, frames, router)[0])


def test_each_frame_meets_only_its_own_experts() -> None:
    """The first matrix product of every expert, counted: M frames times K experts, not M times E."""
    torch.manual_seed(0)
    moe, router = ExportableMoe(make_moe(6, 10, num_experts=4, top_k=2)), Router(6, 4)
    rows: list[int] = []
    silu = torch.nn.functional.silu

    def counting(x: Tensor) -> Tensor:
        rows.append(len(x))
        return silu(x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "silu", counting)
        moe(torch.randn(2, 9, 6), Frames(torch.tensor([9, 4]), 9, head_dim=2), router)
    assert len(rows) == 4
    assert sum(rows) == (9 + 4) * 2


def test_the_model_itself_is_left_as_it_was() -> None:
    model = make_model()
    names = list(model.state_dict())
    exportable_encoder(model.encoder)
    assert list(model.state_dict()) == names


def run_graph(path: Path, *inputs: Tensor) -> list[np.ndarray]:
    return load_graph(path)(*(value.numpy() for value in inputs))


def write(module: nn.Module, inputs: tuple[Tensor, ...], outputs: int, path: Path) -> None:
    axes = {0: "N", 1: "T"}
    named = {f"in{i}": value for i, value in enumerate(inputs)}
    write_graph(
        module,
        named,
        {f"out{i}": axes if i == 0 else {0: "N"} for i in range(outputs)},
        {name: {k: v for k, v in axes.items() if k < value.dim()} for name, value in named.items()},
        path,
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"low_rank_delta": 2, "balancing_bias_rate": 0.1},
        {"experts_in": "none", "merged_sets": 3, "merge_gates": "network", "loudness_norm": True},
        pytest.param({"group_sizes": (4,), "pattern": "ABBA", "mixing_pattern": "ABCC"}, marks=pytest.mark.slow),
        pytest.param({"experts_in": "none"}, marks=pytest.mark.slow),
        {"experts_in": "both", **WITH_ALL},
        pytest.param({"experts_in": "first", "individual_routers": False}, marks=pytest.mark.slow),
        pytest.param({"conv_norm": "layer_norm", "individual_norms": False}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_onnxruntime_agrees_with_torch_at_every_size(options: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = make_model(**options)
    graphs = {name: UtteranceGraph(model, head) for name, head in zip(("encoder", "ctc"), heads_of(model).values())}
    for name, graph in graphs.items():
        write(graph, make_batch([100, 60]), 2, tmp_path / name)
    for lens in BATCHES:
        x, x_lens = make_batch(lens)
        with torch.inference_mode():
            encoder_out, out_lens, _ = model.encode(x, long_enough(x_lens))
            expected = {
                "encoder": model.joiner.encoder_projection(encoder_out),
                "ctc": model.ctc_log_probs(encoder_out),
            }
        for name in graphs:
            found, found_lens = run_graph(tmp_path / name, x, x_lens)
            assert found_lens.tolist() == out_lens.tolist()
            for row, wanted, length in zip(found, expected[name], out_lens.tolist()):
                np.testing.assert_allclose(row[:length], wanted[:length].numpy(), atol=2e-5)


def test_the_scale_of_features_is_the_models_to_the_last_bit(tmp_path: Path) -> None:
    """int8 turns a last bit into another text, and the exporter's own last bits depend on the code that computes."""
    onnx = pytest.importorskip("onnx")
    model = make_model()
    model.encoder.feature_norm.variance.uniform_(5, 50)
    write(UtteranceGraph(model, model.joiner.encoder_projection), make_batch([100, 60]), 2, tmp_path / "encoder")
    stored = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "encoder").graph.initializer]
    assert any(np.array_equal(tensor, model.encoder.feature_norm.scale().numpy()) for tensor in stored)


def test_decoder_takes_the_context_of_an_empty_hypothesis(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = make_model()
    write(DecoderGraph(model.decoder, model.joiner), (torch.zeros(2, 2, dtype=torch.int64),), 1, tmp_path / "decoder")
    contexts = torch.tensor([[-1, 0], [0, 5], [5, 7]])
    (found,) = run_graph(tmp_path / "decoder", contexts)
    with torch.inference_mode():
        expected = model.joiner.decoder_projection(model.decoder.step(contexts))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


def test_shared_weights_are_stored_once(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    sizes = {}
    for depth in (1, 4):
        model = make_model(
            group_sizes=(depth,),
            experts_in="both",
            individual_norms=False,
            individual_routers=False,
            conv_norm="layer_norm",
        )
        write(UtteranceGraph(model, model.joiner.encoder_projection), make_batch([100, 60]), 2, tmp_path / "encoder")
        graph = onnx.load(tmp_path / "encoder").graph
        sizes[depth] = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer if len(tensor.dims) > 1)
    assert sizes[1] == sizes[4]


def test_merged_sets_are_stored_once_and_the_runtime_folds_them(tmp_path: Path) -> None:
    """A product for each linear map of each layer is left, as with dense layers."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    products, stored = [], []
    for merged_sets in (1, 3):
        model = make_model(group_sizes=(4,), experts_in="none", merged_sets=merged_sets)
        write(UtteranceGraph(model, model.joiner.encoder_projection), make_batch([100, 60]), 2, tmp_path / "encoder")
        initializers = onnx.load(tmp_path / "encoder").graph.initializer
        stored.append(sum(int(np.prod(tensor.dims)) for tensor in initializers))
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "folded")
        onnxruntime.InferenceSession(tmp_path / "encoder", options)
        nodes = onnx.load(tmp_path / "folded").graph.node
        products.append(sum("MatMul" in node.op_type or node.op_type in ("Gemm", "FusedMatMul") for node in nodes))
    sets = sum(p.numel() for p in model.encoder.block_groups()[0].block.parameters())
    assert products[0] == products[1]
    assert stored[1] - stored[0] == pytest.approx(sets * 2 / 3, rel=0.05)


def test_merged_sets_are_stored_in_int8_and_the_runtime_folds_them(tmp_path: Path) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    model = make_model(group_sizes=(4,), experts_in="none", merged_sets=3)
    batch = make_batch([100, 60])
    write(UtteranceGraph(model, model.joiner.encoder_projection), batch, 2, tmp_path / "whole")
    quantise(tmp_path / "whole", tmp_path / "int8")
    sets = [p.numel() for name, p in model.encoder.named_parameters() if ".sets." in name and p.dim() > 1]
    stored = [t for t in onnx.load(tmp_path / "int8").graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert sum(int(np.prod(tensor.dims)) for tensor in stored) == sum(sets)
    whole, small = (run_graph(tmp_path / name, *batch)[0] for name in ("whole", "int8"))
    assert 0 < np.abs(whole - small).max() < 0.05 * np.abs(whole).max()
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "folded")
    onnxruntime.InferenceSession(tmp_path / "int8", options)
    assert not [t for t in onnx.load(tmp_path / "folded").graph.initializer if t.data_type == onnx.TensorProto.INT8]


@pytest.mark.parametrize("options", [{"merge_gates": "network"}, {"mixing_pattern": "AABB"}], ids=["network", "mixers"])
def test_merged_sets_are_stored_in_float16_and_no_run_merges_them(
    tmp_path: Path, capfd: pytest.CaptureFixture, options: dict[str, Any]
) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    model = make_model(group_sizes=(4,), experts_in="none", merged_sets=3, **options)
    batch = make_batch([100, 60])
    write(UtteranceGraph(model, model.joiner.encoder_projection), batch, 2, tmp_path / "whole")
    halve(tmp_path / "whole", tmp_path / "half")
    stored = [t for t in onnx.load(tmp_path / "half").graph.initializer if ".sets." in t.name and len(t.dims) > 1]
    assert stored and {t.data_type for t in stored} == {onnx.TensorProto.FLOAT16}
    whole, half = (run_graph(tmp_path / name, *batch)[0] for name in ("whole", "half"))
    assert 0 < np.abs(whole - half).max() < 0.005 * np.abs(whole).max()
    counts = []
    for name in ("whole", "half"):
        session = onnxruntime.SessionOptions()
        session.optimized_model_filepath = str(tmp_path / "folded")
        onnxruntime.InferenceSession(tmp_path / name, session)
        counts.append([node.op_type for node in onnx.load(tmp_path / "folded").graph.node].count("Mul"))
    assert counts[0] == counts[1]
    assert "Could not find a CPU kernel" not in capfd.readouterr().err


@pytest.mark.slow
def test_experts_cost_about_as_much_as_one_feed_forward_in_onnxruntime(tmp_path: Path) -> None:
    """Computing all 8 experts for every frame would cost 7 to 10 times one; medians of CPU time, T' = 500."""
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(256, 1024), nn.SiLU(), nn.Linear(1024, 256))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.moe = ExportableMoe(make_moe(256, 1024, num_experts=8, top_k=1))
            self.router = Router(256, 8)

        def forward(self, x: Tensor) -> Tensor:
            lens = torch.ones_like(x[:, :, 0]).sum(dim=1).long()  # a traced graph keeps lengths free
            return self.moe(x, Frames(lens, x.size(1), head_dim=2), self.router)[0]

    sessions: dict[str, Any] = {}
    seconds: dict[str, list[float]] = {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for name, module in (("dense", Dense()), ("sparse", Sparse())):
        write(module, (torch.zeros(1, 20, 256),), 1, tmp_path / name)
        sessions[name] = onnxruntime.InferenceSession(str(tmp_path / name), options)
        seconds[name] = []
    x = torch.randn(1, 500, 256).numpy()
    for _ in range(30):
        for name, session in sessions.items():
            begin = time.process_time()
            session.run(None, {"in0": x})
            seconds[name].append(time.process_time() - begin)
    ratio = np.median(seconds["sparse"]) / np.median(seconds["dense"])
    print(f"experts / dense feed-forward: {ratio:.2f}")
    assert ratio < 2, "1.3 on an idle machine"
