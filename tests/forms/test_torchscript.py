from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import Chunking, replace_fields
from shared_moe_conformer.data.features import compute_features
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.forms import torchscript
from shared_moe_conformer.forms.onnx_graphs import DecoderGraph, UtteranceGraph, heads_of
from shared_moe_conformer.forms.torchscript import write_torchscript
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.release.manifest import ExampleRecording
from shared_moe_conformer.release.zoo_index import verify_sums
from shared_moe_conformer.streaming import EndpointRules
from tests.conftest import TINY
from tests.experts import WITH_ALL

Save = Callable[..., Path]

RUN_GRAPHS = """
import sys, torch
folder, samples, inputs, outputs = sys.argv[1:]
x, x_lens = torch.load(inputs)
with torch.no_grad():
    samples = torch.load(samples)
    found = {"features": torch.jit.load(f"{folder}/features.pt")(samples[None])}
    found |= {name: torch.jit.load(f"{folder}/{name}.pt")(x, x_lens) for name in ("encoder", "ctc")}
    context = torch.tensor([[-1, 0], [3, 4]])
    found["decoder"] = torch.jit.load(f"{folder}/decoder.pt")(context)
    found["joiner"] = torch.jit.load(f"{folder}/joiner.pt")(found["encoder"][0][:, 0], found["decoder"])
assert "shared_moe_conformer" not in sys.modules
torch.save(found, outputs)
"""


def test_torchscript_needs_torch_alone_and_gives_the_models_numbers(
    saved: Save, tiny_bundle: Bundle, tones: np.ndarray, tmp_path: Path
) -> None:
    write_torchscript(saved(), tmp_path / "graphs")
    verify_sums(
        tmp_path / "graphs", required=["features.pt", "encoder.pt", "decoder.pt", "joiner.pt", "ctc.pt", "tokens.txt"]
    )
    features = [tiny_bundle.features(part, 16000) for part in (tones, tones[:16000])]
    x = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
    x_lens = torch.tensor([len(part) for part in features])
    torch.save(torch.from_numpy(tones[:16321]), tmp_path / "samples")
    torch.save((x, x_lens), tmp_path / "inputs")
    files = [tmp_path / name for name in ("graphs", "samples", "inputs", "outputs")]
    command = [sys.executable, "-c", RUN_GRAPHS, *files]
    result = subprocess.run([str(part) for part in command], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = torch.load(tmp_path / "outputs")
    torch.testing.assert_close(found["features"][0], tiny_bundle.features(tones[:16321], 16000), atol=1e-2, rtol=0)
    model = tiny_bundle.model
    with torch.no_grad():
        encoder_out, lens, _ = model.encode(x, x_lens)
        frames = model.joiner.encoder_projection(encoder_out)
        context = model.joiner.decoder_projection(model.decoder.step(torch.tensor([[-1, 0], [3, 4]])))
        logits = model.joiner(frames[:, 0], context)
        log_probs = model.ctc_log_probs(encoder_out)
    assert found["encoder"][1].tolist() == found["ctc"][1].tolist() == lens.tolist()
    for i, length in enumerate(lens.tolist()):
        torch.testing.assert_close(found["encoder"][0][i, :length], frames[i, :length], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found["ctc"][0][i, :length], log_probs[i, :length], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["joiner"], logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [{"experts_in": "both", **WITH_ALL}, {"experts_in": "none", "merged_sets": 2}],
    ids=["experts with every option", "merged"],
)
def test_encoders_are_traced_for_batches_of_any_size(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = AsrModel(replace_fields(TINY.model, options)).eval().requires_grad_(False)
    traced = torchscript._traced(
        UtteranceGraph(model, heads_of(model)["log_probs"]), (torch.randn(2, 60, 80), torch.tensor([60, 31]))
    )
    frozen = torch.jit.freeze(traced)
    for lens in ([40], [90, 12, 33]):
        x, x_lens = torch.randn(len(lens), max(lens), 80), torch.tensor(lens)
        encoder_out, out_lens, _ = model.encode(x, x_lens)
        for found, _ in (traced(x, x_lens), frozen(x, x_lens)):
            for row, expected, length in zip(found, model.ctc_log_probs(encoder_out), out_lens.tolist()):
                torch.testing.assert_close(row[:length], expected[:length], atol=1e-4, rtol=1e-4)
    merging = model.config.encoder.num_layers if model.config.encoder.merged_sets > 1 else 0
    assert num_softmaxes(frozen) == num_softmaxes(traced) - merging, "gates and merged weights are constants"


def num_softmaxes(graph: torch.jit.ScriptModule) -> int:
    return sum(node.kind() == "aten::softmax" for node in graph.inlined_graph.nodes())


def test_a_recording_20_db_quieter_gives_the_same_frames(tones: np.ndarray) -> None:
    """Both are far above the floor of the features, 1.2e-7, which no gain moves."""
    torch.manual_seed(0)
    models = [AsrModel(replace_fields(TINY.model, {"loudness_norm": norm})) for norm in (True, False)]
    levelled, plain = (UtteranceGraph(m, heads_of(m)["log_probs"]).eval().requires_grad_(False) for m in models)
    graph = torchscript._traced(levelled, (torch.randn(2, 60, 80), torch.tensor([60, 31])))
    loud, quiet = (compute_features(gain * tones, 16000, TINY.features)[None] for gain in (100, 10))
    x_lens = torch.tensor([loud.size(1)])
    torch.testing.assert_close(graph(quiet, x_lens), graph(loud, x_lens), atol=1e-3, rtol=0)
    difference = plain(quiet, x_lens)[0] - plain(loud, x_lens)[0]
    assert float(difference.abs().max()) > 0.1, "without the norm the gain is heard"


def test_a_graph_that_differs_from_the_model_is_not_written(
    saved: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced = torchscript._traced

    class Wrong(torch.nn.Module):
        def forward(self, y: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(y), 1)

    def break_decoder(graph: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> torch.jit.ScriptModule:
        return traced(Wrong() if isinstance(graph, DecoderGraph) else graph, example)

    monkeypatch.setattr(torchscript, "_traced", break_decoder)
    with pytest.raises(ValueError, match=r"decoder\.pt differs from the model by .*: not written"):
        write_torchscript(saved(), tmp_path / "graphs")
    assert not (tmp_path / "graphs").exists()


def test_the_programs_of_docs_and_card_recognise_the_test_wav(saved: Save, tiny_bundle: Bundle, tmp_path: Path) -> None:
    write_torchscript(saved(), tmp_path / "graphs")
    page = (Path(__file__).resolve().parents[2] / "docs/released-models.md").read_text()
    (program,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "torch.jit" in block]
    of_docs = program.replace("zoo/an4-merged-torchscript", str(tmp_path / "graphs"))
    (of_card,) = re.findall(r"```python\n(.*?)```", (tmp_path / "graphs/README.md").read_text(), re.DOTALL)
    for code in (of_docs, of_card):
        result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "graphs", capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert result.stdout.split() == tiny_bundle.transcribe(tmp_path / "graphs" / "test.wav").text.split() != []


def test_the_program_in_the_docs_finds_nothing_in_recordings_that_are_too_short(saved: Save, tmp_path: Path) -> None:
    write_torchscript(saved(), tmp_path / "graphs")
    page = (Path(__file__).resolve().parents[2] / "docs/released-models.md").read_text()
    (program,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "torch.jit" in block]
    program = program.replace("zoo/an4-merged-torchscript", str(tmp_path / "graphs"))
    program = re.sub(r"samples = .*", "samples = torch.randn(length)", program)
    indented = "".join(f"    {line}\n" for line in program.splitlines())
    code = f"for length in (0, 1, 100, 399, 400, 640, 1039):\n{indented}"  # 65 ms is the most that has no frame
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "\n" * 7


def trained_in_chunks(bundle: Bundle, lang_dir: Path, tones: np.ndarray, folder: Path) -> Bundle:
    """The bundle, saved as one that was trained in chunks of 8 and 16 frames."""
    options = {"chunk_sizes": (0, 8, 16), "left_contexts": (16, 32)}
    config = replace_fields(bundle.config, options)
    bundle = dataclasses.replace(bundle, config=config, folder=None)
    bundle.save(folder, lang_dir=lang_dir, example=ExampleRecording(tones, 16000, "ONE TWO"))
    return bundle


RUN_STREAMS = """
import sys, torch
graph, inputs, outputs = sys.argv[1:]
stream, (features, chunkings) = torch.jit.load(graph), torch.load(inputs)

def run(chunk_size, left_context):
    states = [stream.start(1, left_context) for _ in features]
    found = [[] for _ in features]
    for time in range(len(features[0])):
        ready = []
        for number, x in enumerate(features):
            begin = (time - number) * 4 * chunk_size  # the second stream begins a chunk later, and so on
            if begin >= 0 and len(x) - begin >= 7:
                chunk = x[begin : begin + 4 * chunk_size + 3]
                padded = torch.nn.functional.pad(chunk, (0, 0, 0, 4 * chunk_size + 3 - len(chunk)))
                ready.append((number, padded, len(chunk)))
        if ready:
            numbers, chunks, lens = zip(*ready)
            state = tuple(torch.cat(parts) for parts in zip(*(states[number] for number in numbers)))
            frames, log_probs, lens, state = stream(torch.stack(chunks), torch.tensor(lens), state)
            for i, number in enumerate(numbers):
                found[number].append((frames[i, : lens[i]], log_probs[i, : lens[i]]))
                states[number] = tuple(part[i : i + 1] for part in state)
    return [[torch.cat(parts) for parts in zip(*of_one)] for of_one in found]

with torch.no_grad():
    torch.save([run(*chunking) for chunking in chunkings], outputs)
assert "shared_moe_conformer" not in sys.modules
"""


@pytest.fixture(scope="module")
def streamed(
    tiny_bundle: Bundle, lang_dir: Path, tones: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, Path]:
    """A bundle that was trained in chunks, and its graphs."""
    folder = tmp_path_factory.mktemp("zoo")
    bundle = trained_in_chunks(tiny_bundle, lang_dir, tones, folder / "tiny")
    differences = write_torchscript(folder / "tiny", folder / "tiny-torchscript")
    assert differences["stream.pt"] < 5e-4, "of log-probabilities down to -1000"
    torch.jit.freeze(torch.jit.load(folder / "tiny-torchscript/stream.pt"), preserved_attrs=["start"])
    return bundle, folder / "tiny-torchscript"


def test_chunks_of_any_size_are_those_of_the_model_wherever_the_streams_are(
    streamed: tuple[Bundle, Path], tones: np.ndarray, tmp_path: Path
) -> None:
    bundle, folder = streamed
    chunkings = [(8, 16), (5, 12), (16, 64), (1, 3)]
    features = [bundle.features(part, 16000) for part in (tones, tones[:16000], tones[::-1][:24000].copy())]
    torch.save((features, chunkings), tmp_path / "inputs")
    files = [str(path) for path in (folder / "stream.pt", tmp_path / "inputs", tmp_path / "outputs")]
    result = subprocess.run([sys.executable, "-c", RUN_STREAMS, *files], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    model = bundle.model
    for chunking, found in zip(chunkings, torch.load(tmp_path / "outputs"), strict=True):
        for x, (frames, log_probs) in zip(features, found, strict=True):
            with torch.no_grad():
                encoder_out, *_ = model.encode(x[None], torch.tensor([len(x)]), Chunking(*chunking))
                expected = model.joiner.encoder_projection(encoder_out)[0], model.ctc_log_probs(encoder_out)[0]
            torch.testing.assert_close((frames, log_probs), expected, atol=1e-4, rtol=1e-4)


def test_the_streaming_program_in_the_docs_finds_the_streams_words(
    streamed: tuple[Bundle, Path], tmp_path: Path, tones: np.ndarray
) -> None:
    bundle, folder = streamed
    page = (Path(__file__).resolve().parents[2] / "docs/streaming.md").read_text()
    (program,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "torch.jit" in block]
    result = subprocess.run(
        [sys.executable, "-c", program.replace("zoo/an4-streaming-torchscript", str(folder))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    decoding = DecodingConfig(decoding_method="ctc_greedy_search")
    rules = EndpointRules(1e9, 1e9, 1e9)
    stream = bundle.stream(chunk_size=16, left_context=64, decoding=decoding, rules=rules)
    stream.accept(tones, 16000)
    assert result.stdout.splitlines()[-1].split() == stream.finish().text.split() != []


def test_a_model_that_was_never_trained_in_chunks_has_no_graph_of_streams(saved: Save, tmp_path: Path) -> None:
    assert "stream.pt" not in write_torchscript(saved(), tmp_path / "graphs")
    assert not (tmp_path / "graphs" / "stream.pt").exists()
