from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from shared_moe_conformer.config import Chunking, EncoderConfig, replace_fields  # noqa: E402
from shared_moe_conformer.forms.chunk_graphs import (  # noqa: E402
    STREAM_FIRST,
    first_states,
    metadata,
    num_features,
    write_chunk_graphs,
)
from shared_moe_conformer.forms.runtimes import CTC, ENCODER, load_graph  # noqa: E402
from shared_moe_conformer.model.asr_model import AsrModel  # noqa: E402
from tests.conftest import TINY  # noqa: E402

CONFIGS = [
    {"experts_in": "both", "top_k": 2, "balancing_bias_rate": 0.1},
    {"experts_in": "none", "merged_sets": 2, "conv_norm": "layer_norm", "individual_norms": False},
    {"group_sizes": (3,), "pattern": "ABA", "mixing_pattern": "ABC", "low_rank_delta": 2, "encoder_dim": 12},
]


def make_model(**options: Any) -> AsrModel:
    """A model whose parts that begin at 0 are not."""
    torch.manual_seed(0)
    model = AsrModel(replace_fields(TINY.model, options)).eval()
    for name, value in model.state_dict().items():
        if name.endswith((".up", ".balancing_bias", "running_mean")):
            value.normal_(std=0.3)
    return model


def joined(*streams: list[np.ndarray], names: list[str]) -> list[np.ndarray]:
    """The states of streams as those of one batch, as sherpa-onnx puts them together."""
    axes = [0 if name.startswith(STREAM_FIRST) else 1 for name in names]
    return [np.concatenate(parts, axis=axis) for axis, *parts in zip(axes, *streams, strict=True)]


@pytest.mark.parametrize(
    ("options", "chunking"),
    zip(CONFIGS, [Chunking(3, 5), Chunking(1, 2), Chunking(3, 5)]),
    ids=["experts", "merged", "patterns"],
)
def test_chunk_after_chunk_is_the_model_with_a_mask(
    options: dict[str, Any], chunking: Chunking, tmp_path: Path
) -> None:
    """Also of a stream that begins two chunks later than its batch-mate."""
    model = make_model(**options)
    write_chunk_graphs(model, chunking, tmp_path)
    size, step = num_features(chunking), 4 * chunking.chunk_size
    x = torch.randn(2, 4 * step + size, 80, generator=torch.Generator().manual_seed(1)) * 3
    with torch.no_grad():
        encoder_out = model.encode(x, torch.tensor([x.size(1)] * 2), chunking).encoder_out
        expected = {ENCODER: model.joiner.encoder_projection(encoder_out), CTC: model.ctc_log_probs(encoder_out)}
    names = list(first_states(model.config.encoder, chunking, 1))
    chunks = [x[:, begin : begin + size].numpy() for begin in range(0, x.size(1) - size + 1, step)]
    for file, whole in expected.items():
        graph, found = load_graph(tmp_path / file), []
        fresh = [state.numpy() for state in first_states(model.config.encoder, chunking, 1).values()]
        states = fresh
        for chunk in chunks[:2]:
            part, *states = graph(chunk[:1], *states)
            found.append(part[0])
        states = joined(states, fresh, names=names)
        for first, second in zip(chunks[2:], chunks):
            part, *states = graph(np.stack([first[0], second[1]]), *states)
            found.append(part[0])
        np.testing.assert_allclose(np.concatenate(found), whole[0].numpy(), rtol=1e-4, atol=1e-4)
        last = (len(chunks) - 3) * chunking.chunk_size
        np.testing.assert_allclose(part[1], whole[1, last:][: chunking.chunk_size].numpy(), rtol=1e-4, atol=1e-4)
        assert states[-1].tolist() == [len(chunks) * chunking.chunk_size, (len(chunks) - 2) * chunking.chunk_size]


@pytest.mark.parametrize("encoder_dim", [256, 12])
def test_first_states_are_those_that_sherpa_makes_from_the_metadata(encoder_dim: int) -> None:
    """The sizes of OnlineZipformer2TransducerModel::GetEncoderInitStates."""
    config, chunking = EncoderConfig(encoder_dim=encoder_dim, num_attention_heads=2, group_sizes=(2,)), Chunking(16, 64)
    read: dict[str, Any] = metadata(config, chunking)
    dim, left, kernel = read["encoder_dims"], read["left_context_len"], read["cnn_module_kernels"]
    keys, values = (read["num_heads"] * read[f"{name}_head_dims"] for name in ("query", "value"))
    layer = [(left, 3, keys), (1, 3, left, 3 * dim // 4), *[(left, 3, values)] * 2, *[(3, dim, kernel // 2)] * 2]
    expected = [*layer * read["num_encoder_layers"], (3, 128, 3, 19), (3,)]
    assert [tuple(state.shape) for state in first_states(config, chunking, 3).values()] == expected
    assert (read["T"], read["decode_chunk_len"]) == (67, 64)
