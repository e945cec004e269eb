"""The named configs of asterisk: one small conformer, unshared, shared, and shared with experts."""

from __future__ import annotations

from shared_moe_conformer.sizes import CONDITIONS, recipe_configs

SAMPLING_RATE = 8000
"""The recordings' own: mel bins above 4 kHz would hold nothing until a microphone comes."""
CONDITIONS_HERE = {**CONDITIONS, "reverb_probability": 0.0, "band_limit_probability": 0.0}
"""Nothing lies above these bands, and for rooms, 16 minutes of one voice are too few (README.md)."""

CONFIGS = recipe_configs(
    hours=0.27,
    corpus="asterisk-core-sounds-en",
    language="en",
    licence="CC-BY-SA-3.0",
    vocab_size=64,
    changes={"sampling_rate": SAMPLING_RATE, **CONDITIONS_HERE},
)
