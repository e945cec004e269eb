"""The named configs of speechocean762: one small conformer, unshared, shared, and shared with experts."""

from __future__ import annotations

from shared_moe_conformer.sizes import recipe_configs

VOCAB_SIZE = 128

CONFIGS = recipe_configs(
    hours=2.6,
    changes={
        "corpus": "speechocean762",
        "language": "en",
        "licence": "LicenseRef-speechocean762",
        "lang_dir": f"data/lang_bpe_{VOCAB_SIZE}",
        "vocab_size": VOCAB_SIZE,
    },
)
