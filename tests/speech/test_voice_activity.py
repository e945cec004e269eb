from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from shared_moe_conformer import transcribe
from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.data.distortions import Setting, music
from shared_moe_conformer.data.features import resample
from shared_moe_conformer.release.manifest import TEST_WAV
from shared_moe_conformer.speech.audio import read_audio, write_wav
from shared_moe_conformer.speech.transcript import Transcript, Word
from shared_moe_conformer.speech.voice_activity import (
    MARGIN,
    LiveSpeech,
    Span,
    load_detector,
    only_spoken,
    speech_spans,
)

ZOO = Path(__file__).resolve().parents[2] / "zoo"
RATE = 16000
MUSIC_SECONDS = 4.0


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Three seconds in which somebody spells, at 16 kHz."""
    samples, rate = read_audio(ZOO / "an4-base" / TEST_WAV)
    assert rate == RATE
    return samples


@pytest.fixture(scope="module")
def after_music(speech: np.ndarray) -> np.ndarray:
    """The same, after four seconds of made music."""
    made = music(int(MUSIC_SECONDS * RATE), Setting(RATE, np.random.default_rng(6), lambda: speech))
    return np.concatenate([made * 2 * speech.std() / made.std(), speech]).astype(np.float32)


def live_spans(samples: np.ndarray, rate: int, *, part: int) -> list[Span]:
    live = LiveSpeech(rate)
    for start in range(0, len(samples), part):
        live.accept(samples[start : start + part])
    return live.spans


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100])
@pytest.mark.parametrize("gain", [0, -30])
def test_speech_is_heard_at_any_rate_and_level(speech: np.ndarray, rate: int, gain: float) -> None:
    samples = 10 ** (gain / 20) * (speech if rate == RATE else resample(speech, RATE, rate))
    found, live = speech_spans(samples, rate), live_spans(samples, rate, part=rate // 7)
    for spans in (found, live):
        assert spans[0].start == pytest.approx(0.3, abs=0.1)
        assert min(spans[-1].end, len(speech) / RATE) == pytest.approx(2.85, abs=0.2)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_a_word_that_fills_its_recording_is_heard(speech: np.ndarray, rate: int) -> None:
    word = resample(speech[int(0.45 * RATE) : int(0.75 * RATE)], RATE, rate)
    (found,) = speech_spans(word, rate)
    live = LiveSpeech(rate)
    live.accept(word)
    live.finish()
    (heard,) = live.spans
    for span in (found, heard):
        assert span.start == pytest.approx(0, abs=0.1) and span.end == pytest.approx(0.3, abs=0.15)


def test_speech_is_heard_beside_clicks_offsets_and_louder_speech(speech: np.ndarray) -> None:
    quiet = 0.01 * speech
    clicks = quiet.copy()
    clicks[:: 2 * RATE] = 1
    usual = speech_spans(speech, RATE)
    for spans in (
        speech_spans(clicks, RATE),
        speech_spans(quiet + 0.3, RATE),
        live_spans(quiet + 0.3, RATE, part=RATE),
    ):
        ends = spans[0].start, min(spans[-1].end, len(speech) / RATE)
        assert ends == pytest.approx((usual[0].start, usual[-1].end), abs=0.2)
    seconds = len(speech) / RATE
    both = speech_spans(np.concatenate([speech, quiet]), RATE)
    assert both[-1].end == pytest.approx(seconds + usual[-1].end, abs=0.3)
    assert sum(min(end - start, end - seconds) for start, end in both if end > seconds) > 1.5


def test_a_stream_counts_the_seconds_of_odd_rates(speech: np.ndarray) -> None:
    live = LiveSpeech(11025)
    for _ in range(40):
        live.accept(np.tile(resample(speech, RATE, 11025), 5))
    assert live._num_resampled / RATE == pytest.approx(live._num_taken / 11025, abs=1e-3)


def test_a_stream_hears_the_same_however_it_is_cut(after_music: np.ndarray) -> None:
    assert live_spans(after_music, RATE, part=160) == live_spans(after_music, RATE, part=12345)


def test_silence_noise_and_nothing_hold_no_speech() -> None:
    noise = np.random.default_rng(0).standard_normal(5 * RATE)
    for samples in (np.zeros(0), np.zeros(RATE), noise, 1e-3 * noise):
        assert speech_spans(samples.astype(np.float32), RATE) == []


def test_words_are_believed_in_speech_alone(speech: np.ndarray, after_music: np.ndarray) -> None:
    bundle = Bundle.load(ZOO / "an4-streaming")
    spoken = bundle.transcribe(speech, sampling_rate=RATE)
    assert bundle.transcribe(speech, sampling_rate=RATE, vad=True) == spoken, "nothing that was said is lost"
    in_music = bundle.transcribe(after_music, sampling_rate=RATE).words[0]
    believed = bundle.transcribe(after_music, sampling_rate=RATE, vad=True)
    assert in_music.end < MUSIC_SECONDS - 2 * MARGIN < believed.words[0].start
    assert (
        believed.text.endswith("THIRTY EIGHT")
        and "".join(believed.tokens).replace("\u2581", " ").strip() == believed.text
    )
    assert len(believed.tokens) == len(believed.times) == len(believed.confidences or ())


def test_the_first_word_may_be_found_long_before_its_sound() -> None:
    word = Word("YOUR", 0.015, 0.055)
    transcript = Transcript("YOUR", ["\u2581YOUR"], [0.035], [word])
    assert only_spoken(transcript, [Span(1.0, 4.0)]) is transcript, "as uqm's models find it"
    at_the_edge = [Span(0.045 + MARGIN, 4.0)]
    assert only_spoken(transcript, at_the_edge) is transcript, "the word and its token go together"
    assert only_spoken(transcript, [Span(2.0, 4.0)]).text == ""


def test_transcribe_uses_the_detector_by_default(
    after_music: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_wav(tmp_path / "a.wav", after_music, sampling_rate=RATE)
    said = []
    for options in ([], ["--vad", "false"]):
        transcribe.main(["--model", str(ZOO / "an4-streaming"), "--format", "text", *options, str(tmp_path / "a.wav")])
        said.append(capsys.readouterr().out.split())
    believed, whole = said
    assert len(believed) < len(whole) and believed == whole[-len(believed) :] and believed[-2:] == ["THIRTY", "EIGHT"]


def test_samples_that_are_no_numbers_are_refused_and_not_taken_for_silence() -> None:
    bundle, samples = Bundle.load(ZOO / "an4-streaming"), np.full(RATE, np.nan, dtype=np.float32)
    with pytest.raises(ValueError, match="infinite or undefined samples"):
        bundle.transcribe(samples, sampling_rate=RATE, vad=True)
    with pytest.raises(ValueError, match="infinite or undefined samples"):
        bundle.stream(chunk_size=16, vad=True).accept(samples, RATE)


def test_a_stream_believes_words_in_speech_alone(after_music: np.ndarray) -> None:
    bundle = Bundle.load(ZOO / "an4-streaming")
    heard = {}
    for vad in (False, True):
        stream = bundle.stream(chunk_size=16, vad=vad)
        partial = [stream.accept(after_music[i : i + RATE], RATE).text for i in range(0, 3 * RATE, RATE)]
        stream.accept(after_music[3 * RATE :], RATE)
        stream.finish()
        heard[vad] = (any(partial), [word for _, transcript in stream.pop_segments() for word in transcript.words])
    assert heard[False][0] and heard[False][1][0].end < MUSIC_SECONDS - MARGIN
    assert not heard[True][0] and heard[True][1][0].start > MUSIC_SECONDS - 2 * MARGIN
    assert [word.text for word in heard[True][1]][-2:] == ["THIRTY", "EIGHT"]


def test_a_word_outside_speech_goes_with_its_tokens() -> None:
    words = [Word("A", 0.4, 0.6, 0.9), Word("BE", 3.0, 3.3, 0.5), Word("C", 6.4, 6.5, 0.7)]
    tokens, times = ["\u2581A", "\u2581B", "E", "\u2581C"], [0.5, 3.1, 3.25, 6.45]
    transcript = Transcript("A BE C", tokens, times, words, [0.9, 0.5, 0.8, 0.7])
    assert only_spoken(transcript, [Span(0.0, 7.0)]) is transcript
    assert only_spoken(transcript, [Span(3.2, 3.4)]) == Transcript(
        "BE", ["\u2581B", "E"], [3.1, 3.25], words[1:2], [0.5, 0.8]
    )
    assert only_spoken(transcript, [Span(0.0, 0.2), Span(6.6, math.inf)]).text == "A C"
    assert only_spoken(transcript, []) == Transcript("", [], [], [], [])


def test_a_new_stream_loads_no_detector_and_streams_do_not_hear_each_other(
    speech: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading one takes half a second, in which a server would recognise nobody."""
    alone = live_spans(speech, RATE, part=1600)
    load_detector()
    monkeypatch.setattr("silero_vad.load_silero_vad", None)
    streams = [LiveSpeech(rate) for rate in (RATE, RATE, 8000)]
    for start in range(0, len(speech), 1600):
        for stream, gain in zip(streams, (1, 0, 0)):
            stream.accept(gain * speech[start : start + 1600])
    assert [stream.spans for stream in streams] == [alone, [], []]


def test_the_detector_leaves_torchs_threads_alone(speech: np.ndarray) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    live_spans(speech, RATE, part=RATE)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
