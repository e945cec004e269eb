from __future__ import annotations

import dataclasses
import io
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.data.features import resample
from shared_moe_conformer.speech.audio import write_wav
from shared_moe_conformer.speech.recognition import (
    REST,
    SHRINKING,
    WHOLE,
    End,
    Recording,
    Samples,
    Segment,
    batches,
    cut_at_silences,
    pools,
    read_segments,
    usual_length,
)
from shared_moe_conformer.speech.transcript import EMPTY

LENGTHS = st.lists(st.integers(7, 3000), max_size=40)


def segment(number: int, length: int) -> Segment:
    return Segment(number, 0.0, torch.zeros(length, 1))


def frames(samples: np.ndarray, sampling_rate: int) -> Tensor:
    return torch.zeros(len(samples) * 100 // sampling_rate, 1)


@given(LENGTHS, st.integers(1, 60))
def test_batches_hold_every_segment_once_and_stay_small(lengths: list[int], max_duration: float) -> None:
    found = list(batches([segment(i, length) for i, length in enumerate(lengths)], max_duration=max_duration))
    assert sorted(part.recording for batch in found for part in batch) == list(range(len(lengths)))
    for batch in found:
        padded = len(batch) * max(len(part.features) for part in batch)
        assert len(batch) == 1 or padded <= 100 * max_duration
    assert [len(part.features) for batch in found for part in batch] == sorted(lengths, reverse=True)


@given(LENGTHS)
def test_pools_are_the_parts_in_order(lengths: list[int]) -> None:
    parts = [part for i, length in enumerate(lengths) for part in (segment(i, length), End(i, None))]
    found = list(pools(parts, seconds=20.0))
    assert [part.recording for pool in found for part in pool] == [part.recording for part in parts]
    for pool in found:
        assert sum(len(part.features) for part in pool[:-1] if isinstance(part, Segment)) < 2000


@pytest.mark.parametrize("sampling_rate", [0, -1, 768_001, 2**31 - 1, 16000.5, math.nan, math.inf, "16000", None])
def test_sampling_rates_that_cannot_be_are_refused(sampling_rate: Any) -> None:
    (end,) = read_segments([Samples(np.zeros(1000, dtype=np.float32), sampling_rate)], frames, longest=30.0)
    assert isinstance(end, End)
    assert f"a sampling rate of {sampling_rate} Hz: give" in str(end.error)


def test_every_recording_ends_once_whatever_is_in_it() -> None:
    silence = np.zeros(70_000, dtype=np.float32)
    recordings = [Samples(silence[:n], 1000) for n in (0, 10, 1000, 70_000)]
    parts = list(read_segments([*recordings, Samples(silence[None], 1000), "nowhere.wav"], frames, longest=30.0))
    ends = [part for part in parts if isinstance(part, End)]
    assert [end.recording for end in ends] == list(range(6))
    assert [type(end.error) for end in ends] == [type(None)] * 4 + [ValueError, FileNotFoundError]
    lengths = [sum(len(p.features) for p in parts if isinstance(p, Segment) and p.recording == i) for i in range(4)]
    assert lengths[:3] == [0, 0, 100]
    assert 6990 <= lengths[3] <= 7000
    starts = [part.start for part in parts if isinstance(part, Segment) and part.recording == 3]
    assert starts == sorted(set(starts))
    assert starts[0] == 0.0


RATE = 1000


def noise(seconds: float, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=int(seconds * RATE)).astype(np.float32)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 130_000), st.integers(500, 20_000), st.sampled_from([1000, 1103]), st.floats(5, WHOLE))
def test_segments_are_the_recording_in_order_and_none_is_too_long(
    milliseconds: int, block: int, rate: int, longest: float
) -> None:
    samples = noise(milliseconds * rate / 1e6)
    blocks = (samples[first : first + block] for first in range(0, len(samples), block))
    segments = list(cut_at_silences(blocks, rate, longest=longest))
    assert np.array_equal(np.concatenate([samples[:0], *(part for _, part in segments)]), samples)
    ends = [first + len(part) for first, part in segments]
    assert [first for first, _ in segments] == [0, *ends][: len(segments)]
    if len(samples) <= WHOLE * rate:
        assert len(segments) <= 1
    else:
        assert all(len(part) <= longest * rate for _, part in segments[:-1])
        assert min(len(part) for _, part in segments) >= REST * rate / 2
        cuts = len(segments) - 1
        assert len(segments[-1][1]) <= max(longest, WHOLE - (cuts - 1) * longest * SHRINKING) * rate


@settings(deadline=None, max_examples=30)
@given(st.floats(5, WHOLE), st.integers(0, 9), st.booleans())
def test_the_number_of_segments_grows_by_one_at_a_time(longest: float, seed: int, pauses: bool) -> None:
    """30.0 s are one segment and 30.1 s two, whatever a model was trained on; minutes are cut as an hour is."""
    samples = noise(150, seed=seed)
    if pauses:
        samples *= np.repeat(np.random.default_rng(seed).choice([0.01, 1.0], p=[0.2, 0.8], size=300), RATE // 2)
    counts = [
        len(list(cut_at_silences([samples[: int(seconds * RATE)]], RATE, longest=longest)))
        for seconds in np.arange(29.0, 150.0, 0.5)
    ]
    assert counts[:3] == [1, 1, 1] and counts[3] == 2
    assert set(np.diff(counts)) <= {0, 1}
    assert counts[-1] >= 150 / longest
    parts = [len(part) for _, part in cut_at_silences([noise(600, seed=seed)], RATE, longest=longest)]
    assert max(parts) <= longest * RATE, "after ten minutes the rest that stays whole is a segment, too"


@pytest.mark.parametrize("longest", [5.0, WHOLE])
def test_what_is_short_enough_is_not_cut(longest: float) -> None:
    samples = noise(WHOLE)
    ((first, part),) = cut_at_silences(np.split(samples, 3), RATE, longest=longest)
    assert first == 0
    assert np.array_equal(part, samples)


@pytest.mark.parametrize("pause", [11.0, 18.3, 29.0])
def test_cuts_lie_in_the_pause(pause: float) -> None:
    samples = noise(70)
    for begin in (pause, pause + 25):
        samples[int(begin * RATE) : int((begin + 0.5) * RATE)] *= 0.01
    starts = [first / RATE for first, _ in cut_at_silences([samples], RATE)]
    assert any(abs(start - (pause + 0.25)) < 0.15 for start in starts)


@pytest.mark.parametrize("longest", [5.0, 11.7, WHOLE])
def test_cuts_do_not_depend_on_how_the_samples_come(longest: float) -> None:
    for seconds in (31, 95):
        samples = noise(seconds)
        whole = [first for first, _ in cut_at_silences([samples], RATE, longest=longest)]
        assert [first for first, _ in cut_at_silences(np.split(samples, seconds), RATE, longest=longest)] == whole


def test_every_cut_lies_in_a_pause_where_there_is_one() -> None:
    """Half a second of pause after each two seconds of speech."""
    samples = noise(120) * np.tile(np.repeat([1, 1, 1, 1, 0.01], RATE // 2), 48)
    starts = [first / RATE for first, _ in cut_at_silences([samples], RATE, longest=6.0)]
    assert len(starts) > 15
    assert all(start % 2.5 >= 2.0 for start in starts[1:])


def test_segments_are_as_long_as_most_of_what_a_model_was_trained_on() -> None:
    assert usual_length([*[10.0] * 95, *[29.0] * 4]) == 10.0
    assert usual_length(np.linspace(5, 25, 101).tolist()) == 24.0
    assert usual_length([2.0]) == 5.0
    assert usual_length([40.0] * 3) == WHOLE


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
    with pytest.raises(ValueError, match="samples are int16: give floats from -1 to 1"):
        tiny_bundle.transcribe((tones * 32768).astype(np.int16), sampling_rate=16000)
    as_tensor = tiny_bundle.transcribe(torch.from_numpy(tones), sampling_rate=16000)  # type: ignore[arg-type]
    assert as_tensor == tiny_bundle.transcribe(tones, sampling_rate=16000)
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
