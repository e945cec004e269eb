from __future__ import annotations

from typing import Any

import pytest

from shared_moe_conformer.config import EncoderConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 9, "num_experts": 8}, "top_k is 9 of num_experts 8"),
        ({"top_k": 0}, "1 <= top_k"),
        ({"group_sizes": ()}, "group_sizes"),
        ({"group_sizes": (6, 0)}, "group_sizes"),
        ({"encoder_dim": 100, "num_attention_heads": 3}, "encoder_dim 100"),
        ({"conv_kernel_size": 4}, "odd"),
        ({"experts_in": "third"}, "none, first, second, both"),
        ({"dropout": 1.0}, "dropout"),
        ({"balancing_bias_rate": -0.1}, "balancing_bias_rate"),
        ({"low_rank_delta": 300}, "0 to encoder_dim, 256"),
    ],
)
def test_an_encoder_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderConfig(**options)
