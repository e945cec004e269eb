"""The game's recordings as FLAC at the rate of the features, and the pauses between subtitles."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import soundfile

from shared_moe_conformer.config import require
from shared_moe_conformer.data.features import resample

SEARCHED = 0.25
"""Seconds on each side of the game's time in which the quietest frame is looked for; the game's times are rounded."""
FRAME, HOP = 0.05, 0.01
"""Seconds."""


def read_ogg(data: bytes, name: str, rate: int) -> np.ndarray:
    """The samples of a recording at another rate, from -1 to 1.

    Raises:
      ValueError: it cannot be read, or has several channels.
    """
    try:
        samples, source_rate = soundfile.read(io.BytesIO(data), dtype="float32")
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{name} is not a readable recording ({error}): unpack the packages again") from error
    require(samples.ndim == 1, f"{name} has {samples.shape[-1]} channels: one is expected")
    return np.clip(resample(samples, source_rate, rate), -1, 1)


def in_pauses(times: Sequence[float], samples: np.ndarray, rate: int) -> list[float]:
    """Each time moved to the middle of the quietest frame near it; ascending times stay so."""
    return [_quietest(time, samples, rate) for time in times]


def _quietest(time: float, samples: np.ndarray, rate: int) -> float:
    size, hop = round(FRAME * rate), round(HOP * rate)
    first = max(0, round((time - SEARCHED) * rate))
    last = min(len(samples), round((time + SEARCHED) * rate))
    starts = range(first, last - size + 1, hop)
    if not starts:
        return time
    power = [float(np.square(samples[start : start + size]).sum()) for start in starts]
    start = starts[int(np.argmin(power))]
    return (start + size / 2) / rate
