"""Expert feed-forwards of a given size, and the options that change how they compute."""

from __future__ import annotations

from typing import Any

from shared_moe_conformer.config import EncoderConfig
from shared_moe_conformer.model.conformer import FeedForward
from shared_moe_conformer.model.moe import MoeFeedForward

WITH_ALL = {
    "router_gates": "sigmoid",
    "gate_scale": 0.7,
    "expert_dim": 5,
    "expert_norm": True,
    "common_expert_dim": 7,
    "top_k": 2,
}
"""Every option of experts at once, none as it is by default."""


def make_moe(encoder_dim: int, feed_forward_dim: int, **options: Any) -> MoeFeedForward:
    """The experts of an encoder of one head."""
    sizes = {"encoder_dim": encoder_dim, "feed_forward_dim": feed_forward_dim, "num_attention_heads": 1}
    config = EncoderConfig(**sizes, **options)
    common_dim = config.common_expert_dim
    return MoeFeedForward(config, FeedForward(encoder_dim, common_dim) if common_dim else None)
