"""The named configs of asterisk: one small conformer, unshared, shared, and shared with experts."""

from __future__ import annotations

from shared_moe_conformer.sizes import CONDITIONS, recipe_configs

VOCAB_SIZE = 64

CONFIGS = recipe_configs(
    hours=0.27,
    changes={
        "corpus": "asterisk-core-sounds-en",
        "language": "en",
        "licence": "CC-BY-SA-3.0",
        "lang_dir": f"data/lang_bpe_{VOCAB_SIZE}",
        "vocab_size": VOCAB_SIZE,
        "sampling_rate": 8000,  # the recordings' own: mel bins above 4 kHz would hold nothing until a microphone comes
        **CONDITIONS,
    },
)
