"""Audio files to samples and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from shared_moe_conformer.config import require

BLOCK_SECONDS = 10
"""Audio that is read at once."""
MAX_SAMPLING_RATE = 768_000
"""In Hz; resampling takes memory in proportion, and a file's header may say anything."""
UNKNOWN_LENGTH = 1 << 62
"""Samples from which on libsndfile means that it does not know."""
SUFFIXES = frozenset(
    {".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".rf64", ".w64", ".wav"}
)
"""Of the audio files that are looked for in folders."""


class _Forward(soundfile.SoundFile):
    """A file that is read from its beginning to its end, also where its header does not tell its length.

    The base class seeks after each read, which fails at the end of a FLAC file that was written to a pipe.
    """

    def seekable(self) -> bool:
        return self.frames < UNKNOWN_LENGTH and super().seekable()


def read_audio(path: Path) -> tuple[np.ndarray, int]:
    """The samples (num_samples,), float32 in -1..1, mean of the channels, and their sampling rate in Hz.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not an audio file that libsndfile can read.
    """
    sampling_rate, blocks = stream_audio(path)
    return np.concatenate([np.zeros(0, dtype=np.float32), *blocks]), sampling_rate


def stream_audio(path: Path) -> tuple[int, Iterator[np.ndarray]]:
    """The sampling rate in Hz, and the samples as `read_audio` gives them, in blocks of 10 seconds.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not an audio file that libsndfile can read; also while the blocks are read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no audio file {path}")
    try:
        file = _Forward(path)
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as audio: {error}") from error
    _require_possible(file.samplerate)
    return file.samplerate, _blocks(file, path)


def stream_samples(samples: np.ndarray, sampling_rate: int) -> Iterator[np.ndarray]:
    """Samples (num_samples,) in blocks of 10 seconds, as a file's would be.

    Raises:
      ValueError: not one channel, or no sampling rate.
    """
    _require_possible(sampling_rate)
    require(samples.ndim == 1, f"samples have the shape {samples.shape}: give one channel, (num_samples,)")
    length = BLOCK_SECONDS * sampling_rate
    return (samples[first : first + length] for first in range(0, len(samples), length))


def seconds_of(path: Path) -> float:
    """Duration of an audio file as its header says; 0 where it does not, as in FLAC that was written to a pipe."""
    try:
        info = soundfile.info(path)
    except (OSError, soundfile.LibsndfileError, RuntimeError, TypeError):
        return 0.0
    return float(info.duration) if info.frames < UNKNOWN_LENGTH else 0.0


def require_short(path: Path, *, seconds: float) -> float:
    """Duration of an audio file, whatever its header says: all of it is read, but never more than what may be.

    Raises:
      FileNotFoundError: no such file.
      ValueError: longer than so many seconds, or no audio.
    """
    sampling_rate, blocks = stream_audio(path)
    duration = 0.0
    for block in blocks:
        duration += len(block) / sampling_rate
        require(duration <= seconds, f"{path} lasts more than {seconds / 60:g} minutes")
    return duration


def write_wav(path: Path, samples: np.ndarray, *, sampling_rate: int) -> None:
    """Write a mono wav file of 16 bits a sample; samples beyond -1..1 are scaled down together."""
    peak = max(1.0, float(np.abs(samples).max(initial=0.0)))
    soundfile.write(path, samples / peak, sampling_rate, subtype="PCM_16", format="WAV")


def _require_possible(sampling_rate: int) -> None:
    fits = 0 < sampling_rate <= MAX_SAMPLING_RATE
    require(fits, f"a sampling rate of {sampling_rate} Hz: give audio of at most {MAX_SAMPLING_RATE} Hz")


def _blocks(file: _Forward, path: Path) -> Iterator[np.ndarray]:
    with file:
        try:
            while len(block := file.read(BLOCK_SECONDS * file.samplerate, dtype="float32", always_2d=True)):
                yield block.mean(axis=1)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise ValueError(f"{path} cannot be read as audio: {error}") from error
