"""How loud a recording is, and what a listener would complain about."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

FULL_SCALE = 0.999
"""Samples from here on are taken for clipped, where there are many."""
MAX_CLIPPED_SHARE = 1e-3
SILENCE_DB = -60.0
"""Frames of 10 ms below this, relative to full scale, are silent."""
MAX_SILENT_SHARE = 0.8


class Level(NamedTuple):
    """What the samples of a recording are like."""

    peak: float
    """Largest absolute value; 1 is full scale."""
    clipped_share: float
    """Share of samples at full scale."""
    silent_share: float
    """Share of frames of 10 ms that are silent."""


def measure_level(samples: np.ndarray, sampling_rate: int) -> Level:
    """The level of finite samples (channels, samples)."""
    size = np.abs(samples)
    length = max(sampling_rate // 100, 1)
    frames = size[..., : size.shape[-1] // length * length].reshape(-1, length)
    power = np.square(frames, dtype=np.float64).mean(axis=1) if len(frames) else np.zeros(1)
    clipped = np.count_nonzero(size >= FULL_SCALE) / max(size.size, 1)
    silent = float((power < 10 ** (SILENCE_DB / 10)).mean())
    return Level(float(size.max(initial=0.0)), clipped, silent)


def complaints(level: Level) -> list[str]:
    """What is not good and yet can be trained on, for reading."""
    found = []
    if level.clipped_share > MAX_CLIPPED_SHARE:
        found.append(f"clipped: {level.clipped_share:.1%} of the samples are at full scale")
    if level.silent_share > MAX_SILENT_SHARE:
        found.append(f"mostly silence: {level.silent_share:.0%} of it is below {SILENCE_DB:.0f} dB")
    return found
