"""The named configs of the game's dialogues, `<size>-<language>`: the same sizes for each language."""

from __future__ import annotations

from shared_moe_conformer.sizes import recipe_configs

VOCAB_SIZE = 64
LANGUAGES = {"nl": 1.1, "cs": 1.4}
"""Hours for training."""

CONFIGS = {
    f"{size}-{language}": config
    for language, hours in LANGUAGES.items()
    for size, config in recipe_configs(
        hours=hours,
        corpus=f"fillets-ng-data-{language}",
        language=language,
        licence="GPL-2.0-only",
        lang_dir=f"data/{language}/lang_bpe_{VOCAB_SIZE}",
        vocab_size=VOCAB_SIZE,
        changes={
            "manifest_dir": f"data/{language}/fbank",
            "subsampling_channels": 16,
            "dropout": 0.05,
            "num_time_masks": 0,  # in as few updates as these, what is learned is not yet learned by heart
            "num_freq_masks": 0,
            "max_time_mask_fraction": 0.15,
            "max_freq_mask_bins": 20,
            "join_probability": 0.0,
            "silence_probability": 0.0,
            "num_epochs": 10,
            "warmup_steps": 200,
            "loss_warmup_steps": 600,
        },
    ).items()
}
