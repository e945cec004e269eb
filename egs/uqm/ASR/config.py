"""The named configs of uqm: eight layers of 192 channels, unshared, shared, and shared with experts."""

from __future__ import annotations

from shared_moe_conformer.sizes import recipe_configs

SAMPLING_RATE = 11000
"""Nothing is recorded above 5.5 kHz. The recordings have 11,025 Hz, at which 10 ms are not a whole number of
samples: Kaldi's features would be off by half a second in the longest ones."""

CONFIGS = recipe_configs(
    hours=9,
    corpus="uqm",
    language="en",
    licence="CC-BY-NC-SA-2.5",
    vocab_size=256,
    changes={"sampling_rate": SAMPLING_RATE, "test_splits": ("test", "test-new-voices")},
)
