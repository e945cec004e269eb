"""The named configs of AN4: one small conformer, unshared, shared, and shared with experts."""

from __future__ import annotations

from shared_moe_conformer.sizes import recipe_configs

VOCAB_SIZE = 64

CONFIGS = recipe_configs(
    hours=0.65,
    changes={
        "corpus": "an4",
        "language": "en",
        "licence": "BSD-2-Clause",
        "lang_dir": f"data/lang_bpe_{VOCAB_SIZE}",
        "vocab_size": VOCAB_SIZE,
    },
)
