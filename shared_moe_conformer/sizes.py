"""The configs that a recipe compares: how much of an encoder is shared, and whether experts are in it."""

from __future__ import annotations

import dataclasses
from typing import Any

from shared_moe_conformer.config import Config, replace_fields


def named_sizes(base: Config, *, small: dict[str, Any]) -> dict[str, Config]:
    """The configs full, shared, base and small.

    Args:
      base: layers that share blocks with experts.
      small: what differs for devices with little memory.

    Returns:
      full: every layer has its own weights, and no experts; shared: base without experts; base; small.
    """
    changes: dict[str, dict[str, Any]] = {
        "full": dataclasses.asdict(base.model.encoder.unshared()) | {"experts_in": "none", "expert_blocks": ""},
        "shared": {"experts_in": "none"},
        "base": {},
        "small": small,
    }
    return {name: replace_fields(base, change) for name, change in changes.items()}
