from __future__ import annotations

from typing import Any

import pytest

from shared_moe_conformer.config import FeatureConfig


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
