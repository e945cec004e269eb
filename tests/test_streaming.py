from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import ENCODER_FRAME_SHIFT, replace_fields
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.release.manifest import TEST_WAV
from shared_moe_conformer.speech.audio import read_audio
from shared_moe_conformer.speech.transcript import EMPTY, Transcript
from shared_moe_conformer.streaming import EndedSegment, EndpointRules, Stream, StreamResult

NEVER = EndpointRules(1e9, 1e9, 1e9)
RATE = 16000


def parts_of(samples: np.ndarray, seed: int) -> list[np.ndarray]:
    """The samples in parts of 0 to 0.4 seconds."""
    sizes = np.random.default_rng(seed).integers(0, 6400, size=1 + len(samples) // 3000)
    return list(np.split(samples, np.minimum(np.cumsum(sizes), len(samples))))


def whole(bundle: Bundle, samples: np.ndarray, config: DecodingConfig) -> Transcript:
    return bundle.transcribe(samples, sampling_rate=RATE, decoding=config)


@pytest.mark.parametrize(
    "method",
    [
        *("greedy_search", "modified_beam_search", "ctc_greedy_search", "ctc_prefix_beam_search"),
        *("1best", "nbest_transducer_rescoring"),
    ],
)
def test_a_stream_finds_the_words_and_times_of_the_whole_in_chunks(
    tiny_bundle: Bundle, tones: np.ndarray, method: str
) -> None:
    options = {"graph": "H", "lattice_engine": "embedded"} if "best" in method else {}
    config = DecodingConfig(decoding_method=method, chunk_size=8, left_context_frames=16, **options)  # type: ignore[arg-type]
    expected = whole(tiny_bundle, tones, config)
    assert expected.tokens
    stream = tiny_bundle.stream(chunk_size=8, left_context=16, decoding=config, rules=NEVER)
    grown = [len(stream.accept(part, RATE).partial.tokens) for part in parts_of(tones, 1)]
    result = stream.finish()
    assert result.is_final and result.final == expected and not result.partial.tokens
    assert grown == sorted(grown) or method != "greedy_search"  # greedy search takes nothing back


def test_streams_that_are_batched_are_as_alone(
    tiny_bundle: Bundle, tones: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings = [tones, tones[3000:], tones[::-1][: len(tones) // 2].copy()]
    alone = []
    for recording in recordings:
        stream = tiny_bundle.stream(chunk_size=8, left_context=16)
        stream.accept(recording, RATE)
        alone.append(stream.finish())
    recognizer = tiny_bundle.recognizer(chunk_size=8, left_context=16)
    streams = [recognizer.stream() for _ in recordings]
    queues = [parts_of(recording, seed) for seed, recording in enumerate(recordings)]
    sizes, step = [], tiny_bundle.model.encoder.step
    monkeypatch.setattr(tiny_bundle.model.encoder, "step", lambda x, *rest: (sizes.append(len(x)), step(x, *rest))[1])
    for time in range(max(map(len, queues)) + 5):
        for late, (stream, queue) in enumerate(zip(streams, queues)):
            if late <= time < len(queue) + late:
                stream.add(queue[time - late], RATE)
        recognizer.advance(streams)
    assert [stream.finish() for stream in streams] == alone
    assert max(sizes) > 1


@pytest.mark.parametrize("rule", [EndpointRules(2.4, 1e9, 1e9), EndpointRules(1e9, 1.2, 1e9)])
def test_a_segment_ends_with_the_chunk_in_which_the_pause_is_long_enough(
    tiny_bundle: Bundle, tones: np.ndarray, rule: EndpointRules
) -> None:
    stream = tiny_bundle.stream(chunk_size=8, left_context=16, rules=rule)
    stream.accept(tones, RATE)
    stream.accept(np.zeros(3 * RATE, dtype=np.float32), RATE)
    stream.accept(tones, RATE)
    first, second, *_ = *stream.pop_segments(), EndedSegment(stream.segment_start, stream.finish().partial)
    pause = second.start - first.transcript.times[-1]
    needed = min(rule.rule1_min_trailing_silence, rule.rule2_min_trailing_silence)
    assert needed <= pause <= needed + (8 + 1) * ENCODER_FRAME_SHIFT


def test_long_segments_end_and_times_go_on(tiny_bundle: Bundle, tones: np.ndarray) -> None:
    pause = np.zeros(3 * RATE, dtype=np.float32)
    rules = EndpointRules(
        rule1_min_trailing_silence=1e9, rule2_min_trailing_silence=1e9, rule3_min_utterance_length=2.0
    )
    stream = tiny_bundle.stream(chunk_size=8, left_context=16, rules=rules)
    seen: list[StreamResult] = [stream.accept(part, RATE) for part in [tones, pause, tones]]
    result = stream.finish()
    assert result.segment >= 2 and result.final.times == sorted(result.final.times)
    for before, after in zip(seen, [*seen[1:], result]):
        assert after.final.tokens[: len(before.final.tokens)] == before.final.tokens
    assert result.final.times[-1] < (2 * len(tones) + len(pause)) / RATE


@pytest.mark.parametrize("method", ["ctc_greedy_search", "greedy_search"])
@pytest.mark.parametrize("longest", [0.3, 0.6, 0.9])
def test_the_longest_segment_ends_in_the_middle_of_words_without_a_loss(
    tiny_bundle: Bundle, tones: np.ndarray, method: str, longest: float
) -> None:
    """A search that began again there would find a token twice that goes on, or forget the tokens before."""
    config = DecodingConfig(decoding_method=method)  # type: ignore[arg-type]
    found = []
    for rules in (NEVER, EndpointRules(1e9, 1e9, longest)):
        stream = tiny_bundle.stream(chunk_size=3, left_context=16, decoding=config, rules=rules)
        stream.accept(np.tile(tones, 3), RATE)
        found.append(stream.finish())
    whole, cut = found
    assert cut.segment > 3 and whole.segment == 1
    assert (cut.final.tokens, cut.final.times) == (whole.final.tokens, whole.final.times)


@pytest.mark.parametrize(
    ("length", "silence", "ends"),
    [(2.3, 2.3, False), (2.4, 2.4, True), (3.0, 1.1, False), (3.0, 1.2, True), (1.3, 1.3, False), (20.0, 0.1, True)],
)
def test_rules_of_endpoints(length: float, silence: float, ends: bool) -> None:
    assert EndpointRules().end_segment(length=length, trailing_silence=silence) == ends


@pytest.mark.parametrize(
    ("method", "rule"),
    [
        ("greedy_search", EndpointRules()),
        ("modified_beam_search", EndpointRules()),
        ("ctc_prefix_beam_search", EndpointRules(1e9, 1e9, 1.0)),
        ("1best", EndpointRules(1e9, 1e9, 1.0)),
    ],
)
def test_memory_of_a_stream_does_not_grow(
    tiny_bundle: Bundle, tones: np.ndarray, method: str, rule: EndpointRules
) -> None:
    """Speech and pauses again and again: a stream whose segments are taken is as large after each as after two."""
    options = {"graph": "H", "lattice_engine": "embedded"} if "best" in method else {}
    config = DecodingConfig(decoding_method=method, **options)  # type: ignore[arg-type]
    stream = tiny_bundle.stream(chunk_size=8, left_context=16, decoding=config, rules=rule)
    speech = np.concatenate([tones, np.zeros(round(2.48 * RATE), dtype=np.float32)])  # 14 chunks
    sizes, num_segments = [], 0
    for _ in range(5):
        for part in np.split(speech, 4):
            stream.accept(part, RATE)
            num_segments += len(stream.pop_segments())
        sizes.append(size_of(stream))
    assert num_segments == stream.result.segment >= 5
    assert max(sizes[2:]) <= 1.02 * max(sizes[:2]) + 100


@pytest.mark.parametrize("rate", [8000, 44100])
def test_memory_of_a_stream_that_is_resampled_does_not_grow(tiny_bundle: Bundle, rate: int) -> None:
    stream = tiny_bundle.stream(chunk_size=8, left_context=16)
    sizes = []
    for _ in range(6):
        stream.accept(np.zeros(128 * rate // 100, dtype=np.float32), rate)
        sizes.append(size_of(stream))
    assert max(sizes[2:]) <= 1.02 * max(sizes[:2]) + 100


def size_of(stream: Stream) -> int:
    """Bytes of what a stream keeps; of a tensor that is a part of a larger one, the larger one's."""
    return len(pickle.dumps({name: value for name, value in vars(stream).items() if name != "_recognizer"}))


def test_what_a_stream_refuses(tiny_bundle: Bundle, tones: np.ndarray) -> None:
    with pytest.raises(ValueError, match="was not trained to stream"):
        tiny_bundle.stream()
    levelled = replace_fields(tiny_bundle.config, {"loudness_norm": True})
    with pytest.raises(ValueError, match="cannot recognise chunks: train one with --loudness-norm false"):
        dataclasses.replace(tiny_bundle, config=levelled, model=AsrModel(levelled.model)).recognizer(chunk_size=8)
    stream = tiny_bundle.stream(chunk_size=8)
    with pytest.raises(ValueError, match="samples are int16: give floats from -1 to 1"):
        stream.accept((tones * 32768).astype(np.int16), RATE)
    with pytest.raises(ValueError, match="a sampling rate of 16000.5 Hz: give"):
        stream.accept(tones, 16000.5)
    stream.accept(tones, RATE)
    stream.accept(tones[:100], float(RATE))
    with pytest.raises(ValueError, match="samples at 8000 Hz after others at 16000 Hz: keep one rate"):
        stream.accept(tones, 8000)
    stream.finish()
    with pytest.raises(ValueError, match="has ended"):
        stream.accept(tones, RATE)
    assert tiny_bundle.stream(chunk_size=8).finish().text == ""
    with pytest.raises(ValueError, match="rule1_min_trailing_silence is 0"):
        EndpointRules(0)
    with pytest.raises(ValueError, match="chunk_size is 0"):
        tiny_bundle.stream(chunk_size=0)
    with pytest.raises(ValueError, match="decoding_method is 'all': give one of greedy_search, "):
        tiny_bundle.stream(chunk_size=8, decoding=DecodingConfig("all"))
    with pytest.raises(ValueError, match="chunks of 4 frames, and chunk_size is 8: give chunk_size=4"):
        tiny_bundle.stream(chunk_size=8, decoding=DecodingConfig(chunk_size=4))
    assert torch.is_inference_mode_enabled() is False


def test_ended_segments_can_be_taken_from_a_stream(tiny_bundle: Bundle, tones: np.ndarray) -> None:
    rules = EndpointRules(rule3_min_utterance_length=1.0)
    kept, taken = (tiny_bundle.stream(chunk_size=8, left_context=16, rules=rules) for _ in range(2))
    segments = []
    for part in [*parts_of(tones, 2), None]:
        for stream in (kept, taken):
            _ = stream.finish() if part is None else stream.accept(part, RATE)
        segments += taken.pop_segments()
        assert not taken.result.final.tokens
    result = kept.result
    assert [time for segment in segments for time in segment.transcript.times] == result.final.times
    assert len(segments) == result.segment == taken.result.segment >= 2
    assert all(segment.start <= segment.transcript.times[0] for segment in segments)


@pytest.mark.parametrize("chunk_size", [4, 16])
def test_the_streaming_model_of_the_clone_hears_its_recording(chunk_size: int) -> None:
    folder = Path(__file__).resolve().parents[1] / "zoo/an4-streaming"
    samples, rate = read_audio(folder / TEST_WAV)
    stream = Bundle.load(folder).stream(chunk_size=chunk_size)
    shown = [stream.accept(part, rate).text for part in np.split(samples, range(1600, len(samples), 1600))]
    assert stream.finish().text == "L K K N THIRTY EIGHT"
    assert shown[0] == "" and "L" in shown[-10] and len(set(shown)) >= 16 / chunk_size


def test_texts_of_scripts_without_spaces_get_none() -> None:
    parts = [(("ONE", "TWO"), "ONE TWO"), (("\u4e00", "\u4e8c"), "\u4e00\u4e8c"), (("", "ONE"), "ONE")]
    for (final, partial), text in parts:
        result = StreamResult(EMPTY._replace(text=final), EMPTY._replace(text=partial), 1, False)
        assert result.text == text


@pytest.mark.parametrize("num_frames", [99, 102, 103])
def test_a_stream_of_whole_chunks_is_searched_at_its_end_too(
    tiny_bundle: Bundle, tones: np.ndarray, num_frames: int
) -> None:
    """Up to 6 feature frames that are left make no encoder frame, so no chunk comes after `end`."""
    config = DecodingConfig("1best", graph="H", lattice_engine="embedded", chunk_size=8, left_context_frames=16)
    stream = tiny_bundle.stream(chunk_size=8, left_context=16, decoding=config, rules=NEVER)
    stream.accept(tones[: num_frames * 160], RATE)
    assert stream.finish().final.tokens == whole(tiny_bundle, tones[: num_frames * 160], config).tokens
