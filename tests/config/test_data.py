from __future__ import annotations

from typing import Any

import pytest

from shared_moe_conformer.config import FRAME_SHIFT, MIN_NUM_FRAMES, DataConfig, FeatureConfig, frame_centre


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling_rate": 16}, "sampling_rate"),
        ({"sampling_rate": 11025}, "sampling_rate is 11025 Hz: give 8000 to 192000, in hundreds"),
        ({"sampling_rate": 10**9}, "sampling_rate"),
        ({"feature_extractor": "sox"}, "feature_extractor"),
    ],
)
def test_features_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureConfig(**options)


def test_an_encoder_frame_is_centred_on_the_feature_frames_that_it_sees() -> None:
    """Encoder frame t sees the feature frames 4 t to 4 t + 6; feature frame i is centred at 10 i + 5 ms."""
    for t in (0, 1, 250):
        seen = [FRAME_SHIFT * i + FRAME_SHIFT / 2 for i in range(4 * t, 4 * t + MIN_NUM_FRAMES)]
        assert frame_centre(t) == pytest.approx(sum(seen) / len(seen))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_freq_mask_bins": -1}, "max_freq_mask_bins is -1"),
        ({"max_duration": 0.0}, "max_duration"),
    ],
)
def test_data_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gain_probability": 2.0}, "gain_probability is 2.0: give a number from 0 to 1"),
        ({"gain_range": (6.0, -30.0)}, "gain_range is .6.0, -30.0.: give the lowest and the highest, in decibel"),
        ({"made_noise_snr": (6.0,)}, "made_noise_snr .* in decibel, e.g. 5,30"),
        ({"reverb_time": (0.0, 1.0)}, "reverb_time .* in seconds, e.g. 0.1,0.8"),
        ({"band_limit": (8.0, 9.0)}, "band_limit .* in Hz, e.g. 3000,7000"),
        ({"made_noises": ("white", "loud")}, "made_noises is white,loud: give one or more of white,pink,hum,babble"),
        ({"made_noises": ()}, "made_noises is : give one or more"),
    ],
)
def test_conditions_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**options)
