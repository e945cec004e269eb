"""The game's recordings: Ogg Vorbis of one or two channels at 22 or 44 kHz, to FLAC of one channel at 16 kHz."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from shared_moe_conformer.data import features

SAMPLING_RATE = 16000
SILENCE_DB = -40.0
"""Quieter frames are silence, relative to the loudest frame."""
KEPT_SILENCE = 0.3
"""Seconds of silence that stay after the last word; the Dutch clips have 0.8."""
FRAME_SECONDS = 0.02


def duration_of(path: Path) -> float:
    """Seconds of a recording; 0 for an empty file."""
    if path.stat().st_size == 0:
        return 0.0
    try:
        return float(soundfile.info(str(path)).duration)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path} is not a readable recording: unpack the packages again") from error


def mono_at_16_khz(source: Path) -> np.ndarray:
    """The mean of the channels, without the last silence."""
    samples, rate = soundfile.read(str(source), dtype="float32", always_2d=True)
    return without_last_silence(resample(samples.mean(axis=1), rate))


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """The samples at 16 kHz; scaled down where resampling overshoots what FLAC can hold."""
    resampled = features.resample(samples, rate, SAMPLING_RATE)
    return resampled / max(1.0, float(np.abs(resampled).max(initial=0.0)))


def without_last_silence(samples: np.ndarray) -> np.ndarray:
    """The samples up to `KEPT_SILENCE` after the last frame that is louder than silence."""
    size = round(FRAME_SECONDS * SAMPLING_RATE)
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    power = (frames**2).mean(axis=1)
    loud = np.flatnonzero(power > power.max(initial=0.0) * 10 ** (SILENCE_DB / 10))
    if not len(loud):
        return samples
    return samples[: (loud[-1] + 1) * size + round(KEPT_SILENCE * SAMPLING_RATE)]
