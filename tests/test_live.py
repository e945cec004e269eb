from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import io
import json
import os
import signal
import struct
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.config import replace_fields
from shared_moe_conformer.live import LiveLines, hear_microphone, read_pcm, transcribe_live
from shared_moe_conformer.release.manifest import ExampleRecording
from shared_moe_conformer.speech.transcript import EMPTY
from shared_moe_conformer.streaming import EndpointRules
from shared_moe_conformer.transcribe import main

Save = Callable[..., Path]
Output = pytest.CaptureFixture[str]
RATE = 16000
CHUNK = ["--chunk-size", "8", "--left-context-frames", "16"]


def pcm_of(samples: np.ndarray) -> bytes:
    return (samples * 32767).round().astype("<i2").tobytes()


def wav_header(rate: int = RATE, channels: int = 1, bits: int = 16) -> bytes:
    """As programs write it to a pipe: of a length that nobody knows, with another chunk, of odd length, before it."""
    layout = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * 2, 2, bits)
    return b"RIFF\0\0\0\0WAVE" + struct.pack("<4sI4s", b"LIST", 3, b"abc\0") + layout + b"data\0\0\0\x80"


class Trickle(io.BytesIO):
    """A pipe that gives 1 to 7 bytes at a time."""

    def read1(self, size: int | None = -1) -> bytes:
        return self.read(1 + self.tell() % 7)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("start", [b"", wav_header()])
def test_samples_come_whole_from_a_pipe(start: bytes) -> None:
    samples = np.arange(-300, 300, dtype="<i2")
    parts = list(read_pcm(Trickle(start + samples.tobytes() + b"\1"), sampling_rate=RATE))
    np.testing.assert_array_equal(np.concatenate(parts), samples.astype(np.float32) / 32768)
    assert list(read_pcm(io.BytesIO(), sampling_rate=RATE)) == []


def test_other_samples_than_the_flags_say_are_refused() -> None:
    with pytest.raises(ValueError, match="has 8000 Hz, not 16000: --sampling-rate 8000"):
        list(read_pcm(io.BytesIO(wav_header(8000)), sampling_rate=RATE))
    with pytest.raises(ValueError, match="2 channels of 16 bits"):
        list(read_pcm(io.BytesIO(wav_header(channels=2)), sampling_rate=RATE))


def encoded(samples: np.ndarray, rate: int, format_: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format_)
    return file.getvalue()


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100])
@pytest.mark.parametrize("format_", ["MP3", "FLAC", "AIFF", "CAF", "W64", "RF64", "AU", "NIST"])
def test_other_formats_than_raw_samples_are_named(format_: str, rate: int, tones: np.ndarray) -> None:
    """libsndfile's MP3 files have no tags: they begin with a frame."""
    name = "SPHERE" if format_ == "NIST" else format_
    message = f"is {name}, not samples: decode it by ffmpeg -i - -f s16le -ac 1 -ar 16000 -"
    content = encoded(tones, rate, format_)
    for file in (io.BytesIO(content), Trickle(content)):
        with pytest.raises(ValueError, match=message):
            list(read_pcm(file, sampling_rate=RATE))


@pytest.mark.parametrize(
    ("start", "name"),
    [(b"ID3\4", "MP3"), (b"OggS", "Ogg"), (b"\0\0\0 ftypM4A ", "MP4"), (b"\x1aE\xdf\xa3", "WebM"), (b"#!AMR\n", "AMR")],
)
def test_formats_are_known_by_their_first_bytes(start: bytes, name: str) -> None:
    with pytest.raises(ValueError, match=f"the standard input is {name}, not samples"):
        list(read_pcm(io.BytesIO(start.ljust(4000, b"\0")), sampling_rate=RATE))


@pytest.mark.parametrize("first", [b"\xff\xff", b"\xff\xfb", b"\xff\xf3"])
def test_samples_that_look_like_a_frame_of_mp3_are_samples(first: bytes) -> None:
    """-1, -1025 and -3073, the first bytes of frames; no second frame follows."""
    content = first + b"\x90\xc4" + np.arange(3000, dtype="<i2").tobytes()
    parts = list(read_pcm(io.BytesIO(content), sampling_rate=RATE))
    assert (np.concatenate(parts) * 32768).astype("<i2").tobytes() == content


def test_speech_from_the_standard_input_is_printed(
    saved: Save, tones: np.ndarray, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, pcm = str(saved()), pcm_of(tones)
    heard = np.frombuffer(pcm, dtype="<i2") / np.float32(32768)
    stream = Bundle.load(model).stream(chunk_size=8, left_context=16)
    stream.accept(heard, RATE)
    expected = stream.finish()
    for format_ in ("text", "json"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(Trickle(pcm)))
        main(["--model", model, "--live", "-", *CHUNK, "--format", format_, "--vad", "false"])
        out = capsys.readouterr().out
        assert out.count("\n") == expected.segment == 1
        shown = json.loads(out) if format_ == "json" else {"text": out.strip(), "times": expected.final.times}
        assert (shown["text"], shown["times"]) == (expected.text, expected.final.times)


def test_the_left_context_is_the_one_of_the_training_unless_it_is_given(
    tiny_bundle: Bundle, lang_dir: Path, tmp_path: Path, tones: np.ndarray, capsys: Output, monkeypatch: Any
) -> None:
    trained = dataclasses.replace(
        tiny_bundle, config=replace_fields(tiny_bundle.config, {"chunk_sizes": (8,), "left_contexts": (8,)})
    )
    trained.save(tmp_path / "tiny", lang_dir=lang_dir, example=ExampleRecording(tones, RATE, "ONE"))
    found = {}
    of_chunk = ("--chunk-size", "8")
    for given, frames in (
        (of_chunk, 8),
        ((*of_chunk, "--left-context-frames", "24"), 24),
        (("--left-context-frames", "24"), 24),
    ):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(pcm_of(tones))))
        arguments = ["--model", str(tmp_path / "tiny"), "--live", "-", "--vad", "false"]
        main([*arguments, *given, "--format", "json"])
        shown = json.loads(capsys.readouterr().out)
        stream = trained.stream(chunk_size=8, left_context=frames)
        stream.accept(np.frombuffer(pcm_of(tones), dtype="<i2") / np.float32(32768), RATE)
        found[frames] = stream.finish().final.confidences
        assert shown["confidences"] == found[frames]
    assert found[8] != found[24]


def test_words_are_shown_in_place_before_they_are_final(tiny_bundle: Bundle, tones: np.ndarray) -> None:
    rules = EndpointRules(rule3_min_utterance_length=2.0)
    stream, out = tiny_bundle.stream(chunk_size=8, left_context=16, rules=rules), Terminal()
    lines = LiveLines(out, lambda transcript: transcript.text)
    source = np.array_split(np.tile(tones, 2), 40)
    transcribe_live(stream, source, sampling_rate=RATE, lines=lines)
    final = [line.rpartition("\x1b[K")[2] for line in out.getvalue().split("\n")[:-1]]
    again = tiny_bundle.stream(chunk_size=8, left_context=16, rules=rules)
    for samples in source:
        again.accept(samples, RATE)
    assert len(final) == again.finish().segment >= 2
    assert "".join(final).replace(" ", "") == again.result.text.replace(" ", "")
    partial = out.getvalue().split("\n")[0].split("\x1b[2m")[1:]
    assert len(partial) > 2 and final[0].startswith(partial[0].split("\x1b[0m")[0])


def test_a_long_line_shows_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "9")
    out = Terminal()
    lines = LiveLines(out, lambda transcript: transcript.text)
    for text in ("", "one two three", "one two three", "\u6c49\u5b57\u6c49\u5b57\u6c49"):
        lines.partial(text)
    shown = [part.partition("\x1b[0m")[0] for part in out.getvalue().split("\x1b[2m")[1:]]
    assert shown == ["wo three", "\u5b57\u6c49\u5b57\u6c49"]
    lines.final(EMPTY)
    assert out.getvalue().endswith("\r\x1b[K\n")


def test_flags_say_when_segments_end(
    saved: Save, tones: np.ndarray, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(pcm_of(np.tile(tones, 2)))))
    model = ["--model", str(saved()), "--vad", "false"]
    main([*model, "--live", "-", *CHUNK, "--rule3-min-utterance-length", "1"])
    assert capsys.readouterr().out.count("\n") == 3
    with pytest.raises(SystemExit):
        main([*model, "a.wav", "--rule2-min-trailing-silence", "0.5"])
    assert "--rule2-min-trailing-silence does nothing without --live: leave it out" in capsys.readouterr().err


@pytest.mark.parametrize("during", ["reading", "recognition"])
def test_an_interrupt_ends_with_the_last_words(tiny_bundle: Bundle, tones: np.ndarray, during: str) -> None:
    stream, out = tiny_bundle.stream(chunk_size=8, left_context=16), io.StringIO()

    def source() -> Iterator[np.ndarray]:
        yield tones
        if during == "reading":
            os.kill(os.getpid(), signal.SIGINT)
        yield tones

    if during == "recognition":
        accept = stream.accept
        stream.accept = lambda *args: (os.kill(os.getpid(), signal.SIGINT), accept(*args))[1]  # type: ignore[method-assign]
    before = signal.getsignal(signal.SIGINT)
    transcribe_live(stream, source(), sampling_rate=RATE, lines=LiveLines(out, lambda t: t.text))
    alone = tiny_bundle.stream(chunk_size=8, left_context=16)
    alone.accept(tones, RATE)
    assert out.getvalue() == f"{alone.finish().text}\n"
    assert signal.getsignal(signal.SIGINT) is before


def test_a_microphone_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    class PortAudioError(Exception):
        pass

    class InputStream:
        def __init__(self, *, samplerate: int, channels: int, dtype: str, callback: Callable[..., None]) -> None:
            if samplerate == 1:
                raise PortAudioError("Invalid sample rate")
            callback(np.ones((3, channels), dtype), 3, None, None)

        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    fake: Any = types.SimpleNamespace(InputStream=InputStream, PortAudioError=PortAudioError)
    find, import_ = importlib.util.find_spec, importlib.import_module
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name == "sounddevice" else find(name))
    monkeypatch.setattr(importlib, "import_module", lambda name: fake if name == "sounddevice" else import_(name))
    np.testing.assert_array_equal(next(hear_microphone(RATE)), np.ones(3, dtype=np.float32))
    with pytest.raises(ValueError, match="cannot be heard at 1 Hz: Invalid sample rate"):
        next(hear_microphone(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-"], "tiny was not trained to stream"),
        (["a.wav"], "--live hears a microphone, or - the standard input, not a.wav"),
        (["-", "--format", "srt", *CHUNK], "--live has no --format srt"),
        (["-", "--output-dir", "new"], "--live prints"),
        (["-", "--sampling-rate", "0"], "sampling_rate is 0"),
        (["-", *CHUNK, "--rule3-min-utterance-length", "0"], "rule3_min_utterance_length is 0.0: give a positive"),
        (CHUNK, "the package sounddevice is not installed: pip install sounddevice, or"),
    ],
)
def test_what_live_cannot_do_is_one_line(
    saved: Save, capsys: Output, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sounddevice" else find(name))
    with pytest.raises(SystemExit) as exit_:
        main(["--model", str(saved()), "--live", *arguments])
    out, err = capsys.readouterr()
    assert (exit_.value.code, out, err.count("\n")) == (1, "", 1)
    assert message in err
