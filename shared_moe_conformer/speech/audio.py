"""Audio files to samples and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from shared_moe_conformer.config import require

BLOCK_SECONDS = 10
"""Audio that is read at once."""
SUFFIXES = frozenset(
    {".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".rf64", ".w64", ".wav"}
)
"""Of the audio files that are looked for in folders."""


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
        file = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as audio: {error}") from error
    return file.samplerate, _blocks(file, path)


def stream_samples(samples: np.ndarray, sampling_rate: int) -> Iterator[np.ndarray]:
    """Samples (num_samples,) in blocks of 10 seconds, as a file's would be.

    Raises:
      ValueError: not one channel.
    """
    require(samples.ndim == 1, f"samples have the shape {samples.shape}: give one channel, (num_samples,)")
    length = BLOCK_SECONDS * sampling_rate
    return (samples[first : first + length] for first in range(0, len(samples), length))


def seconds_of(path: Path) -> float:
    """Duration of an audio file as its header says; 0 where it has none."""
    try:
        return float(soundfile.info(path).duration)
    except (OSError, soundfile.LibsndfileError, RuntimeError, TypeError):
        return 0.0


def write_wav(path: Path, samples: np.ndarray, *, sampling_rate: int) -> None:
    """Write a mono wav file of 16 bits a sample; samples beyond -1..1 are scaled down together."""
    peak = max(1.0, float(np.abs(samples).max(initial=0.0)))
    soundfile.write(path, samples / peak, sampling_rate, subtype="PCM_16", format="WAV")


def _blocks(file: soundfile.SoundFile, path: Path) -> Iterator[np.ndarray]:
    with file:
        try:
            while len(block := file.read(BLOCK_SECONDS * file.samplerate, dtype="float32", always_2d=True)):
                yield block.mean(axis=1)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise ValueError(f"{path} cannot be read as audio: {error}") from error
