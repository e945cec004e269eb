"""Neural language models in sherpa-onnx, with the released model of this clone and its real speech."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from shared_moe_conformer.bundle import Bundle  # noqa: E402
from shared_moe_conformer.config import LmModelConfig  # noqa: E402
from shared_moe_conformer.decoding.beam import ModifiedBeamSearch  # noqa: E402
from shared_moe_conformer.decoding.greedy import next_token_log_probs, projected_decoder_out  # noqa: E402
from shared_moe_conformer.decoding.hypothesis import search_utterances  # noqa: E402
from shared_moe_conformer.decoding.neural_lm import (  # noqa: E402
    LanguageModel,  # noqa: E402
    NeuralScorer,
    load_neural_lm,
    save_neural_lm,
)
from shared_moe_conformer.decoding.options import DecodingConfig  # noqa: E402
from shared_moe_conformer.forms.onnx_chunks import metadata, tail_seconds, whole_chunks, write_chunk_graphs  # noqa: E402
from shared_moe_conformer.forms.onnx_folder import write_decoder_and_joiner, write_graphs  # noqa: E402
from shared_moe_conformer.forms.onnx_graphs import (
    describe,  # noqa: E402
    write_language_models,  # noqa: E402
)
from shared_moe_conformer.forms.sherpa_folder import StreamingForm  # noqa: E402
from shared_moe_conformer.model.asr_model import AsrModel  # noqa: E402
from shared_moe_conformer.release.zoo_index import write_sums  # noqa: E402
from shared_moe_conformer.speech.audio import read_audio, write_wav  # noqa: E402

from .conftest import RunSherpa  # noqa: E402

ZOO_MODEL = Path(__file__).parents[2] / "zoo/an4-base"
KINDS = ("rnn", "transformer")
FORM = StreamingForm(chunk_size=16, left_context_frames=64)
PATHS = 8
RESCORING, FUSION = ([(kind, scale) for kind in KINDS for scale in (0.01, most)] for most in (2.0, 0.3))
SHERPA = """
import json, sys
import numpy as np, sherpa_onnx, soundfile
folder, tail, jobs, *paths = sys.argv[1:]
parts = {part: f"{folder}/{part}.onnx" for part in ("encoder", "decoder", "joiner")}
kind = sherpa_onnx.OnlineRecognizer if float(tail) else sherpa_onnx.OfflineRecognizer
found = []
for lm, scale in json.loads(jobs):
    recogniser = kind.from_transducer(
        **parts, tokens=f"{folder}/tokens.txt", decoding_method="modified_beam_search", max_active_paths=PATHS,
        lm=f"{folder}/{lm}_lm.onnx", lm_scale=scale)
    found.append([])
    for path in paths:
        samples, rate = soundfile.read(path, dtype="float32")
        stream = recogniser.create_stream()
        stream.accept_waveform(rate, np.concatenate([samples, np.zeros(round(float(tail) * rate), samples.dtype)]))
        if float(tail):
            stream.input_finished()
            while recogniser.is_ready(stream):
                recogniser.decode_stream(stream)
            found[-1].append(recogniser.get_result(stream).strip())
        else:
            recogniser.decode_stream(stream)
            found[-1].append(stream.result.text.strip())
print(json.dumps(found))
""".replace("PATHS", str(PATHS))


def random_lm(kind: str, vocab_size: int) -> LanguageModel:
    """A model that is sure of itself, so that its choices can be told from the recogniser's."""
    torch.manual_seed(1)
    config = LmModelConfig(kind, vocab_size, embedding_dim=16, hidden_dim=24, num_heads=2, left_context=6)  # type: ignore[arg-type]
    model = LanguageModel(config).eval()
    model.embedding.weight.data *= 4
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
    for number, part in enumerate((samples, samples[: len(samples) // 2])):
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


@pytest.fixture(scope="module")
def online(model_folder: Path) -> Path:
    """The graphs of chunks and of steps."""
    folder = model_folder.with_name("online")
    bundle = Bundle.load(model_folder)
    folder.mkdir()
    write_chunk_graphs(bundle.model, FORM.chunking, folder)
    write_decoder_and_joiner(bundle, folder)
    describe(folder / "encoder.onnx", bundle, metadata(bundle.config.model.encoder, FORM.chunking))
    differences = write_language_models(bundle, folder, for_streams=True)
    assert differences.keys() == {f"{kind}_lm.onnx" for kind in KINDS} and max(differences.values()) < 1e-4
    (folder / "tokens.txt").write_bytes((model_folder / "tokens.txt").read_bytes())
    return folder


def test_sherpa_onnx_rescores_to_the_same_texts(
    run_sherpa: RunSherpa, offline: Path, model_folder: Path, speech: list[Path]
) -> None:
    bundle, expected = Bundle.load(model_folder), []
    for kind, scale in RESCORING:
        decoding = DecodingConfig(
            "modified_beam_search_lm_rescore",
            beam_size=PATHS,
            lm_type=kind,
            lm_scales=(scale,),  # type: ignore[arg-type]
        )
        expected.append([found.text for found in bundle.transcribe_many(speech, decoding=decoding)])
    assert json.loads(run_sherpa(SHERPA, offline, 0, json.dumps(RESCORING), *speech)) == expected
    assert all(weak[0] and weak != strong for weak, strong in zip(expected[::2], expected[1::2])), "it has a say"


@torch.inference_mode()
def test_sherpa_onnx_fuses_to_the_same_texts_in_streams(
    run_sherpa: RunSherpa, online: Path, model_folder: Path, speech: list[Path]
) -> None:
    bundle, expected, own = Bundle.load(model_folder), [], []
    x = torch.from_numpy(whole_chunks(bundle, speech[0], FORM.chunking))[None]
    encoder_out, lens, _ = bundle.model.encode(x, torch.tensor([x.size(1)]), FORM.chunking)
    for kind, scale in FUSION:
        lm = NeuralScorer(load_neural_lm(model_folder / f"{kind}_lm.safetensors", bundle.tokenizer.pieces), scale)
        search = ModifiedBeamSearch(bundle.model, beam_size=PATHS, scorers=[lm])
        own.append([bundle.tokenizer.decode(search_utterances(search, encoder_out, lens)[0].tokens)])
        expected.append([bundle.tokenizer.decode(fused_late(bundle.model, lm, encoder_out[0]))])
    tail = tail_seconds(FORM.chunking)
    assert json.loads(run_sherpa(SHERPA, online, tail, json.dumps(FUSION), speech[0])) == expected
    assert own[:2] == expected[:2] and expected[2] != expected[3], "a weak one changes nothing, a strong one does"


def fused_late(model: AsrModel, lm: NeuralScorer, encoder_out: torch.Tensor) -> list[int]:
    """The search of sherpa-onnx and icefall, which choose a frame's hypotheses before they add their tokens' scores.

    `ModifiedBeamSearch` adds them first, so that a narrow beam holds what the language model likes.
    """
    hyps = {(): (0.0, 0.0, lm.start(1, 1))}  # by tokens: both log-probabilities, and the language model's state
    for frame in model.joiner.encoder_projection(encoder_out):
        found = list(hyps)
        contexts = torch.tensor([[*model.decoder.start_context, *tokens][-2:] for tokens in found])
        decoder_frames = projected_decoder_out(model, contexts)
        log_probs = next_token_log_probs(model, frame[None], decoder_frames, blank_penalty=0.0)
        totals = log_probs + torch.tensor([[hyps[tokens][0] + hyps[tokens][1]] for tokens in found])
        after: dict[tuple[int, ...], Any] = {}
        for place in totals.flatten().topk(PATHS).indices.tolist():
            tokens, token = found[place // totals.size(1)], place % totals.size(1)
            own, by_lm, state = hyps[tokens]
            own += float(log_probs.flatten()[place])
            if token not in (0, 2):
                tokens, by_lm = (*tokens, token), by_lm + float(lm.token_scores(state)[0, 0, token])
                state = lm.advanced(state, torch.tensor([[0]]), torch.tensor([[token]]))
            before = after[tokens][0] if tokens in after else -math.inf
            after[tokens] = float(np.logaddexp(own, before)), by_lm, state
        hyps = after
    return list(max(hyps, key=lambda tokens: sum(hyps[tokens][:2]) / (len(tokens) + 2)))
