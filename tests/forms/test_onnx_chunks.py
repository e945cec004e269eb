from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx  # noqa: E402

from shared_moe_conformer.bundle import Bundle  # noqa: E402
from shared_moe_conformer.config import (  # noqa: E402
    ENCODER_FRAME_SHIFT,
    Chunking,
    EncoderConfig,
    FeatureConfig,
    replace_fields,
)
from shared_moe_conformer.decoding.ctc import CtcGreedySearch  # noqa: E402
from shared_moe_conformer.decoding.greedy import GreedySearch  # noqa: E402
from shared_moe_conformer.forms import runtimes  # noqa: E402
from shared_moe_conformer.forms.onnx_chunks import (  # noqa: E402
    STREAM_FIRST,
    first_states,
    in_chunks,
    metadata,
    num_features,
    tail_seconds,
    whole_chunks,
    write_chunk_graphs,
)
from shared_moe_conformer.forms.runtimes import CTC, ENCODER, Graph, int8_name, load_graph  # noqa: E402
from shared_moe_conformer.forms.sherpa_folder import (  # noqa: E402
    CTC_MODEL,
    StreamingForm,
    refuse_other_features,
    trained_in_chunks,
    write_onnx_streaming,
)
from shared_moe_conformer.model.asr_model import AsrModel  # noqa: E402
from tests.conftest import TINY  # noqa: E402
from tests.experts import WITH_ALL  # noqa: E402
from tests.forms.conftest import RunSherpa  # noqa: E402

CONFIGS = [
    {"experts_in": "both", **WITH_ALL, "balancing_bias_rate": 0.1},
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


IN_CHUNKS = (ENCODER, CTC_MODEL)
FORM = StreamingForm(chunk_size=8, left_context_frames=16)

SHERPA = """
import json, sys, numpy, sherpa_onnx, soundfile
folder, kind, tail, *paths = sys.argv[1:]
if kind == "transducer":
    recogniser = sherpa_onnx.OnlineRecognizer.from_transducer(
        encoder=f"{folder}/encoder.onnx", decoder=f"{folder}/decoder.onnx", joiner=f"{folder}/joiner.onnx",
        tokens=f"{folder}/tokens.txt", num_threads=1)
else:
    recogniser = sherpa_onnx.OnlineRecognizer.from_zipformer2_ctc(
        model=f"{folder}/model.onnx", tokens=f"{folder}/tokens.txt", num_threads=1)
streams = [recogniser.create_stream() for _ in paths]
recordings = [soundfile.read(path, dtype="float32")[0] for path in paths]
silence = numpy.zeros(round(float(tail) * 16000), "float32")
recordings = [numpy.concatenate([samples, silence]) for samples in recordings]
batch_sizes = set()
for time in range(0, max(map(len, recordings)) + 6000 * len(paths), 4000):
    for number, (stream, samples) in enumerate(zip(streams, recordings)):
        begin = time - 4000 * number  # the second stream begins a portion later, and so on
        if 0 <= begin < len(samples):
            stream.accept_waveform(16000, samples[begin : begin + 4000])
            if begin + 4000 >= len(samples):
                stream.input_finished()
    while ready := [stream for stream in streams if recogniser.is_ready(stream)]:
        batch_sizes.add(len(ready))
        recogniser.decode_streams(ready)
found = [json.loads(recogniser.get_result_as_json_string(stream)) for stream in streams]
results = [{"tokens": result["tokens"], "times": result["timestamps"]} for result in found]
fresh = recogniser.create_stream()
fresh.accept_waveform(16000, silence)
found = {"results": results, "batch_sizes": sorted(batch_sizes), "silence_is_a_chunk": recogniser.is_ready(fresh)}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def exported(bundle_folder: Path) -> Path:
    folder = bundle_folder.with_name("tiny-online")
    differences = write_onnx_streaming(bundle_folder, folder, streaming=FORM)
    assert differences.keys() == {"encoder.onnx", "model.onnx", "decoder.onnx", "joiner.onnx"}
    assert max(differences.values()) < 5e-4
    return folder


@pytest.fixture
def recognise(run_sherpa: RunSherpa, exported: Path, recordings: list[Path]) -> Callable[..., dict[str, Any]]:
    """What sherpa-onnx recognises in the recordings, given a quarter of a second at a time."""

    def recognise(*, kind: str, tail: float) -> dict[str, Any]:
        found = run_sherpa(SHERPA, exported, kind, tail, *recordings).splitlines()[-1]
        return json.loads(found)  # type: ignore[no-any-return]

    return recognise


def run_torch(bundle: Bundle, path: Path, chunking: Chunking, *, kind: str) -> tuple[list[str], list[int]]:
    """Tokens and frames of greedy search over all frames at once; no frame sees beyond its chunk."""
    x = torch.from_numpy(whole_chunks(bundle, path, chunking))[None]
    search = GreedySearch(bundle.model) if kind == "transducer" else CtcGreedySearch(bundle.model)
    with torch.inference_mode():
        output = bundle.model.encode(x, torch.tensor([x.size(1)]), chunking)
        state: Any = search.advance(search.start(1), output.encoder_out, output.encoder_out_lens)  # type: ignore[arg-type]
        (found,) = search.finish(state)
    return [bundle.tokenizer.pieces[token] for token in found.tokens], found.frames


@pytest.mark.parametrize("kind", ["transducer", "ctc"])
def test_sherpa_onnx_finds_the_same_tokens_at_the_same_times(
    recognise: Callable[..., dict[str, Any]], recordings: list[Path], tiny_bundle: Bundle, kind: str
) -> None:
    """Several streams run at once, and some end before others."""
    found = recognise(kind=kind, tail=tail_seconds(FORM.chunking))
    assert {1, 2, 3} <= {*found["batch_sizes"]}
    for path, result in zip(recordings, found["results"], strict=True):
        tokens, frames = run_torch(tiny_bundle, path, FORM.chunking, kind=kind)
        assert tokens
        assert [token.replace(" ", "▁") for token in result["tokens"]] == tokens
        np.testing.assert_allclose(result["times"], np.multiply(frames, ENCODER_FRAME_SHIFT), atol=1e-3)


def test_a_chunk_gets_what_the_last_one_remembered(exported: Path, tiny_bundle: Bundle, recordings: list[Path]) -> None:
    """Each thing that it remembers matters: keys, values, convolved frames and the number of frames before."""
    chunking, config = FORM.chunking, tiny_bundle.config.model.encoder
    utterances = [whole_chunks(tiny_bundle, path, chunking) for path in recordings[:2]]
    assert len(utterances[0]) == len(utterances[1]) == 32 * 6 + 35
    x = np.stack(utterances)
    with torch.inference_mode():
        output = tiny_bundle.model.encode(torch.from_numpy(x), torch.tensor([x.shape[1]] * 2), chunking)
        expected = tiny_bundle.model.joiner.encoder_projection(output.encoder_out).numpy()
    graph, names = load_graph(exported / ENCODER), list(first_states(config, chunking, 2))
    states = [state.numpy() for state in first_states(config, chunking, 2).values()]
    for begin in range(7):
        found, *following = graph(x[:, 32 * begin : 32 * begin + 35], *states)
        np.testing.assert_allclose(found, expected[:, 8 * begin : 8 * begin + 8], atol=1e-5)
        for kind in ("cached_key", "cached_val1", "cached_val2", "cached_conv1", "cached_conv2", "processed_lens"):
            forgetful = [state * (not name.startswith(kind)) for name, state in zip(names, states, strict=True)]
            differs = np.abs(graph(x[:, 32 * begin : 32 * begin + 35], *forgetful)[0] - found).max() > 1e-3
            assert differs == (begin > 0), kind
        states = following
    assert states[-1].tolist() == [56, 56]


def test_silence_brings_the_last_words_out(recognise: Callable[..., dict[str, Any]]) -> None:
    """The tail is the least silence that is a chunk by itself; without it tokens are missing at the end."""
    tail = tail_seconds(FORM.chunking)
    assert tail == 0.37
    whole, short, none = (recognise(kind="ctc", tail=t) for t in (tail, tail - 0.01, 0.0))
    assert (whole["silence_is_a_chunk"], short["silence_is_a_chunk"]) == (True, False)
    pairs = [(a["tokens"], b["tokens"]) for a, b in zip(none["results"], whole["results"], strict=True)]
    assert all(tokens == all_tokens[: len(tokens)] for tokens, all_tokens in pairs)
    assert any(len(tokens) < len(all_tokens) for tokens, all_tokens in pairs)


def test_folder_has_the_layout_of_sherpas_own(exported: Path) -> None:
    names = {*IN_CHUNKS, *map(int8_name, IN_CHUNKS), "decoder.onnx", "joiner.onnx"}
    names |= {"tokens.txt", "bpe.model", "README.md", "test_wavs"}
    assert {path.name for path in exported.iterdir()} == names
    assert (exported / "test_wavs/trans.txt").read_text() == "0.wav ONE TWO\n"


def test_small_graphs_hardly_differ(exported: Path, tiny_bundle: Bundle) -> None:
    chunking, config = FORM.chunking, tiny_bundle.config.model.encoder
    x = whole_chunks(tiny_bundle, exported / "test_wavs/0.wav", chunking)[None]
    graphs = [in_chunks(load_graph(exported / file), config, chunking) for file in (ENCODER, int8_name(ENCODER))]
    full, small = (graph(x, np.array([x.shape[1]]))[0] for graph in graphs)
    assert 0 < np.abs(full - small).mean() < 0.2
    for name in IN_CHUNKS:
        quantised = [n for n in onnx.load(exported / int8_name(name)).graph.node if n.op_type == "MatMulInteger"]
        assert len(quantised) == config.num_layers * 2 * (1 + config.num_experts)


def test_metadata_is_what_sherpa_reads(exported: Path) -> None:
    for name in IN_CHUNKS:
        for path in (exported / name, exported / int8_name(name)):
            values = {p.key: p.value for p in onnx.load(path).metadata_props}
            assert (values["model_type"], values["T"], values["decode_chunk_len"]) == ("zipformer2", "35", "32")
            assert (values["left_context_len"], values["num_encoder_layers"]) == ("16", "3")
            assert "CC-BY-SA-3.0" in values["comment"]


def test_the_program_in_the_card_recognises_the_test_wav(exported: Path, run_sherpa: RunSherpa) -> None:
    card = (exported / "README.md").read_text()
    assert "| silence to add at the end | 0.37 s |" in card
    assert "It was never trained in chunks" in card
    (program,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    partial = run_sherpa(program.replace(".int8", ""), cwd=exported).splitlines()
    assert len(partial) == 7
    (found,) = re.findall(r"in float32\s+finds:\s+\*(.+)\*", card)
    assert "".join(partial[-1].split()) == "".join(found.split())


def test_what_cannot_stream_is_refused(bundle_folder: Path, tmp_path: Path, tiny_bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="chunk_size is 0: give 1 or more"):
        StreamingForm(chunk_size=0)
    with pytest.raises(ValueError, match="left_context_frames is 0: give 1 or more"):
        StreamingForm(left_context_frames=0)
    with pytest.raises(ValueError, match="80 mel bins at 16000 Hz, and this model's have 40 at 8000 Hz: write"):
        refuse_other_features(FeatureConfig(sampling_rate=8000, num_mel_bins=40))
    with pytest.raises(FileNotFoundError, match="no released model in"):
        write_onnx_streaming(tmp_path, tmp_path / "online")


def test_the_card_says_what_the_model_was_trained_with() -> None:
    trained = trained_in_chunks(EncoderConfig(chunk_sizes=(0, 0, 8, 16), left_contexts=(64, 0)))
    told = "on whole utterances and in chunks of 8, 16 encoder frames, with left contexts of 64, all frames."
    assert trained == f"It was trained {told}"
    assert "never trained in chunks" in trained_in_chunks(EncoderConfig(chunk_sizes=(0,)))


def test_a_graph_that_differs_from_the_model_is_not_written(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the graph forgets its streams."""

    def forgetful(path: Path) -> Graph:
        graph = load_graph(path)
        return lambda *inputs: [graph(*inputs)[0], *inputs[1:]]

    monkeypatch.setattr(runtimes, "load_graph", forgetful)
    with pytest.raises(ValueError, match=r"encoder\.onnx differs from the model by .*: not written"):
        write_onnx_streaming(bundle_folder, tmp_path / "online", streaming=FORM)
    assert not list(tmp_path.iterdir())
