from __future__ import annotations

import numpy as np
import pytest

from shared_moe_conformer.data.levels import complaints, measure_level

RATE = 8000


@pytest.fixture
def tone() -> np.ndarray:
    """A second of a tone at half of full scale."""
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)[np.newaxis]


def test_a_tone_is_neither_clipped_nor_silent(tone: np.ndarray) -> None:
    level = measure_level(tone, RATE)
    assert level.peak == pytest.approx(0.5, abs=0.01)
    assert level.clipped_share == level.silent_share == 0 and complaints(level) == []


def test_clipping_is_counted_in_samples(tone: np.ndarray) -> None:
    level = measure_level((4 * tone).clip(-1, 1), RATE)
    assert level.clipped_share == pytest.approx(2 / 3, abs=0.02)  # |2 sin| > 1 for two thirds of a period
    assert complaints(level)[0].startswith("clipped: 66") or complaints(level)[0].startswith("clipped: 67")


def test_silence_is_counted_in_frames(tone: np.ndarray) -> None:
    """The tone has -9 dB; a tenth of it is made 44 dB quieter, the rest 54."""
    parts = np.split(tone, [RATE // 10], axis=1)
    level = measure_level(np.concatenate([10**-2.2 * parts[0], 10**-2.7 * parts[1]], axis=1), RATE)
    assert level.silent_share == pytest.approx(0.9)
    assert complaints(level) == ["mostly silence: 90% of it is below -60 dB"]


def test_a_recording_shorter_than_a_frame_has_a_level() -> None:
    assert measure_level(np.full((1, 20), 0.1), RATE).silent_share == 1
    assert measure_level(np.zeros((1, 0)), RATE).peak == 0
