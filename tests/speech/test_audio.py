from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from shared_moe_conformer.speech.audio import (
    read_audio,
    require_short,
    seconds_of,
    stream_audio,
    stream_samples,
    write_wav,
)


@pytest.fixture
def samples() -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.9, 0.9, 1000).astype(np.float32)


def test_a_wav_round_trip_loses_less_than_one_step_of_16_bits(tmp_path: Path, samples: np.ndarray) -> None:
    write_wav(tmp_path / "a.wav", samples, sampling_rate=8000)
    read, sampling_rate = read_audio(tmp_path / "a.wav")
    assert sampling_rate == 8000
    assert read.dtype == np.float32
    assert np.abs(read - samples).max() <= 2**-15


def test_loud_samples_are_scaled_not_clipped(tmp_path: Path, samples: np.ndarray) -> None:
    write_wav(tmp_path / "a.wav", samples * 2, sampling_rate=8000)
    read, _ = read_audio(tmp_path / "a.wav")
    assert np.corrcoef(read, samples)[0, 1] > 0.9999


def test_channels_are_averaged(tmp_path: Path, samples: np.ndarray) -> None:
    soundfile.write(tmp_path / "a.flac", np.stack([samples, np.zeros_like(samples)], axis=1), 8000)
    read, _ = read_audio(tmp_path / "a.flac")
    assert read.shape == samples.shape
    assert np.allclose(read, samples / 2, atol=1e-4)


def test_empty_recording(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.zeros(0, dtype=np.float32), sampling_rate=8000)
    assert read_audio(tmp_path / "a.wav")[0].shape == (0,)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"not audio at all" * 100, b"RIFF\x00\x00\x00\x00WAVEfmt "])
def test_what_is_no_audio_is_refused_with_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read as audio") as caught:
        read_audio(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no audio file"):
        read_audio(tmp_path / "a.wav")


def test_blocks_are_the_whole_and_none_is_longer_than_ten_seconds(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, 25_000).astype(np.float32)
    soundfile.write(tmp_path / "a.flac", np.stack([samples, -samples / 2], axis=1), 1000)
    sampling_rate, blocks = stream_audio(tmp_path / "a.flac")
    read = list(blocks)
    assert sampling_rate == 1000
    assert [len(block) for block in read] == [10_000, 10_000, 5_000]
    assert np.array_equal(np.concatenate(read), read_audio(tmp_path / "a.flac")[0])
    assert np.abs(np.concatenate(read) - samples / 4).max() < 2**-14
    assert [len(block) for block in stream_samples(samples, 1000)] == [10_000, 10_000, 5_000]


def test_seconds_come_from_the_header(tmp_path: Path, samples: np.ndarray) -> None:
    write_wav(tmp_path / "a.wav", samples, sampling_rate=8000)
    assert seconds_of(tmp_path / "a.wav") == 0.125
    (tmp_path / "b.wav").write_text("no")
    assert seconds_of(tmp_path / "b.wav") == seconds_of(tmp_path / "missing.wav") == 0.0


def flac_of_a_pipe(path: Path, *, seconds: int) -> Path:
    """Silence, whose header does not tell how much, as if it had been written to a pipe."""
    soundfile.write(path, np.zeros(seconds * 8000, dtype=np.int16), 8000, format="FLAC")
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # of STREAMINFO's 36 bits for the number of samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    return path


def test_a_length_that_the_header_does_not_tell_is_read(tmp_path: Path) -> None:
    path = flac_of_a_pipe(tmp_path / "pipe.flac", seconds=30)
    assert seconds_of(path) == 0
    assert require_short(path, seconds=30) == 30
    assert len(read_audio(path)[0]) == 30 * 8000
    with pytest.raises(ValueError, match=r"pipe\.flac lasts more than 0\.25 minutes"):
        require_short(path, seconds=15)
