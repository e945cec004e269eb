"""Released models that carry a decoding graph over words."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("kaldifst")

from shared_moe_conformer.bundle import Bundle  # noqa: E402
from shared_moe_conformer.decoding.methods import METHODS, decode_batch  # noqa: E402
from shared_moe_conformer.decoding.options import (
    DecodingConfig,  # noqa: E402
    Resources,  # noqa: E402
)
from shared_moe_conformer.lattice.decoding_graph import inputs_hash, load_word_graph  # noqa: E402
from shared_moe_conformer.lattice.graphs import Graph  # noqa: E402
from shared_moe_conformer.model.encoder import EncoderOutput  # noqa: E402
from shared_moe_conformer.release.manifest import FILES, WORD_FILES, ExampleRecording  # noqa: E402
from shared_moe_conformer.release.zoo_index import SUMS_FILE, verify_sums, write_sums  # noqa: E402
from shared_moe_conformer.speech.transcript import as_ctm  # noqa: E402
from shared_moe_conformer.transcribe import SEARCHES, main  # noqa: E402

TONES = ("--vad", "false")
"""The recordings are no speech."""
from tests.conftest import TEXTS  # noqa: E402

HLG, OLD_HLG, NGRAM = "HLG_standard.safetensors", "HLG_standard.npz", "G.arpa"
RELEASED = (*WORD_FILES, HLG)
OVER_WORDS = DecodingConfig(decoding_method="1best", graph="HLG")
Save = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, tiny_bundle: Bundle, graph_lang_dir: Path, tones: np.ndarray) -> Path:
    """A bundle with its graph."""
    example = ExampleRecording(tones, 16000, "ONE TWO")
    tiny_bundle.save(tmp_path / "tiny", lang_dir=graph_lang_dir, example=example, graph_files=RELEASED)
    return tmp_path / "tiny"


def test_the_graph_is_released_and_verified_with_the_model(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {*FILES, *RELEASED, SUMS_FILE}
    verify_sums(folder, required=[*FILES, *RELEASED])
    for name in RELEASED:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b"\n")
        with pytest.raises(ValueError, match=name):
            Bundle.load(folder)
        (folder / name).write_bytes(content)


def test_a_graph_that_was_put_beside_a_model_is_refused(saved: Save, graph_lang_dir: Path) -> None:
    folder = saved()
    shutil.copyfile(graph_lang_dir / HLG, folder / HLG)
    with pytest.raises(ValueError, match=f"does not list {HLG}"):
        Bundle.load(folder)


@pytest.mark.parametrize("search", [name for name in SEARCHES if "token_lm" not in METHODS[name].uses])
def test_every_search_that_transcribe_offers_works(
    folder: Path, search: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if METHODS[search].engines == ("k2",):
        pytest.importorskip("k2")
    scale = ["--lm-scales", "0.5"] if METHODS[search].at_scales else []
    scale += ["--rescoring-ngram", str(folder / NGRAM)] if "rescoring_ngram" in METHODS[search].options else []
    options = ["--decoding-method", search, *scale, "--format", "text", *TONES]
    main(["--model", str(folder), *options, str(folder / "test.wav")])
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("engine", ["k2", "embedded"])
def test_it_transcribes_with_the_words_of_its_lexicon(
    folder: Path, graph_lang_dir: Path, tones: np.ndarray, engine: str
) -> None:
    if engine == "k2":
        pytest.importorskip("k2")
    bundle, decoding = Bundle.load(folder), dataclasses.replace(OVER_WORDS, lattice_engine=engine)
    transcript = bundle.transcribe(tones, sampling_rate=16000, decoding=decoding)
    features = bundle.features(tones, 16000)[None]
    resources = Resources(word_graph=load_word_graph(graph_lang_dir, "standard"))
    with torch.inference_mode():
        frames = bundle.model.encode(features, torch.tensor([features.size(1)]))
        (hyp,) = decode_batch(bundle.model, frames, decoding, resources=resources)
    assert transcript.text == " ".join(hyp.words or [])
    assert transcript.text
    assert {word.text for word in transcript.words} <= {word for text in TEXTS for word in text.split()}
    assert " ".join(word.text for word in transcript.words) == transcript.text
    assert [word.start for word in transcript.words] == sorted(word.start for word in transcript.words)
    assert transcript != bundle.transcribe(tones, sampling_rate=16000)


def test_the_command_line_searches_it(
    folder: Path, saved: Save, tones: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    wav, options = str(folder / "test.wav"), ["--decoding-method", "1best", "--graph", "HLG", "--format", "ctm"]
    main(["--model", str(folder), wav, *options, *TONES])
    expected = Bundle.load(folder).transcribe(wav, decoding=OVER_WORDS)
    assert capsys.readouterr().out == as_ctm(wav, expected) + "\n"
    with pytest.raises(SystemExit):
        main(["--model", str(saved()), wav, *options, *TONES])
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "has no decoding graph: release it with one (./export.py --with-graph)" in err


def rebuild(folder: Path, **arrays: np.ndarray) -> None:
    """Write the graph with other arrays, all hashes right."""
    graph = dataclasses.replace(Graph.load(folder / HLG), **arrays)
    graph.save(folder / HLG, inputs=inputs_hash(folder, "standard"))


def refuse(folder: Path, match: str) -> None:
    write_sums(folder)
    with pytest.raises(ValueError, match=match) as caught:
        Bundle.load(folder).transcribe(folder / "test.wav", decoding=OVER_WORDS)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_hostile_graphs_are_refused(folder: Path) -> None:
    graph = Graph.load(folder / HLG)
    rebuild(folder, ilabel=graph.ilabel + 40)
    refuse(folder, "HLG needs a model of")
    rebuild(folder, olabel=graph.olabel + 10**6, ilabel=graph.ilabel)
    refuse(folder, "has words that .*words.txt lacks")
    (folder / HLG).write_bytes((folder / HLG).read_bytes()[:100])
    refuse(folder, "is not a graph")


def as_version_0_1(folder: Path, **arrays: np.ndarray) -> None:
    """Have the graph be an .npz file, as version 0.1 wrote it; all hashes right."""
    graph = Graph.load(folder / HLG)
    arrays = {name: getattr(graph, name) for name in ARRAYS} | arrays
    np.savez_compressed(folder / OLD_HLG, **arrays, inputs=np.array(inputs_hash(folder, "standard")))
    (folder / HLG).unlink()
    write_sums(folder)


def test_a_graph_of_version_0_1_is_read(folder: Path) -> None:
    before = Bundle.load(folder).transcribe(folder / "test.wav", decoding=OVER_WORDS)
    as_version_0_1(folder)
    assert Bundle.load(folder).transcribe(folder / "test.wav", decoding=OVER_WORDS) == before
    content = (folder / OLD_HLG).read_bytes()
    (folder / OLD_HLG).write_bytes(content + b"0")
    with pytest.raises(ValueError, match=OLD_HLG):
        Bundle.load(folder)


def test_a_hostile_graph_of_version_0_1_is_refused(folder: Path) -> None:
    as_version_0_1(folder, src=np.array([print], dtype=object))
    refuse(folder, "is not a graph")


@pytest.mark.parametrize("name", ["words.txt", "lexicon.txt", NGRAM])
@pytest.mark.parametrize("content", [b"", b"\xff\n", b"THE\n" * 9, b"THE \xe2\x96\x81NO_SUCH_UNIT\n"])
def test_hostile_words_are_refused(folder: Path, name: str, content: bytes) -> None:
    graph = Graph.load(folder / HLG)
    (folder / name).write_bytes(content)
    write_sums(folder)
    refuse(folder, "was built from other files")
    graph.save(folder / HLG, inputs=inputs_hash(folder, "standard"))
    if name != NGRAM:  # which the search does not read: it is in the graph
        refuse(folder, "word|lexicon|utf-8|decode")


ARRAYS = ("src", "dst", "ilabel", "olabel", "weight", "final_state", "final_weight")
VALUES = st.sampled_from([-1, 0, 1, 5, 39, 40, 10**6, 2**31 - 1, -(2**31)]) | st.integers(0, 60)
WEIGHTS = st.sampled_from([0.0, -1e38, 1e38, 3.0, -50.0, float("nan"), float("-inf")])


@pytest.fixture(scope="module")
def frames(tiny_bundle: Bundle, tones: np.ndarray) -> EncoderOutput:
    features = tiny_bundle.features(tones[:8000], 16000)[None]
    with torch.inference_mode():
        return tiny_bundle.model.encode(features, torch.tensor([features.size(1)]))


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory, graph_lang_dir: Path) -> Path:
    return Path(shutil.copytree(graph_lang_dir, tmp_path_factory.mktemp("fuzzed") / "tiny"))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["k2", "embedded"])
@settings(max_examples=150, deadline=None, derandomize=True)
@given(changes=st.lists(st.tuples(st.sampled_from(ARRAYS), st.integers(0, 2**20), VALUES, WEIGHTS), max_size=4))
def test_any_graph_is_searched_or_refused(
    fuzzed: Path,
    graph_lang_dir: Path,
    tiny_bundle: Bundle,
    frames: EncoderOutput,
    engine: str,
    changes: list[tuple[str, int, int, float]],
) -> None:
    if engine == "k2":
        pytest.importorskip("k2")
    graph = Graph.load(graph_lang_dir / HLG)
    arrays = {name: getattr(graph, name).copy() for name in ARRAYS}
    for name, where, value, weight in changes:
        arrays[name][where % len(arrays[name])] = weight if "weight" in name else value
    Graph(**arrays).save(fuzzed / HLG, inputs=inputs_hash(fuzzed, "standard"))
    decoding = dataclasses.replace(OVER_WORDS, lattice_engine=engine, max_active=200)
    try:
        resources = Resources(word_graph=load_word_graph(fuzzed, "standard"))
        with torch.inference_mode():
            (hyp,) = decode_batch(tiny_bundle.model, frames, decoding, resources=resources)
        assert hyp.words is not None
    except ValueError as error:
        assert 0 < len(str(error)) < 1000 and "\n" not in str(error)
