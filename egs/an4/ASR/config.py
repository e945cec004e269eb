"""The named configs of AN4: one small conformer, unshared, shared, and shared with experts."""

from __future__ import annotations

from shared_moe_conformer.sizes import CONDITIONS, recipe_configs

CONFIGS = recipe_configs(
    hours=0.65, corpus="an4", language="en", licence="BSD-2-Clause", vocab_size=64, changes=CONDITIONS
)
