from __future__ import annotations

from typing import Any

import pytest

from shared_moe_conformer.config import FRAME_SHIFT, MIN_NUM_FRAMES, FeatureConfig, frame_centre


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling_rate": 16}, "sampling_rate"),
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
