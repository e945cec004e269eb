from __future__ import annotations

from typing import Any

import pytest

from shared_moe_conformer.config import ModelConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 1}, "vocab_size"),
        ({"transducer_backend": "cuda"}, "auto, k2, torch"),
        ({"decoder_dim": 0}, "decoder_dim is 0"),
        ({"joiner_dim": 0}, "joiner_dim is 0"),
    ],
)
def test_networks_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**options)
