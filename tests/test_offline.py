from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.data.features import resample
from shared_moe_conformer.speech.audio import write_wav
from shared_moe_conformer.speech.recognition import Recording, Samples
from shared_moe_conformer.speech.transcript import EMPTY

ROOT = Path(__file__).resolve().parent.parent
Save = Callable[..., Path]


@pytest.mark.parametrize("sampling_rate", [8000, 22050, 44100])
def test_other_sampling_rates_are_resampled(tiny_bundle: Bundle, tones: np.ndarray, sampling_rate: int) -> None:
    resampled = resample(tones, sampling_rate, 16000)
    transcript = tiny_bundle.transcribe(tones, sampling_rate=sampling_rate)
    assert transcript.text
    assert transcript == tiny_bundle.transcribe(resampled, sampling_rate=16000)


def test_files_and_samples_give_the_same(tiny_bundle: Bundle, tones: np.ndarray, tmp_path: Path) -> None:
    rounded = (tones * 32768).round() / 32768
    write_wav(tmp_path / "a.wav", rounded, sampling_rate=16000)
    assert tiny_bundle.transcribe(tmp_path / "a.wav") == tiny_bundle.transcribe(rounded, sampling_rate=16000)


@pytest.mark.parametrize("num_samples", [0, 1, 100, 399, 400, 401, 800, 1000])
def test_recordings_too_short_for_a_frame_say_nothing(tiny_bundle: Bundle, num_samples: int) -> None:
    for sampling_rate in (8000, 16000, 48000):
        short = np.zeros(num_samples * sampling_rate // 16000, dtype=np.float32)
        assert tiny_bundle.transcribe(short, sampling_rate=sampling_rate) == EMPTY


def test_the_shortest_recordings_that_have_frames_are_transcribed(tiny_bundle: Bundle, tones: np.ndarray) -> None:
    for num_samples in (*range(800, 1400, 100), 1600, 2400):
        tiny_bundle.transcribe(tones[:num_samples], sampling_rate=16000)


def test_what_is_no_audio_is_refused(tiny_bundle: Bundle, tones: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without sampling_rate"):
        tiny_bundle.transcribe(tones)
    with pytest.raises(ValueError, match="one channel"):
        tiny_bundle.transcribe(tones[None], sampling_rate=16000)
    with pytest.raises(ValueError, match="infinite or undefined"):
        tiny_bundle.transcribe(np.full(16000, np.nan, dtype=np.float32), sampling_rate=16000)
    (tmp_path / "a.wav").write_text("not audio")
    with pytest.raises(ValueError, match="cannot be read as audio"):
        tiny_bundle.transcribe(tmp_path / "a.wav")


def test_many_recordings_give_what_each_gives_alone(tiny_bundle: Bundle, tones: np.ndarray, tmp_path: Path) -> None:
    lengths = (32000, 100, 4000, 0, 16000, 1200)
    recordings: list[Recording] = [Samples(tones[:length], 16000) for length in lengths]
    write_wav(tmp_path / "a.wav", tones[::-1], sampling_rate=8000)
    recordings.insert(2, tmp_path / "a.wav")
    transcripts = list(tiny_bundle.transcribe_many(recordings, max_duration=3.0))
    assert len(transcripts) == len(recordings)
    for recording, transcript in zip(recordings, transcripts):
        audio, rate = recording if isinstance(recording, Samples) else (recording, None)
        alone = tiny_bundle.transcribe(audio, sampling_rate=rate)  # type: ignore[arg-type]
        assert transcript == alone
    assert sum(bool(transcript.text) for transcript in transcripts) >= 3


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "shown"), [(Terminal, True), (io.StringIO, False)])
def test_a_bar_of_seconds_is_shown_on_a_terminal(
    tiny_bundle: Bundle, tones: np.ndarray, monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], shown: bool
) -> None:
    err = stream()
    monkeypatch.setattr(sys, "stderr", err)
    list(tiny_bundle.transcribe_many([Samples(tones, 16000), Samples(tones, 16000)], progress=True))
    assert ("100%" in err.getvalue() and "4.00/4.00" in err.getvalue()) == shown
    assert bool(err.getvalue()) == shown


def test_an_error_is_raised_or_given_to_who_asks(tiny_bundle: Bundle, tones: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "b.wav").write_text("not audio")
    recordings = [Samples(tones, 16000), tmp_path / "b.wav", tmp_path / "missing.wav", Samples(tones, 16000)]
    errors: dict[int, str] = {}
    results = tiny_bundle.transcribe_many(recordings, on_error=lambda i, error: errors.update({i: str(error)}))
    first, second, third, last = results
    assert first == last
    assert first.text
    assert second == third == EMPTY
    assert "cannot be read as audio" in errors[1]
    assert "no audio file" in errors[2]
    with pytest.raises(ValueError, match="cannot be read as audio"):
        list(tiny_bundle.transcribe_many(recordings))


def test_recordings_are_read_as_they_are_needed(tiny_bundle: Bundle, tones: np.ndarray) -> None:
    read = []

    def recordings() -> Iterator[Samples]:
        for number in range(200):
            read.append(number)
            yield Samples(np.tile(tones, 5), 16000)

    next(tiny_bundle.transcribe_many(recordings()))
    assert len(read) == 30


def test_a_long_recording_has_the_words_of_its_parts_at_their_times(tiny_bundle: Bundle, tones: np.ndarray) -> None:
    silence = np.zeros(16000, dtype=np.float32)
    part = np.concatenate([silence, np.tile(tones, 10)])
    cuts = [0, 21 * 16000 + 12800, 42 * 16000 + 12800]  # 0.2 s before the end of each silence
    whole = np.concatenate([part, part, part])
    long = tiny_bundle.transcribe(whole, sampling_rate=16000)
    expected = []
    for first, last in zip(cuts, [*cuts[1:], len(whole)]):
        alone = tiny_bundle.transcribe(whole[first:last], sampling_rate=16000)
        expected += [(token, round(time + first / 16000, 3)) for token, time in zip(alone.tokens, alone.times)]
    assert [token for token, _ in expected] == long.tokens
    np.testing.assert_allclose(long.times, [time for _, time in expected], atol=2e-3)
    assert long.times[-1] > 50


@pytest.mark.parametrize(("seconds", "longest"), [(30, 30.0), (150, 8.0)])
def test_a_recording_above_half_a_minute_is_cut_as_the_manifest_says(
    tiny_bundle: Bundle, tones: np.ndarray, seconds: int, longest: float
) -> None:
    bundle = dataclasses.replace(tiny_bundle, manifest=dataclasses.replace(tiny_bundle.manifest, segment_seconds=8.0))
    found: list[float] = []
    samples = Samples(np.tile(tones, seconds // 2), 16000)
    next(bundle.transcribe_many([samples], on_experts=lambda segment, ids: found.append(len(segment.features) / 100)))
    assert sum(found) == pytest.approx(seconds, abs=0.1)
    assert longest - 4 < max(found) <= longest


HOUR = """
import resource, sys
import numpy as np
from shared_moe_conformer.bundle import Bundle
bundle = Bundle.load(sys.argv[1])
short = bundle.transcribe(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
transcript = bundle.transcribe(sys.argv[3])
print(transcript.times[-1], (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_an_hour_takes_no_more_memory_than_its_pool(saved: Save, tones: np.ndarray, tmp_path: Path) -> None:
    for name, seconds in (("short.wav", 60), ("hour.wav", 3600)):
        write_wav(tmp_path / name, np.tile(tones, seconds // 2), sampling_rate=16000)
    command = [sys.executable, "-c", HOUR, saved(), tmp_path / "short.wav", tmp_path / "hour.wav"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    last, megabytes = map(float, result.stdout.split())
    assert 3590 < last < 3600
    assert megabytes < 150, "an hour's samples are 230 MB, its features 115 MB"
