from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx  # noqa: E402

from shared_moe_conformer.bundle import Bundle  # noqa: E402
from shared_moe_conformer.config import MIN_NUM_FRAMES, frame_centre  # noqa: E402
from shared_moe_conformer.decoding.options import DecodingConfig, DecodingMethod  # noqa: E402
from shared_moe_conformer.forms import runtimes  # noqa: E402
from shared_moe_conformer.forms.onnx_folder import (  # noqa: E402
    router_products,
    write_onnx,
)
from shared_moe_conformer.forms.runtimes import (  # noqa: E402
    CTC,
    DECODER,
    ENCODER,
    JOINER,
    SHRUNK,
    Graph,
    fp16_name,
    greedy_ctc,
    greedy_transducer,
    int8_name,
    load_graph,
    onnx_parts,
)
from shared_moe_conformer.release.zoo_index import SUMS_FILE, verify_sums  # noqa: E402
from shared_moe_conformer.speech.audio import read_audio, write_wav  # noqa: E402
from tests.forms.conftest import RunSherpa  # noqa: E402

Save = Callable[..., Path]
Recognise = Callable[..., list[dict[str, Any]]]
Output = pytest.CaptureFixture[str]

SHERPA = """
import json, sys, sherpa_onnx, soundfile
folder, kind, suffix, method, *paths = sys.argv[1:]
files = {part: f"{folder}/{part}{suffix}.onnx" for part in ("encoder", "ctc")}
if kind == "transducer":
    recogniser = sherpa_onnx.OfflineRecognizer.from_transducer(
        encoder=files["encoder"], decoder=f"{folder}/decoder.onnx", joiner=f"{folder}/joiner.onnx",
        tokens=f"{folder}/tokens.txt", num_threads=1, decoding_method=method)
else:
    recogniser = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(
        model=files["ctc"], tokens=f"{folder}/tokens.txt", num_threads=1)
streams = []
for path in paths:
    samples, sampling_rate = soundfile.read(path, dtype="float32")
    streams.append(recogniser.create_stream())
    streams[-1].accept_waveform(sampling_rate, samples)
recogniser.decode_streams(streams)
for stream in streams:
    print(json.dumps({"tokens": stream.result.tokens, "times": stream.result.timestamps}))
"""


@pytest.fixture(scope="module")
def exported(bundle_folder: Path) -> Path:
    write_onnx(bundle_folder, bundle_folder.with_name("tiny-onnx"))
    return bundle_folder.with_name("tiny-onnx")


@pytest.fixture
def recognise(run_sherpa: RunSherpa, exported: Path) -> Recognise:
    """What sherpa-onnx recognises in recordings, decoded as one batch."""

    def recognise(
        paths: list[Path], *, kind: str, method: str = "greedy_search", suffix: str = ""
    ) -> list[dict[str, Any]]:
        shown = run_sherpa(SHERPA, exported, kind, suffix, method, *paths).splitlines()
        return [json.loads(line) for line in shown if line.startswith("{")]

    return recognise


def test_folder_is_complete_and_verifies(exported: Path) -> None:
    names = {
        ENCODER,
        DECODER,
        JOINER,
        CTC,
        *map(int8_name, SHRUNK),
        *map(fp16_name, SHRUNK),
        "tokens.txt",
        "test.wav",
        "test.txt",
        "README.md",
    }
    assert {path.name for path in exported.iterdir()} == {*names, SUMS_FILE}
    verify_sums(exported, required=names)


def test_graphs_are_the_model(bundle_folder: Path, tmp_path: Path) -> None:
    differences = write_onnx(bundle_folder, tmp_path / "onnx")
    assert set(differences) == {ENCODER, DECODER, JOINER, CTC}
    assert max(differences.values()) < 5e-4


def test_metadata_is_what_sherpa_reads_and_no_path_of_this_machine_is_in_it(exported: Path) -> None:
    values = {path.name: {p.key: p.value for p in onnx.load(path).metadata_props} for path in exported.glob("*.onnx")}
    assert values[ENCODER]["model_type"] == "conformer"
    assert (values[DECODER]["vocab_size"], values[DECODER]["context_size"]) == ("40", "2")
    assert "CC-BY-SA-3.0" in values[CTC]["comment"]
    root = str(Path(__file__).resolve().parent.parent).encode()
    assert not [path for path in exported.glob("*.onnx") if root in path.read_bytes() or b".py" in path.read_bytes()]


def matrix_products(path: Path) -> list[Any]:
    """Products of frames with stored weights, which no node may copy first."""
    graph = onnx.load(path).graph
    stored = {tensor.name for tensor in graph.initializer}
    assert not [node.name for node in graph.node if node.op_type == "Identity" and node.input[0] in stored]
    return [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in stored]


def test_int8_covers_feed_forwards_and_experts_and_nothing_else(exported: Path, tiny_bundle: Bundle) -> None:
    encoder = tiny_bundle.config.model.encoder
    products = encoder.num_layers * 2 * (1 + encoder.num_experts)  # of a dense feed-forward, and of the experts
    for name in SHRUNK:
        before, after = matrix_products(exported / name), matrix_products(exported / int8_name(name))
        quantised = [n for n in onnx.load(exported / int8_name(name)).graph.node if n.op_type == "MatMulInteger"]
        assert len(quantised) == len(before) - len(after) == products
        routers = router_products(onnx.load(exported / name).graph)
        assert [node.name for node in after if "feed_forward" in node.name] == routers
        assert len(routers) == encoder.num_layers


def test_small_files_hold_nothing_that_nobody_reads(exported: Path) -> None:
    for path in (exported / rename(name) for name in SHRUNK for rename in (int8_name, fp16_name)):
        graph = onnx.load(path).graph
        read = {name for node in graph.node for name in node.input}
        assert {tensor.name for tensor in graph.initializer} <= read
        assert not graph.value_info


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "method", "own_method"),
    [
        ("transducer", "greedy_search", "greedy_search"),
        ("transducer", "modified_beam_search", "modified_beam_search"),
        ("ctc", "greedy_search", "ctc_greedy_search"),
    ],
)
def test_sherpa_onnx_finds_the_same_tokens_at_the_same_times(
    recognise: Recognise,
    recordings: list[Path],
    tiny_bundle: Bundle,
    kind: str,
    method: str,
    own_method: DecodingMethod,
) -> None:
    decoding = DecodingConfig(decoding_method=own_method)
    for path, found in zip(recordings, recognise(recordings, kind=kind, method=method), strict=True):
        expected = tiny_bundle.transcribe(path, decoding=decoding)
        assert expected.tokens
        assert [token.replace(" ", "▁") for token in found["tokens"]] == expected.tokens
        # sherpa-onnx counts 40 ms for each frame from 0, not from the centre of the first
        np.testing.assert_allclose(np.add(found["times"], frame_centre(0)), expected.times, atol=1e-3)


@pytest.mark.parametrize("name_of", [str, int8_name, fp16_name])
def test_recordings_that_are_too_short_for_a_frame_have_no_text(exported: Path, name_of: Callable[[str], str]) -> None:
    parts = onnx_parts(exported, name_of)
    for num_frames in range(MIN_NUM_FRAMES + 1):  # 7 may be of 65 ms
        x = np.random.default_rng(0).standard_normal((num_frames, 80)).astype(np.float32)
        assert greedy_transducer(parts, x, [-1, 0])[0] == greedy_ctc(parts, x) == []
    x = np.zeros((2, 3, 80), dtype=np.float32)  # a batch of nothing else
    for graph in (parts.encoder, parts.ctc):
        frames, lens = graph(x, np.array([3, 0]))
        assert frames.shape[:2] == (2, 1) and lens.tolist() == [0, 0] and np.isfinite(frames).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "method"),
    [("transducer", "greedy_search"), ("transducer", "modified_beam_search"), ("ctc", "greedy_search")],
)
def test_sherpa_onnx_finds_nothing_in_recordings_that_are_too_short(
    exported: Path, recognise: Recognise, tones: np.ndarray, tmp_path: Path, kind: str, method: str
) -> None:
    paths = [tmp_path / f"{length}.wav" for length in (1, 400, 640, 1039)]
    for path in paths:
        write_wav(path, tones[: int(path.stem)], sampling_rate=16000)
    for some in ([paths[0]], paths[1:], [*paths, exported / "test.wav"]):
        found = [result["tokens"] for result in recognise(some, kind=kind, method=method)]
        assert found[: len(paths)] == [[]] * min(len(some), len(paths)), some
    assert found[-1]


def test_float16_stores_halves_and_hardly_differs(exported: Path, tiny_bundle: Bundle) -> None:
    features = tiny_bundle.features(*read_audio(exported / "test.wav"))[None].numpy()
    for name in (ENCODER, CTC):
        stored = [tensor for tensor in onnx.load(exported / fp16_name(name)).graph.initializer if len(tensor.dims) > 1]
        kinds = [tensor.data_type for tensor in stored]
        assert kinds.count(onnx.TensorProto.FLOAT) == 3, "the routers"
        assert kinds.count(onnx.TensorProto.FLOAT16) == len(kinds) - 3
        x_lens = np.array([features.shape[1]])
        half, full = (load_graph(exported / file)(features, x_lens)[0] for file in (fp16_name(name), name))
        assert half.dtype == full.dtype == np.float32
        np.testing.assert_allclose(half, full, rtol=2e-3, atol=0.1)
        assert np.abs(half - full).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["transducer", "ctc"])
@pytest.mark.parametrize("suffix", [".int8", ".fp16"])
def test_sherpa_onnx_runs_the_smaller_graphs(
    recognise: Recognise, recordings: list[Path], kind: str, suffix: str
) -> None:
    assert all(found["tokens"] for found in recognise(recordings, kind=kind, suffix=suffix))


@pytest.mark.slow
def test_the_programs_of_docs_and_card_recognise_the_test_wav(
    exported: Path, tiny_bundle: Bundle, tmp_path: Path, run_sherpa: RunSherpa
) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/released-models.md").read_text()
    (program,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "sherpa_onnx" in block]
    program = program.replace("zoo/an4-merged-onnx", str(exported))
    (of_card,) = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    assert run_sherpa(program, cwd=tmp_path) == run_sherpa(of_card, cwd=exported)
    shown = run_sherpa(program.replace(".int8", ""), cwd=tmp_path)
    assert shown.split() == tiny_bundle.transcribe(exported / "test.wav").text.split()


def test_a_graph_that_differs_from_the_model_is_not_written(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off_by_one(path: Path) -> Graph:
        graph = load_graph(path)
        return lambda *inputs: [output + (path.name == JOINER) for output in graph(*inputs)]

    monkeypatch.setattr(runtimes, "load_graph", off_by_one)
    with pytest.raises(ValueError, match=r"joiner\.onnx differs from the model by 1: not written"):
        write_onnx(bundle_folder, tmp_path / "graphs")
    assert not (tmp_path / "graphs").exists()


def test_existing_folder_is_refused_and_a_failure_leaves_nothing(
    exported: Path, bundle_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    before = sorted(exported.parent.iterdir())
    with pytest.raises(FileExistsError, match="exists: give another name, or --overwrite"):
        write_onnx(bundle_folder, exported)
    with pytest.raises(FileNotFoundError, match="no released model in"):
        write_onnx(tmp_path / "empty", exported.with_name("other"))
    assert sorted(exported.parent.iterdir()) == before


def test_missing_packages_are_named(bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    with pytest.raises(ValueError, match="the package onnxruntime is not installed: pip install"):
        write_onnx(bundle_folder, tmp_path / "onnx")
