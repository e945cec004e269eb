"""The named configs of speechocean762: one small conformer, unshared, shared, and shared with experts."""

from __future__ import annotations

from shared_moe_conformer.sizes import CONDITIONS, recipe_configs

CONFIGS = recipe_configs(
    hours=2.6,
    corpus="speechocean762",
    language="en",
    licence="LicenseRef-speechocean762",
    vocab_size=128,
    changes=CONDITIONS,
)
