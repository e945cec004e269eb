from __future__ import annotations

from typing import Any

import pytest

from shared_moe_conformer.config import DataConfig


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
