"""Audio files to samples and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile


def read_audio(path: Path) -> tuple[np.ndarray, int]:
    """The samples (num_samples,), float32 in -1..1, mean of the channels, and their sampling rate in Hz.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not an audio file that libsndfile can read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no audio file {path}")
    try:
        samples, sampling_rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as audio: {error}") from error
    return samples.mean(axis=1), sampling_rate


def write_wav(path: Path, samples: np.ndarray, *, sampling_rate: int) -> None:
    """Write a mono wav file of 16 bits a sample; samples beyond -1..1 are scaled down together."""
    peak = max(1.0, float(np.abs(samples).max(initial=0.0)))
    soundfile.write(path, samples / peak, sampling_rate, subtype="PCM_16", format="WAV")
