"""Neural language models in sherpa-onnx, with the released model of this clone and its real speech."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from shared_moe_conformer.bundle import Bundle  # noqa: E402
from shared_moe_conformer.config import LmModelConfig  # noqa: E402
from shared_moe_conformer.decoding.neural_lm import save_neural_lm  # noqa: E402
from shared_moe_conformer.decoding.options import DecodingConfig  # noqa: E402
from shared_moe_conformer.forms.onnx_folder import write_graphs  # noqa: E402
from shared_moe_conformer.forms.onnx_language_model import write_language_models  # noqa: E402
from shared_moe_conformer.forms.onnx_streaming import StreamingForm  # noqa: E402
from shared_moe_conformer.model.language_model import LanguageModel  # noqa: E402
from shared_moe_conformer.release.zoo_index import write_sums  # noqa: E402
from shared_moe_conformer.speech.audio import read_audio, write_wav  # noqa: E402

from .conftest import RunSherpa  # noqa: E402

ZOO_MODEL = Path(__file__).parents[2] / "zoo/an4-base"
KINDS = ("rnn", "transformer")
FORM = StreamingForm(chunk_size=16, left_context_frames=64)
OFFLINE = """
import json, sys
import sherpa_onnx, soundfile
folder, lm, scale, *paths = sys.argv[1:]
recogniser = sherpa_onnx.OfflineRecognizer.from_transducer(
    *(f"{folder}/{part}.onnx" for part in ("encoder", "decoder", "joiner")), f"{folder}/tokens.txt",
    decoding_method="modified_beam_search", lm=lm and f"{folder}/{lm}_lm.onnx", lm_scale=float(scale))
texts = []
for path in paths:
    samples, rate = soundfile.read(path, dtype="float32")
    stream = recogniser.create_stream()
    stream.accept_waveform(rate, samples)
    recogniser.decode_stream(stream)
    texts.append(stream.result.text.strip())
print(json.dumps(texts))
"""
ONLINE = """
import json, sys
import numpy as np, sherpa_onnx, soundfile
folder, lm, scale, *paths = sys.argv[1:]
recogniser = sherpa_onnx.OnlineRecognizer.from_transducer(
    f"{folder}/tokens.txt", *(f"{folder}/{part}.onnx" for part in ("encoder", "decoder", "joiner")),
    decoding_method="modified_beam_search", lm=lm and f"{folder}/{lm}_lm.onnx", lm_scale=float(scale))
texts = []
for path in paths:
    samples, rate = soundfile.read(path, dtype="float32")
    stream = recogniser.create_stream()
    stream.accept_waveform(rate, np.concatenate([samples, np.zeros(rate, dtype=np.float32)]))
    stream.input_finished()
    while recogniser.is_ready(stream):
        recogniser.decode_stream(stream)
    texts.append(recogniser.get_result(stream).strip())
print(json.dumps(texts))
"""


def random_lm(kind: str, vocab_size: int) -> LanguageModel:
    """A model that is sure of itself, so that its choices can be told from the recogniser's."""
    torch.manual_seed(1)
    config = LmModelConfig(kind, vocab_size, embedding_dim=16, hidden_dim=24, num_heads=2, left_context=6)  # type: ignore[arg-type]
    model = LanguageModel(config).eval()
    model.embedding.weight.data *= 2
    return model


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The released model, and a language model of each kind beside it."""
    folder = tmp_path_factory.mktemp("zoo") / "an4-base"
    folder.mkdir()
    for path in ZOO_MODEL.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    pieces = Bundle.load(ZOO_MODEL).tokenizer.pieces
    for kind in KINDS:
        save_neural_lm(random_lm(kind, len(pieces)), folder / f"{kind}_lm.safetensors", pieces)
    write_sums(folder)
    return folder


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The test wav, whole and in parts."""
    folder = tmp_path_factory.mktemp("speech")
    samples, rate = read_audio(ZOO_MODEL / "test.wav")
    for number, part in enumerate((samples, samples[: len(samples) // 2], samples[len(samples) // 3 :])):
        write_wav(folder / f"{number}.wav", part, sampling_rate=rate)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def offline(model_folder: Path) -> Path:
    """The graphs of whole utterances and sentences."""
    folder, bundle = model_folder.with_name("offline"), Bundle.load(model_folder)
    folder.mkdir()
    write_graphs(bundle, folder)
    differences = write_language_models(bundle, folder, for_streams=False)
    assert differences.keys() == {f"{kind}_lm.onnx" for kind in KINDS} and max(differences.values()) < 1e-4
    (folder / "tokens.txt").write_bytes((model_folder / "tokens.txt").read_bytes())
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_sherpa_onnx_rescores_to_the_same_texts(
    run_sherpa: RunSherpa, offline: Path, model_folder: Path, speech: list[Path], kind: str
) -> None:
    bundle, texts = Bundle.load(model_folder), []
    for scale in (0.3, 3.0):
        method = "modified_beam_search_lm_rescore"
        decoding = DecodingConfig(decoding_method=method, lm_type=kind, lm_scales=(scale,))  # type: ignore[arg-type]
        own = [transcript.text for transcript in bundle.transcribe_many(speech, decoding=decoding)]
        assert json.loads(run_sherpa(OFFLINE, offline, kind, scale, *speech)) == own
        texts.append(own)
    assert texts[0][0] and texts[0] != texts[1], "the language model has a say"
