"""The named configs of LibriSpeech: `base` and what it is compared with on 960 hours, and `base-100`, .. on 100."""

from __future__ import annotations

from shared_moe_conformer.sizes import recipe_configs

VOCAB_SIZE = 500
SETS = {"": (960, "librispeech"), "-100": (100, "librispeech-100")}
"""Hours and name of the training set, by the ending of the configs' names."""

CONFIGS = {
    size + ending: config
    for ending, (hours, corpus) in SETS.items()
    for size, config in recipe_configs(
        hours=hours,
        corpus=corpus,
        language="en",
        licence="CC-BY-4.0",
        lang_dir=f"data/{hours}/lang_bpe_{VOCAB_SIZE}",
        vocab_size=VOCAB_SIZE,
        changes={
            "manifest_dir": f"data/{hours}/fbank",
            "dev_split": "dev-clean",
            "test_splits": ("test-clean", "test-other", "dev-clean", "dev-other"),
        },
    ).items()
}
