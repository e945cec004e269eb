"""The configs that a recipe compares: how much of an encoder is shared, and whether experts are in it."""

from __future__ import annotations

import dataclasses
from typing import Any

from shared_moe_conformer.config import Config, replace_fields

CHUNK_SIZES = (0, 0, 4, 8, 16, 32)
"""Chunks of streaming models, in encoder frames of 40 ms; every third batch is of whole utterances."""
LEFT_CONTEXTS = (64, 128)
"""Left contexts of streaming models, in encoder frames: 2.6 and 5.1 seconds."""


def named_sizes(base: Config, *, small: dict[str, Any]) -> dict[str, Config]:
    """The configs full, shared, base, merged, streaming and small.

    Args:
      base: layers that share blocks with experts.
      small: what differs for devices with little memory.

    Returns:
      full: every layer has its own weights, and no experts; shared: base without experts; base; merged: two stored sets
      of a slightly narrower block, without experts; streaming: base, trained on chunks of 160 ms to 1.28 s and on whole
      utterances; small.
    """
    changes: dict[str, dict[str, Any]] = {
        "full": dataclasses.asdict(base.model.encoder.unshared()) | {"experts_in": "none", "expert_blocks": ""},
        "shared": {"experts_in": "none"},
        "base": {},
        "merged": {
            "experts_in": "none",
            "merged_sets": 2,
            "feed_forward_dim": narrower(base.model.encoder.feed_forward_dim),
        },
        "streaming": {"chunk_sizes": CHUNK_SIZES, "left_contexts": LEFT_CONTEXTS},
        "small": small,
    }
    return {name: replace_fields(base, change) for name, change in changes.items()}


def narrower(feed_forward_dim: int) -> int:
    """Channels of a feed-forward in a block that is stored twice: the two need about a third of six unshared layers."""
    return feed_forward_dim * 7 // 8
